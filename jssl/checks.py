"""Checks the shapes and dtypes of arguments with chex, while a function is traced.

The checks read only shapes and dtypes: they cost nothing at run time and change no program.
"""

import re
from typing import Any

import chex
import jax.numpy as jnp
import numpy as np

DTYPES = {"float": jnp.floating, "int": jnp.integer, "bool": jnp.bool_}


def require_arrays(**arguments: tuple[Any, str]) -> None:
    """Checks arguments against the notation of docstrings.

    Example: ``require_arrays(logits=(logits, "float [N, K]"), labels=(labels, "int [N]"))``.

    Args:
      **arguments: name=(array, specification). None instead of an array is not checked. A
        specification is a shape in brackets, optionally after a dtype: "float", "int", "uint" (int
        without a sign) or "bool", each of any width. In the shape, a number is a size, and a name
        is one size wherever it occurs. "..." stands for any dimensions, the same wherever it
        occurs. " or []" after the shape also allows a scalar.

    Raises:
      AssertionError: an array differs from its specification. The message contains the name and
        the specification, and the names, dtypes and shapes of all arguments.
    """
    given = ", ".join(f"{name} {_describe(x)}" for name, (x, _) in arguments.items())
    sizes: dict[str, Any] = {}
    for name, (x, specification) in arguments.items():
        match = re.fullmatch(r"(?:(\w+) )?\[([^\]]*)\]( or \[\])?", specification)
        if match is None:
            raise ValueError(f"{name}: {specification!r} is no specification")
        if x is None:
            continue
        message = {
            "custom_message": f"{name} must be {specification}; given: {given}",
            "include_default_message": False,
        }
        dtype, shape, or_scalar = match.groups()
        if dtype == "uint":
            is_unsigned = jnp.issubdtype(x.dtype, jnp.unsignedinteger)
            chex.assert_type(x, x.dtype if is_unsigned else np.uint8, **message)
        elif dtype:
            chex.assert_type(x, DTYPES[dtype], **message)
        if not (or_scalar and np.ndim(x) == 0):
            dims = re.split(", *", shape) if shape else []
            chex.assert_shape(x, _expected_shape(dims, np.shape(x), sizes), **message)


def _expected_shape(
    dims: list[str], shape: tuple[int, ...], sizes: dict[str, Any]
) -> tuple[int | None, ...]:
    """The shape that `dims` requires, with None for a name of unknown size.

    If the rank is right, names that `sizes` does not have get their sizes from `shape`.
    """
    if "..." in dims:
        start = dims.index("...")
        stop = len(shape) - (len(dims) - start - 1)
        rest = sizes.setdefault("...", shape[start:stop])
        dims = [*dims[:start], *map(str, rest), *dims[start + 1 :]]
    if len(dims) == len(shape):
        for dim, size in zip(dims, shape, strict=True):
            sizes.setdefault(dim, size)
    return tuple(int(dim) if dim.isdigit() else sizes.get(dim) for dim in dims)


def _describe(x: Any) -> str:
    """Dtype and shape, such as float32[8, 128]."""
    return f"{getattr(x, 'dtype', type(x).__name__)}{list(np.shape(x))}"
