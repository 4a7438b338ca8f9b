"""What computes attention: XLA's products, or cuDNN's flash attention where it applies.

cuDNN's kernel never holds the weights [T, T]. Its conditions are those of
jax/_src/cudnn/fused_attention_stablehlo.py, `check_is_flash_attention`:

- bfloat16 or float16; heads whose width is a multiple of 8, up to 256 on Hopper (compute capability
  9.0) and later, up to 128 before.
- An even number of tokens in training. The check is meant for calls with a bias, but jax counts a
  placeholder as one (0.10.2 and the head of August 2026). `attend` adds one token that nobody sees.
- Not under XLA's deterministic mode: two equal backward calls in one program compile there and then
  fail (openxla/xla pull request 46500), and the backward pass adds in any order.
- A boolean mask is a bias of [B, 1, T, T] to it, and jax computes a gradient for that bias. So rows
  of one document each give `lengths` instead. Rows of several documents need the mask: the packed
  layout with offsets exists in jax's private function only.
"""

import os
import re

import jax
import jax.numpy as jnp
from jax import Array

from jssl.config import UserError

ATTENTION = ("auto", "xla", "cudnn")  # auto: see `implementation`
_DETERMINISTIC = re.compile(
    r"--xla_gpu_(deterministic_ops|exclude_nondeterministic_ops)(=(true|1))?(\s|$)", re.IGNORECASE
)


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    mask: Array | None = None,
    lengths: Array | None = None,
    choice: str = "auto",
) -> Array:
    """softmax(q k^T / sqrt(dim)) v, for q, k, v [B, T, heads, dim] -> [B, T, heads, dim].

    causal   a token sees itself and the tokens before it
    mask     bool [B or 1, 1 or heads, T, T], True where a token (row) may see another (column)
    lengths  int32 [B]: a row's tokens from there on are padding, which no token sees
    choice   one of `ATTENTION`

    What a padding token itself gets is not defined. Raises `UserError` for "cudnn" under XLA's
    deterministic mode.
    """
    chosen = implementation(choice, q)
    tokens = q.shape[1]
    if chosen == "cudnn" and tokens % 2:
        q, k, v, mask, lengths = _even(q, k, v, mask, lengths)
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        mask=mask,
        is_causal=causal,
        key_value_seq_lengths=lengths,
        implementation=chosen,
    )
    return out[:, :tokens]


def implementation(choice: str, q: Array) -> str:
    """ "xla" or "cudnn" for queries [B, T, heads, dim]; "auto" takes cuDNN where it applies."""
    if choice == "cudnn" and deterministic():
        raise UserError(
            "model.attention='cudnn' does not run with --xla_gpu_deterministic_ops; use 'xla'"
        )
    if choice != "auto":
        return choice
    if jax.default_backend() != "gpu" or deterministic():
        return "xla"
    dim = q.shape[3]
    fits = q.dtype in (jnp.bfloat16, jnp.float16) and dim % 8 == 0 and dim <= _widest_head()
    return "cudnn" if fits else "xla"


def deterministic() -> bool:
    """Whether XLA_FLAGS asks for GPU programs that give the same bits each time."""
    return bool(_DETERMINISTIC.search(os.environ.get("XLA_FLAGS", "")))


def _widest_head() -> int:
    """The widest head of cuDNN's kernel on this GPU."""
    capability = getattr(jax.devices()[0], "compute_capability", "0")
    return 256 if float(capability) >= 9 else 128


def _even(q, k, v, mask, lengths):
    """The arguments of `attend` with one more token, which no token of the row sees."""
    tokens = q.shape[1]
    if lengths is None and mask is None:
        lengths = jnp.full(len(q), tokens, jnp.int32)
    q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
    if mask is not None:
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 1), (0, 1)))
        mask = mask.at[..., tokens, tokens].set(True)  # a row of the softmax is never empty
    return q, k, v, mask, lengths
