"""jssl: high-throughput self-supervised pretraining in JAX. A method is one readable file.

From Python: `recipe`, `train` and `load` (`jssl.python`).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jssl.errors import UserError
    from jssl.python import Encoder, load, recipe, train

__version__ = "0.1.0"
__all__ = ["Encoder", "UserError", "load", "recipe", "train"]


def __getattr__(name: str) -> Any:
    """Imports the parts of `__all__` when they are used, so that ``import jssl`` is fast."""
    if name == "UserError":
        from jssl import errors

        return errors.UserError
    if name in __all__:
        from jssl import python

        return getattr(python, name)
    raise AttributeError(f"module 'jssl' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted([*globals(), *__all__])
