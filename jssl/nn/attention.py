"""Attention by XLA's matrix products, or by cuDNN's flash attention where it applies.

By XLA, the weights [T, T] of every head are kept for the backward pass, in float32 and in bfloat16:
14 kB for each of 197 tokens of a ViT-B's layer, where q, k and v have 4.6. "recompute" keeps their
row sums alone, and computes the weights again (Dao et al. 2022, arXiv 2205.14135, appendix B.4).

cuDNN's kernel never keeps the weights [T, T] in memory. Its conditions are those of
jax/_src/cudnn/fused_attention_stablehlo.py, `check_is_flash_attention`:

- The dtype is bfloat16 or float16. The width of a head is a multiple of 8, at most 256 on Hopper
  (compute capability 9.0) and later, at most 128 before.
- In training, the number of tokens is even. The check is meant for calls with a bias, but JAX
  counts a placeholder as a bias (0.10.2 and the head of August 2026). `attend` adds one token that
  no other token attends to.
- XLA's deterministic mode is off. In that mode two equal backward calls in one program compile and
  then fail (openxla/xla pull request 46500). The backward pass also adds in any order.
- A boolean mask becomes a bias of [B, 1, T, T], and JAX computes a gradient for that bias.
  Therefore rows of one document each pass `lengths` instead. Rows of several documents need the
  mask: only a private function of JAX has the packed layout with offsets.
"""

import os
import re
from functools import partial
from typing import Literal, cast

import jax
import jax.numpy as jnp
from jax import Array

from jssl.config import ConfigError
from jssl.parallel.mesh import on_tpu

ATTENTION = ("auto", "xla", "recompute", "cudnn")  # auto: see `implementation`
HIDDEN = -0.7 * float(jnp.finfo(jnp.float32).max)  # of weights before softmax, as in jax.nn
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

    The output at padding tokens is not defined.

    Args:
      q, k, v: [B, T, heads, dim].
      causal: a token attends to itself and to the tokens before it.
      mask: bool [B or 1, 1 or heads, T, T], True where a token (row) may attend to another token
        (column).
      lengths: int32 [B]; the tokens of a row from this position on are padding, to which no token
        attends.
      choice: one of `ATTENTION`.

    Raises:
      UserError: `choice` is "cudnn" and XLA's deterministic mode is on.
    """
    chosen = implementation(choice, q)
    if chosen == "recompute":
        return _recomputed(q, k, v, mask, lengths, causal)
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


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _recomputed(
    q: Array, k: Array, v: Array, mask: Array | None, lengths: Array | None, causal: bool
) -> Array:
    """`attend`, with weights that the backward pass computes again."""
    return _recomputed_forward(q, k, v, mask, lengths, causal)[0]


def _recomputed_forward(q, k, v, mask, lengths, causal):
    logits = _logits(q, k, mask, lengths, causal)
    peak = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - peak)
    total = weights.sum(-1, keepdims=True)
    out = jnp.einsum("bhqk,bkhd->bqhd", (weights / total).astype(v.dtype), v)
    return out, (q, k, v, mask, lengths, out, peak + jnp.log(total))


def _recomputed_backward(causal, kept, grad):
    q, k, v, mask, lengths, out, log_total = kept
    weights = jnp.exp(_logits(q, k, mask, lengths, causal) - log_total).astype(v.dtype)
    grad_v = jnp.einsum("bhqk,bqhd->bkhd", weights, grad)
    towards = _float32_einsum("bqhd,bkhd->bhqk", grad, v)
    mean = _float32_einsum("bqhd,bqhd->bhq", grad, out)[..., None]
    scale = q.shape[3] ** -0.5
    grad_logits = (weights * (towards - mean) * scale).astype(q.dtype)
    grad_q = jnp.einsum("bhqk,bkhd->bqhd", grad_logits, k)
    grad_k = jnp.einsum("bhqk,bqhd->bkhd", grad_logits, q)
    return grad_q, grad_k, grad_v, None, None


_recomputed.defvjp(_recomputed_forward, _recomputed_backward)


def _logits(q, k, mask, lengths, causal) -> Array:
    """The weights before softmax, float32 [B, heads, T, T]."""
    logits = _float32_einsum("bqhd,bkhd->bhqk", q, k) * q.shape[3] ** -0.5
    places = jnp.arange(q.shape[1])
    if causal:
        logits = jnp.where(places <= places[:, None], logits, HIDDEN)
    if lengths is not None:
        logits = jnp.where(places < lengths[:, None, None, None], logits, HIDDEN)
    return logits if mask is None else jnp.where(mask, logits, HIDDEN)


_float32_einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)


def implementation(choice: str, q: Array) -> Literal["xla", "recompute", "cudnn"]:
    """The implementation for queries [B, T, heads, dim].

    "auto" is "recompute" on TPUs, and cuDNN where it applies.

    Raises:
      UserError: `choice` is "cudnn" and XLA's deterministic mode is on.
    """
    if choice == "cudnn" and deterministic():
        raise ConfigError(
            "config.model.attention",
            "cudnn",
            "does not run with --xla_gpu_deterministic_ops",
            "use 'xla'",
        )
    if choice != "auto":
        return cast(Literal["xla", "recompute", "cudnn"], choice)
    if on_tpu():
        return "recompute"
    if jax.default_backend() != "gpu" or deterministic():
        return "xla"
    dim = q.shape[3]
    fits = q.dtype in (jnp.bfloat16, jnp.float16) and dim % 8 == 0 and dim <= _widest_head()
    return "cudnn" if fits else "xla"


def deterministic() -> bool:
    """Whether XLA_FLAGS requests deterministic GPU programs."""
    return bool(_DETERMINISTIC.search(os.environ.get("XLA_FLAGS", "")))


def _widest_head() -> int:
    """The widest head of cuDNN's kernel on this GPU."""
    capability = getattr(jax.devices()[0], "compute_capability", "0")
    return 256 if float(capability) >= 9 else 128


def _even(q, k, v, mask, lengths):
    """The arguments of `attend` with one more token, to which no other token attends."""
    tokens = q.shape[1]
    if lengths is None and mask is None:
        lengths = jnp.full(len(q), tokens, jnp.int32)
    q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
    if mask is not None:
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 1), (0, 1)))
        mask = mask.at[..., tokens, tokens].set(True)  # a row of the softmax is never empty
    return q, k, v, mask, lengths
