"""Text encoders: BERT (Devlin et al., 2019, arXiv:1810.04805) and GPT-2 (Radford et al., 2019).

Both have learned token and position embeddings, and the blocks of `jssl.nn.transformer`.
BERT: post-norm, a LayerNorm after the embeddings, exact GELU, eps 1e-12. Every token has type 0
(type 1 is for the next-sentence task, which is not here). Initialization is N(0, .02) cut at two
deviations. Source: google-research/bert modeling.py. Its GELU is the tanh approximation; Hugging
Face's BertModel, whose outputs are equal to ours, has the exact GELU.
GPT-2: pre-norm, a LayerNorm after the blocks, tanh GELU, eps 1e-5, causal. Source: openai/gpt-2
src/model.py. Initialization is N(0, .02), and N(0, .02 / sqrt(2 depth)) for the last layer of each
branch, as Hugging Face and karpathy/nanoGPT read section 2.3 ("1 / sqrt(N)"); src/model.py has .01
for positions.
Dropout applies to the embeddings and to each branch. The references also drop attention weights;
fused attention cannot do that, so they are never dropped here.

The method computes logits from the hidden states. It may tie them to the token embeddings,
`params["tokens"]["embedding"]` [V, D].
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jssl.config import ConfigError
from jssl.config.values import Count, NonNegative, Rate
from jssl.nn import check_choice
from jssl.nn.attention import ATTENTION
from jssl.nn.positions import rotary_angles
from jssl.nn.transformer import REMAT, BlockConfig, Blocks, residual

SIZES = {  # style, dim, depth, heads
    "bert_test": ("bert", 32, 2, 2),
    "bert_tiny": ("bert", 128, 2, 2),  # Turc et al., 2019, arXiv:1908.08962, as are the next two
    "bert_mini": ("bert", 256, 4, 4),
    "bert_small": ("bert", 512, 4, 8),
    "bert_base": ("bert", 768, 12, 12),  # section 3
    "bert_large": ("bert", 1024, 24, 16),
    "gpt_test": ("gpt", 32, 2, 2),
    "gpt_micro": ("gpt", 128, 4, 4),  # karpathy/minGPT mingpt/model.py
    "gpt_small": ("gpt", 384, 6, 6),  # nanoGPT's config/train_shakespeare_char.py
    "gpt2": ("gpt", 768, 12, 12),  # table 2 (its "117M" are 124M)
}
STYLES = {
    "bert": BlockConfig(post_norm=True, eps=1e-12),
    "gpt": BlockConfig(tanh_gelu=True, eps=1e-5, causal=True),
}
INITIALIZERS = {
    "bert": nn.initializers.truncated_normal(0.02),  # not rescaled to a deviation of .02
    "gpt": nn.initializers.normal(0.02),
}


class TextEncoder(nn.Module):
    """``net(tokens int32 [B, L], train, segment=None) -> hidden [B, L, D]``, normalized.

    `segment` int32 [B, L] is 0 at padding, else the number of the document of each token. A token
    attends to the tokens of its own document only, and positions restart in each document. None:
    one document fills the row. With `packed` False a row holds one document, so that attention
    needs its length and no mask. `features(hidden, segment)` pools to float32 [B, D].
    A training pass with dropout needs rngs={"dropout": key}.
    """

    vocab: int
    length: int
    dim: int
    depth: int
    heads: int
    style: BlockConfig
    positions: str
    pool: str
    remat: str
    scan: bool
    attention: str
    init_name: str
    dtype: jnp.dtype
    residual_dtype: jnp.dtype
    packed: bool = True

    @nn.compact
    def __call__(self, tokens: Array, train: bool, segment: Array | None = None) -> Array:
        position = jnp.arange(tokens.shape[1])[None]
        mask = None
        lengths = None
        if segment is not None and self.packed:
            position = positions_in_document(segment)
            mask = segment[:, None, :, None] == segment[:, None, None, :]
        elif segment is not None:
            lengths = (segment > 0).sum(axis=1, dtype=jnp.int32)
        x = self.embed(tokens, position)
        dropout = nn.Dropout(self.style.dropout, deterministic=not train)
        norm = nn.LayerNorm(epsilon=self.style.eps, dtype=self.dtype, name="norm")
        x = dropout(norm(x) if self.style.post_norm else x.astype(self.residual_dtype))
        angles = None
        if self.positions == "rotary":
            angles = rotary_angles(position, self.dim // self.heads)
        x = Blocks(
            depth=self.depth,
            dim=self.dim,
            heads=self.heads,
            hidden=4 * self.dim,
            drop_path=0.0,
            remat=self.remat,
            scan=self.scan,
            attention=self.attention,
            initializer=INITIALIZERS[self.init_name],
            dtype=self.dtype,
            residual_dtype=self.residual_dtype,
            style=self.style,
            name="blocks",
        )(x, train, mask, lengths, angles)
        return x.astype(self.dtype) if self.style.post_norm else norm(x)

    def embed(self, tokens: Array, position: Array) -> Array:
        """The sum of the embeddings of tokens, positions and, for BERT, type 0: float32 [B, L, D].

        tokens: int32 [B, L]. position: int32 [B or 1, L], of each token in its document.
        """
        init = INITIALIZERS[self.init_name]
        x = nn.Embed(self.vocab, self.dim, embedding_init=init, name="tokens")(tokens)
        if self.positions == "learned":
            if tokens.shape[1] > self.length:
                raise ConfigError(
                    "config.model.length",
                    self.length,
                    f"the rows have {tokens.shape[1]} tokens",
                    f"set it to {tokens.shape[1]}",
                )
            x = x + self.param("pos_embed", init, (self.length, self.dim))[position]
        if self.style.post_norm:  # row 1 is not used, but the weights of other libraries have it
            x = x + self.param("type_embed", init, (2, self.dim))[0]
        return x

    def features(self, hidden: Array, segment: Array | None = None) -> Array:
        """Pools hidden [B, L, D] to float32 [B, D], without padding.

        `pool` "first" is the first token (BERT's [CLS]), "mean" the mean of all tokens, "last" the
        last token. A row of several documents is pooled as one document, so a batch to embed should
        have one document per row.
        """
        hidden = hidden.astype(jnp.float32)
        if self.pool == "first":
            return hidden[:, 0]
        is_token = jnp.ones(hidden.shape[:2], bool) if segment is None else segment > 0
        if self.pool == "mean":
            count = jnp.maximum(is_token.sum(1, keepdims=True), 1)
            return jnp.where(is_token[..., None], hidden, 0).sum(1) / count
        last = jnp.max(is_token * jnp.arange(is_token.shape[1]), axis=1)
        return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]


def positions_in_document(segment: Array) -> Array:
    """The position of each token in its document, int32 [B, L].

    segment: int32 [B, L]; a document is a run of equal numbers.
    """
    index = jnp.arange(segment.shape[1])[None]
    before = jnp.roll(segment, 1, axis=1)
    starts = jnp.where((segment != before) | (index == 0), index, 0)
    return index - jax.lax.cummax(starts, axis=1)


def build(
    *,
    name: str,
    length: Count,
    positions: str,
    pool: str,
    dropout: Rate,
    remat: str,
    scan: bool,
    attention: str,
    init: str,
    dtype: str,
    residual_dtype: str,
    vocab: int,
    norm_eps: NonNegative = 0.0,
    packed: bool = True,
) -> TextEncoder:
    """A text encoder from a config's `model` section and the size of the vocabulary.

    Args:
      name: network: bert_tiny, _mini, _small, _base or _large; gpt_micro, gpt_small or gpt2.
        bert_test and gpt_test are for tests.
      length: largest number of tokens in a row, for learned positions.
      positions: position embeddings: "learned", or "rotary" for rows of any length.
      pool: features of a row: the "first" token, the "mean" of all, or the "last" token. See
        `TextEncoder.features`. "first" is not for GPT, whose first token attends only to itself.
      dropout: rate of dropout after the embeddings and in each residual branch.
      remat: recomputed in the backward pass: "none", "full" (blocks), "dots" (all but Dense). See
        `jssl.nn.transformer.REMAT`.
      scan: compile one block and run it for all layers by lax.scan. It compiles faster and moves
        more bytes (benchmarks/NOTES.md). See `jssl.nn.transformer.Blocks`.
      attention: kernel: "xla", "recompute", "cudnn", or "auto", which chooses by device. See
        `jssl.nn.attention`.
      init: initial weights: "bert" (truncated normal) or "gpt" (normal, smaller last layers). See
        the module. Biases start at zero.
      dtype: dtype of activations, "float32" or "bfloat16"; parameters are float32.
      residual_dtype: dtype of the residual stream, "float32" or "bfloat16". See
        `jssl.nn.transformer.residual`.
      norm_eps: epsilon of the LayerNorms; 0: 1e-12 for BERT, 1e-5 for GPT. RoBERTa: 1e-5.
      vocab: the number of ids of the tokenizer.
      packed: rows hold several documents; False: one document each.

    Raises:
      UserError: any other choice, or there is no vocabulary.
    """
    kind, dim, depth, heads = SIZES[check_choice("name", name, SIZES)]
    if vocab < 1:
        raise ConfigError(
            "config.model.name",
            name,
            "reads text, and the source has no tokenizer",
            "use a text source",
        )
    if not 0 <= dropout < 1:
        raise ConfigError(
            "config.model.dropout", dropout, "must be at least 0 and below 1", "try 0.1"
        )
    pools = ("mean", "last") if kind == "gpt" else ("first", "mean", "last")
    last_inits: dict[str, Any] = {
        "bert": None,
        "gpt": nn.initializers.normal(0.02 * (2 * depth) ** -0.5),
    }
    last_init = last_inits[check_choice("init", init, INITIALIZERS)]
    style = STYLES[kind]
    if norm_eps:
        style = style._replace(eps=norm_eps)
    return TextEncoder(
        vocab=vocab,
        length=length,
        dim=dim,
        depth=depth,
        heads=heads,
        style=style._replace(dropout=dropout, last_init=last_init),
        positions=check_choice("positions", positions, ("learned", "rotary")),
        pool=check_choice("pool", pool, pools),
        remat=check_choice("remat", remat, REMAT),
        scan=scan,
        attention=check_choice("attention", attention, ATTENTION),
        init_name=init,
        dtype=jnp.dtype(check_choice("dtype", dtype, ("float32", "bfloat16"))),
        residual_dtype=residual(residual_dtype, dtype),
        packed=packed,
    )
