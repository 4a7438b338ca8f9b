"""Floating-point operations of a function, counted from its jaxpr.

XLA's own cost analysis counts a scanned layer once, so it cannot give the utilization of a model
with scanned layers. These functions need no device, and abstract arguments are enough.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

from jssl.perf.accelerators import CHIPS

# jax.named_scope("augment"), ("diagnose"), ("cluster"): operations that do not count
ASIDE = re.compile(r"\b(augment|diagnose|cluster)\b")


def peak(device_kind: str) -> float | None:
    """Returns the dense bfloat16 FLOP/s of a `jax.Device.device_kind`; None if unknown."""
    chip = CHIPS.get(device_kind)
    return None if chip is None else chip.flops


def count(fn: Callable[..., Any], *args: Any) -> int:
    """Counts FLOPs of the matrix products and convolutions of ``fn(*args)``, 2 per multiply-add.

    The convention is that of published model sizes (He et al., 2016, table 1): a convolution counts
    all its taps, also those on its padding, and a backward pass twice its forward pass; zeros that
    a dilation inserts do not count. Scanned bodies count once per iteration, the largest branch of
    a `cond` counts, and the body of a `while` counts once, because its length is unknown. A
    shard_map counts on all its shards. Work that remat repeats counts again: for utilization in the
    sense of PaLM (arXiv:2204.02311, appendix B), count the function built without remat. Operations
    whose results nothing uses do not count, nor do those in one of the scopes in `ASIDE`.

    Args:
      fn: a function that JAX can trace; nothing is computed.
      *args: pytrees of arrays or `jax.ShapeDtypeStruct`s.
    """
    jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
    used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _jaxpr_flops(used)


def _jaxpr_flops(jaxpr: Any) -> int:
    counted = (eqn for eqn in jaxpr.eqns if not ASIDE.search(str(eqn.source_info.name_stack)))
    return sum(RULES.get(eqn.primitive.name, _inner)(eqn) for eqn in counted)


def _bodies(params: dict[str, Any]) -> Iterator[Any]:
    """Yields the jaxprs in the parameters of an equation."""
    for value in params.values():
        for element in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(element, core.ClosedJaxpr):
                yield element.jaxpr
            elif isinstance(element, core.Jaxpr):
                yield element


def _inner(eqn: Any) -> int:
    """Counts every inner jaxpr once: jit, remat, custom_jvp, custom_vjp, while, ..."""
    return sum(_jaxpr_flops(body) for body in _bodies(eqn.params))


def _scan(eqn: Any) -> int:
    return eqn.params["length"] * _inner(eqn)


def _cond(eqn: Any) -> int:
    return max(_jaxpr_flops(body) for body in _bodies(eqn.params))


def _shard_map(eqn: Any) -> int:
    sizes = eqn.params["mesh"].shape
    return math.prod(sizes[axis] for axis in eqn.params["newly_manual_axes"]) * _inner(eqn)


def _dot_general(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    lhs = eqn.invars[0].aval.shape
    out = eqn.outvars[0].aval.shape
    return 2 * math.prod(out) * math.prod(lhs[i] for i in contracted)


def _conv(eqn: Any) -> int:
    """Counts a convolution.

    Per axis there are out * kernel pairs. If the input is dilated, there are input * kernel pairs:
    each element that is not an inserted zero meets each tap once. Both equal the count of the
    forward convolution to which a backward pass belongs. The dilation of the kernel adds no taps to
    its shape.
    """
    lhs, rhs = (np.array(v.aval.shape) for v in eqn.invars)
    out = np.array(eqn.outvars[0].aval.shape)
    lhs_dims, rhs_dims, out_dims = eqn.params["dimension_numbers"]
    dilated = np.array(eqn.params["lhs_dilation"]) > 1
    places = np.where(dilated, lhs[list(lhs_dims[2:])], out[list(out_dims[2:])])
    taps = math.prod(int(n) for n in places * rhs[list(rhs_dims[2:])])
    # rhs_dims[1] is input features per feature group; each output feature of each output batch row
    # sees these and no more, whichever of the two group counts is above 1.
    return 2 * taps * int(rhs[rhs_dims[1]]) * int(out[out_dims[0]] * out[out_dims[1]])


def _attention(eqn: Any, products: int) -> int:
    """Counts cuDNN's fused attention, q [B, T, N, H] and k [B, S, N, H], the layout of `jax.nn`.

    It has 2 matrix products forward and 4 backward; repeated ones do not count.
    """
    query = eqn.invars[0].aval.shape
    key = eqn.invars[1].aval.shape
    return 2 * products * math.prod(query) * key[1]


RULES: dict[str, Callable[[Any], int]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
    "scan": _scan,
    "cond": _cond,
    "shard_map": _shard_map,
    "dot_product_attention_fwd_wrapper": lambda eqn: _attention(eqn, 2),
    "dot_product_attention_bwd_wrapper": lambda eqn: _attention(eqn, 4),
}
