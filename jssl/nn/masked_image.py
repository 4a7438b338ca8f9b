"""What methods that mask images share: the encoder, its views in float32, a picture."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jssl import nn
from jssl.config import UserError, call_with_section
from jssl.nn.apply import apply
from jssl.nn.transformer import INITIALIZERS
from jssl.nn.vit import ViT, draw_token
from jssl.ops import nearest_index, unpatchify
from jssl.transforms import augment


class Setup:
    """The ViT of ``config.model`` and what goes in and out of it.

    view(rng, image, size) and centre(batch) -> float32 [B, H, W, C]; embed(params, batch) ->
    [B, D]; grid: patches along a side; pixels: numbers in a patch.
    """

    def __init__(self, config):
        self.encoder = nn.encoder(config.model)
        if not isinstance(self.encoder, ViT):
            raise UserError(
                f"config.model.name={config.model.name!r} must be a ViT for {config.method}"
            )
        self.view = call_with_section(augment.view, config.augment, "augment", dtype="float32")
        size, self.channels = config.augment.size, config.data.channels
        self.grid, rest = divmod(size, self.encoder.patch)
        if rest:
            raise UserError(
                f"config.model.patch={self.encoder.patch} must divide augment.size={size}"
            )
        self.pixels = self.encoder.patch**2 * self.channels
        self.look = dict(mean=config.augment.mean, std=config.augment.std, dtype="float32")
        self._centre = augment.center(
            size=config.eval.size or size, crop=config.eval.crop, **self.look
        )

    def centre(self, batch):
        return self._centre(batch["image"], batch["size"])

    def embed(self, params, batch):
        tokens, _ = apply(self.encoder, params["encoder"], {}, self.centre(batch), train=False)
        return self.encoder.features(tokens)

    def unit(self, pixels: int) -> int:
        """Patches along the side of a mask of so many pixels."""
        unit, rest = divmod(pixels, self.encoder.patch)
        if rest or not unit or self.grid % unit:
            raise UserError(
                f"config.mask_unit={pixels} must be a multiple of config.model.patch="
                f"{self.encoder.patch} that divides the image; try {self.encoder.patch}"
            )
        return unit

    def token(self, rng) -> jax.Array:
        """A mask token [D], drawn as the encoder's class token."""
        return draw_token(self.encoder.init_name)(rng, (self.encoder.dim,), jnp.float32)

    def dense(self, rng, width: int, out: int) -> dict:
        """A linear layer drawn as the encoder's own, bias 0."""
        draw = INITIALIZERS[self.encoder.init_name]
        return {"kernel": draw(rng, (width, out), jnp.float32), "bias": jnp.zeros(out)}

    def torch_dense(self, rng, width: int, out: int) -> dict:
        """A linear layer as PyTorch draws it: kernel and bias from U(+-1 / sqrt(width))."""
        rng_kernel, rng_bias = jax.random.split(rng)
        draw = partial(jax.random.uniform, minval=-(width**-0.5), maxval=width**-0.5)
        return {"kernel": draw(rng_kernel, (width, out)), "bias": draw(rng_bias, (out,))}

    def lookup(self, said, told, patches):
        """A picture of predicted features: in the place of each, [B, N, D], the patch, of all in
        the batch [B, N, pixels], whose own feature `told` [B, N, D] is nearest to it."""
        flat = lambda x: x.reshape(-1, x.shape[-1]).astype(jnp.float32)
        return flat(patches)[nearest_index(flat(said), flat(told), False)].reshape(patches.shape)

    def picture(self, patches, mask, prediction):
        """original | masked | reconstruction of [B, N, pixels], mask [B, N]; [B, H, 3 W, C]."""
        hidden = (mask > 0)[..., None]
        shown = [patches, jnp.where(hidden, 0.0, patches), jnp.where(hidden, prediction, patches)]
        row = [unpatchify(x, self.encoder.patch, self.channels) for x in shown]
        row = jnp.concatenate(row, axis=2)
        return row * jnp.array(self.look["std"]) + jnp.array(self.look["mean"])


def nearest_count(ratio: float, patches: int) -> int:
    """`ratio` of the patches, as a whole number: BEiT's and data2vec's counts are whole."""
    return math.floor(ratio * patches + 0.5)


def num_masked(
    ratio: float, patches: int, count: Callable[[float, int], int] = nearest_count
) -> int:
    """How many of the patches a ratio hides, by `count`: at least one hidden, and one seen.

    Raises `UserError` where it is none or all.
    """
    found = count(ratio, patches)
    if not 0 < found < patches:
        raise UserError(f"config.mask_ratio={ratio} must hide some of {patches} patches, not all")
    return found
