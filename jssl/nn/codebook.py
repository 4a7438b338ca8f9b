"""A codebook of VQ-VAE that follows its inputs by moving averages, and code ids of images.

Source: van den Oord et al. 2017, arXiv 1711.00937, section 3.2 and appendix A.1;
google-deepmind/sonnet src/nets/vqvae.py `VectorQuantizerEMA`, with its bias correction
(src/moving_averages.py).
"""

from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jssl.config import Config, ConfigError
from jssl.config.values import NonNegative, Range, Rate, Share, Width
from jssl.core import Buffers, Params
from jssl.nn.autoencoder import Autoencoder
from jssl.nn.fsq import FSQ
from jssl.ops import nearest_index, require_arrays

LAPLACE = 1e-5  # added to the count of each code
KEYS = {
    "quantizer": Annotated[
        Literal["ema", "fsq"], "a codebook of moving averages, or finite scalar quantization"
    ],
    "num_codes": Annotated[Width, 'codes of the codebook, for quantizer "ema"'],
    "commitment": Annotated[
        NonNegative, "weight of the distance of encodings to their codes (the paper's beta)"
    ],
    "codebook_decay": Annotated[Rate, "decay of the moving averages of the codebook"],
    "reseed_below": Annotated[
        Share, "a code that gets fewer encodings of a batch, on average, is drawn anew; 0: off"
    ],
    "levels": Annotated[
        tuple[Annotated[int, Range(2, 2**10)], ...],
        'values of each number of a code, for quantizer "fsq"',
    ],
}
Book = dict[str, Array]


class Codebook(NamedTuple):
    """K codes of D numbers; its state is a dict of arrays, a part of the buffers.

    "codes" float32 [K, D]; "count" [K] and "total" [K, D], the moving averages of how many
    encodings a code gets, and of their sum; "updates" []; "candidates" [K, D], encodings of the
    last batch, which replace codes that fall out of use.
    """

    num_codes: int
    dim: int
    decay: float
    commitment: float
    reseed_below: float

    def init(self, rng: Array) -> Book:
        """Draws the codes from U(+-sqrt(3 / K)), as Sonnet's VarianceScaling does."""
        bound = (3 / self.num_codes) ** 0.5
        shape = (self.num_codes, self.dim)
        return {
            "codes": jax.random.uniform(rng, shape, minval=-bound, maxval=bound),
            "count": jnp.zeros(self.num_codes),
            "total": jnp.zeros(shape),
            "updates": jnp.zeros(()),
            "candidates": jnp.zeros(shape),
        }

    def __call__(self, book: Book, z: Array, rng: Array) -> tuple[Array, Array, Array, Book]:
        """Quantizes z float32 [..., D], and moves the codebook towards it.

        Returns:
          (codes [..., D], ids int32 [...], loss [], next book). The gradient of a code passes to z
          unchanged (straight-through). The loss is the commitment loss.
        """
        ids = self.ids(book, z)
        nearest = self.lookup(book, ids)
        loss = self.commitment * jnp.square(lax.stop_gradient(nearest) - z).mean()
        codes = z + lax.stop_gradient(nearest - z)
        rows = lax.stop_gradient(z).reshape(-1, self.dim)
        return codes, ids, loss, self.update(book, rows, ids.ravel(), rng)

    def ids(self, book: Book, z: Array) -> Array:
        """The ids int32 [...] of the codes that are nearest to z [..., D]."""
        rows = lax.stop_gradient(z).reshape(-1, self.dim)
        return nearest_index(rows, book["codes"], spherical=False).reshape(z.shape[:-1])

    def lookup(self, book: Book, ids: Array) -> Array:
        """The codes float32 [..., D] of ids int32 [...]."""
        return book["codes"][ids]

    def update(self, book: Book, rows: Array, ids: Array, rng: Array) -> Book:
        """The book after encodings `rows` float32 [N, D] with the codes `ids` int32 [N]."""
        require_arrays(rows=(rows, "float [N, D]"), ids=(ids, "int [N]"))
        chosen = jax.nn.one_hot(ids, self.num_codes)
        total = jnp.matmul(chosen.T, rows, precision=lax.Precision.HIGHEST)
        old = self.decay
        new = 1 - self.decay
        count = old * book["count"] + new * chosen.sum(0)
        total = old * book["total"] + new * total
        updates = book["updates"] + 1
        correction = 1 - self.decay**updates  # of averages that start at 0
        n = count.sum() / correction
        smooth = (count / correction + LAPLACE) / (n + self.num_codes * LAPLACE) * n
        at = jax.random.randint(rng, (self.num_codes,), 0, len(rows))
        return {
            "codes": total / correction / smooth[:, None],
            "count": count,
            "total": total,
            "updates": updates,
            "candidates": rows[at],
        }

    def reseed(self, book: Book) -> Book:
        """Replaces each code that gets fewer than `reseed_below` encodings by a candidate.

        The new code counts as if it had got one encoding of each batch.
        """
        correction = 1 - self.decay ** book["updates"]
        is_dead = (book["count"] < self.reseed_below * correction) & (book["updates"] > 0)
        row = is_dead[:, None]
        candidates = book["candidates"]
        return book | {
            "codes": jnp.where(row, candidates, book["codes"]),
            "count": jnp.where(is_dead, correction, book["count"]),
            "total": jnp.where(row, candidates * correction, book["total"]),
        }


def quantizer_from_config(config: Config) -> Codebook | FSQ:
    """The quantizer of `KEYS`, for codes of ``config.decoder.dim`` numbers.

    Raises:
      UserError: the number of levels differs from `dim`.
    """
    dim = config.decoder.dim
    levels = tuple(config.levels)
    own = (config.num_codes, dim, config.codebook_decay, config.commitment, config.reseed_below)
    if config.quantizer == "ema":
        return Codebook(*own)
    if len(levels) != dim:
        cure = f"set --config.decoder.dim={len(levels)}"
        raise ConfigError("config.levels", levels, f"codes have {dim} numbers", cure)
    return FSQ(levels)


def code_ids(
    net: Autoencoder, quantizer: Codebook | FSQ, params: Params, buffers: Buffers, images: Array
) -> Array:
    """The code ids of normalized images [B, H, W, C], int32 [B, h, w]; a tokenizer of images.

    Args:
      net: the autoencoder of a VQ-VAE.
      quantizer: its quantizer.
      params, buffers: of its state.
      images: in the size of its training views.
    """
    code, _, _ = net.encode(params, buffers["stats"], images, train=False)
    ids: Any = quantizer.ids(buffers["codebook"], code)
    return ids
