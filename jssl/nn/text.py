"""Text encoders: BERT (Devlin et al., 2019, arXiv:1810.04805) and GPT-2 (Radford et al., 2019).

Both are learned token and position embeddings under the blocks of `jssl.nn.transformer`.
BERT: post-norm, a LayerNorm after the embeddings, exact GELU, eps 1e-12, every token of type 0
(the next-sentence task, which type 1 is for, is not here), initialisation N(0, .02) cut at two
deviations: google-research/bert modeling.py. Its GELU is the tanh approximation; Hugging Face's
BertModel, with which we agree, has the exact one.
GPT-2: pre-norm, a LayerNorm after the blocks, tanh GELU, eps 1e-5, causal: openai/gpt-2
src/model.py. Initialisation N(0, .02), what ends a branch N(0, .02 / sqrt(2 depth)), as Hugging
Face and karpathy/nanoGPT read section 2.3 ("1 / sqrt(N)"); src/model.py has .01 for positions.
Dropout is of the embeddings and of each branch. Both also drop attention weights, which fused
attention cannot do; here they are never dropped.

What makes logits of the hidden states is the method's; `params["tokens"]["embedding"]` [V, D] is
there to be tied.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jssl.config import UserError
from jssl.config.values import Count, Rate
from jssl.nn import check_choice
from jssl.nn.attention import ATTENTION
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
    "bert": nn.initializers.truncated_normal(0.02),  # cut, and not scaled to have .02 again
    "gpt": nn.initializers.normal(0.02),
}


class TextEncoder(nn.Module):
    """``net(tokens int32 [B, L], train, segment=None) -> hidden [B, L, D]``, normalized.

    `segment` int32 [B, L] is 0 where there is padding, else the number of the document: a token
    sees those of its own document only, and positions restart with each. None: one document fills
    the row. `packed` False: a row holds one document, so that attention needs its length and no
    mask. `features(hidden, segment)` pools to float32 [B, D].
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
        place = jnp.arange(tokens.shape[1])[None]
        mask = None
        lengths = None
        if segment is not None and self.packed:
            place = places(segment)
            mask = segment[:, None, :, None] == segment[:, None, None, :]
        elif segment is not None:
            lengths = (segment > 0).sum(axis=1, dtype=jnp.int32)
        x = self.embed(tokens, place)
        dropout = nn.Dropout(self.style.dropout, deterministic=not train)
        norm = nn.LayerNorm(epsilon=self.style.eps, dtype=self.dtype, name="norm")
        x = dropout(norm(x) if self.style.post_norm else x.astype(self.residual_dtype))
        turn = rotary_angles(place, self.dim // self.heads) if self.positions == "rotary" else None
        x = Blocks(
            depth=self.depth,
            dim=self.dim,
            heads=self.heads,
            mlp_ratio=4.0,
            drop_path=0.0,
            remat=self.remat,
            scan=self.scan,
            attention=self.attention,
            initializer=INITIALIZERS[self.init_name],
            dtype=self.dtype,
            residual_dtype=self.residual_dtype,
            style=self.style,
            name="blocks",
        )(x, train, mask, lengths, turn)
        return x.astype(self.dtype) if self.style.post_norm else norm(x)

    def embed(self, tokens: Array, place: Array) -> Array:
        """float32 [B, L, D]: of each token, its position in its document, and BERT's type 0."""
        init = INITIALIZERS[self.init_name]
        x = nn.Embed(self.vocab, self.dim, embedding_init=init, name="tokens")(tokens)
        if self.positions == "learned":
            if tokens.shape[1] > self.length:
                raise UserError(
                    f"model.length={self.length}, but the rows have {tokens.shape[1]} tokens; "
                    f"set it to {tokens.shape[1]}"
                )
            x = x + self.param("pos_embed", init, (self.length, self.dim))[place]
        if self.style.post_norm:  # row 1 is never read: it is there for other libraries' weights
            x = x + self.param("type_embed", init, (2, self.dim))[0]
        return x

    def features(self, hidden: Array, segment: Array | None = None) -> Array:
        """hidden [B, L, D] -> float32 [B, D], padding left out.

        "first": the first token (BERT's [CLS]). "mean": over all tokens. "last": the last one. A
        row of several documents is pooled as if it were one; embed documents one a row.
        """
        hidden = hidden.astype(jnp.float32)
        if self.pool == "first":
            return hidden[:, 0]
        real = jnp.ones(hidden.shape[:2], bool) if segment is None else segment > 0
        if self.pool == "mean":
            count = jnp.maximum(real.sum(1, keepdims=True), 1)
            return jnp.where(real[..., None], hidden, 0).sum(1) / count
        last = jnp.max(real * jnp.arange(real.shape[1]), axis=1)
        return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]


def places(segment: Array) -> Array:
    """int32 [B, L]: each token's distance from the first of its document. Documents are runs."""
    index = jnp.arange(segment.shape[1])[None]
    before = jnp.roll(segment, 1, axis=1)
    starts = jnp.where((segment != before) | (index == 0), index, 0)
    return index - jax.lax.cummax(starts, axis=1)


def rotary_angles(place: Array, dim: int) -> Array:
    """float32 [..., L, dim / 2]: place times 10000^(-2i / dim), of rotary positions in heads of
    `dim` (Su et al., 2021, RoFormer, arXiv:2104.09864, equation 15)."""
    return place[..., None] * 10000.0 ** (-jnp.arange(0, dim, 2) / dim)


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
    packed: bool = True,
) -> TextEncoder:
    """A text encoder from a config's `model` section and the size of the vocabulary.

    name: bert_tiny, bert_mini, bert_small, bert_base, bert_large; gpt_micro, gpt_small, gpt2.
    length: the longest row. positions: "learned" or "rotary" (then any row is short enough).
    pool: see `Text.features`; "first" is not for GPT, whose first token sees only itself.
    remat, scan: see `jssl.nn.transformer.Blocks`. attention: "auto", "xla", "cudnn".
    init: "bert" or "gpt", see above; biases start at zero.
    dtype: "float32" or "bfloat16", of activations; parameters are float32.
    residual_dtype: of the residual stream, see `jssl.nn.transformer.residual`.
    packed: rows hold several documents; else one each.
    Raises `UserError` for any other choice, and where there is no vocabulary.
    """
    kind, dim, depth, heads = SIZES[check_choice("name", name, SIZES)]
    if vocab < 1:
        raise UserError(
            f"model.name={name!r} reads text, and the source has no tokenizer; use a text source"
        )
    if not 0 <= dropout < 1:
        raise UserError(f"model.dropout={dropout} must be at least 0 and below 1; try 0.1")
    pools = ("mean", "last") if kind == "gpt" else ("first", "mean", "last")
    last = {"bert": None, "gpt": nn.initializers.normal(0.02 * (2 * depth) ** -0.5)}
    last = last[check_choice("init", init, INITIALIZERS)]
    return TextEncoder(
        vocab=vocab,
        length=length,
        dim=dim,
        depth=depth,
        heads=heads,
        style=STYLES[kind]._replace(dropout=dropout, last_init=last),
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
