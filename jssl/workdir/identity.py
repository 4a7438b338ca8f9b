"""The identity of a run, stored in each part of its workdir.

A run gets one id when it begins. ``config.json`` holds it with the SHA-256 of the config; each
checkpoint holds both with its step (``<step>/run.json``, which the checksums cover), and
``result.json`` holds both too. So a mixture of the parts of two runs is always detected.

A workdir of an older format is refused.
"""

import hashlib
import importlib.metadata
import json
import pathlib
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from jssl.config import UserError
from jssl.data.files import Damaged, read_json
from jssl.parallel import agreement

FORMAT = 3  # of config.json
NOTE = "run.json"  # in each checkpoint
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# Flags of JAX that change the numbers of a step; a run keeps their values from its beginning.
NUMBERS = ("jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable")
# These may change when a run is started again, but are equal in all its processes.
LOCAL = ("jax_default_matmul_precision", "jax_numpy_dtype_promotion")


class Mark(NamedTuple):
    """The run that wrote a checkpoint.

    Attributes:
      run: the id of the run.
      digest: the SHA-256 of its config.
      earlier: the digests of its configs before it was extended.
    """

    run: str
    digest: str
    earlier: tuple[str, ...] = ()


def new_run() -> str:
    """Returns a new id, the same on all processes."""
    return agreement.first(lambda: uuid.uuid4().hex)


def digest(config: Mapping[str, Any], data_info: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a stored config and the stored facts about its data.

    Both are nested dicts of JSON values.
    """
    text = json.dumps([config, data_info], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def numbers() -> dict[str, Any]:
    """Returns the flags of JAX that a run keeps."""
    return {name: getattr(jax.config, name) for name in NUMBERS if hasattr(jax.config, name)}


def packages() -> dict[str, str]:
    """Returns the versions of the packages that compute and store."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def code() -> str:
    """Returns the start of the SHA-256 of the source files of jssl."""
    root = pathlib.Path(__file__).parent.parent
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return total.hexdigest()[:16]


def facts() -> dict[str, Any]:
    """Returns versions and flags that must be equal in all processes of a run."""
    flags = {name: getattr(jax.config, name, None) for name in NUMBERS + LOCAL}
    return packages() | flags | {"the source of jssl": code()}


def mark_of(stored: Mapping[str, Any]) -> Mark:
    """Returns the mark of the run that the content of a config.json describes."""
    earlier = tuple(str(config["digest"]) for config in stored["earlier"])
    return Mark(str(stored["run"]), str(stored["digest"]), earlier)


def check_stored(path: pathlib.Path, stored: Any) -> None:
    """Checks the content of config.json at `path`.

    Raises:
      Damaged: jssl did not write it so.
      UserError: it is of another format.
    """
    if not isinstance(stored, dict) or not isinstance(stored.get("config"), dict):
        raise Damaged(path, "it is not what jssl writes")
    form = stored.get("format", 1)
    if form != FORMAT:
        raise UserError(
            f"{path} is of format {form!r}, and this jssl reads and writes {FORMAT}; use the jssl "
            "that wrote it, or another --workdir"
        )
    try:
        mark = mark_of(stored)
        steps = [config["steps"] for config in stored["earlier"]]
        kinds = {"numbers": dict, "data": str, "data_info": dict}
        if not all(isinstance(stored[key], kind) for key, kind in kinds.items()):
            raise TypeError("another type")
        if not all(type(step) is int for step in steps):
            raise TypeError("another type")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(path, f"it is not what jssl writes: {error}") from None
    if mark.digest != digest(stored["config"], stored["data_info"]):
        raise Damaged(path, "its config was changed after the run began; give keys by --config.KEY")


def note(mark: Mark | None, step: int, passed: list[list[int]]) -> dict[str, Any]:
    """Returns the note of a checkpoint; `passed` as in `jssl.training.rollback`."""
    run, config = (mark.run, mark.digest) if mark else ("", "")
    return {"run": run, "digest": config, "step": step, "passed": passed}


def check_note(folder: pathlib.Path, step: int, mark: Mark | None) -> dict[str, Any]:
    """Reads and checks the note of a checkpoint.

    Args:
      folder: the folder of the checkpoint.
      step: the step after which the folder is named.
      mark: the run to which it must belong; None: any.

    Returns:
      The note; {} if there is none and `mark` is None.

    Raises:
      Damaged: the note is missing, or of another step or another run.
    """
    path = folder / NOTE
    if not path.exists():
        if mark is None:
            return {}
        raise Damaged(folder, f"it does not say whose it is: {NOTE} is gone")
    content = read_json(path)
    if not isinstance(content, dict) or type(content.get("step")) is not int:
        raise Damaged(path, "it is not what jssl writes")
    if content["step"] != step:
        raise Damaged(folder, f"it holds step {content['step']}; if it is that one, rename it so")
    if mark is None:
        return content
    if content.get("run") != mark.run:
        raise Damaged(
            folder,
            f"it is of run {short(content.get('run'))}, and config.json of {short(mark.run)}",
        )
    if content.get("digest") not in (mark.digest, *mark.earlier):
        raise Damaged(folder, "it was trained with another config than config.json holds")
    return content


def short(run: Any) -> str:
    """Returns the first characters of an id, for messages."""
    return str(run)[:8] or "nobody"
