"""Which patches a masked model sees."""

import jax
import jax.numpy as jnp


def random_keep(rng, batch: int, patches: int, ratio: float):
    """MAE's random masking (He et al. 2022, appendix A.1; models_mae.py `random_masking`).

    Each image keeps a uniform random subset of ``int(patches * (1 - ratio))`` patches, in random
    order. Returns (keep int32 [B, K], mask float32 [B, N] with 1 where hidden, restore int32
    [B, N]): kept tokens followed by mask tokens, indexed by `restore`, are in image order again.
    """
    kept = int(patches * (1 - ratio))
    shuffled = jnp.argsort(jax.random.uniform(rng, (batch, patches)), axis=1)
    restore = jnp.argsort(shuffled, axis=1)
    return shuffled[:, :kept], (restore >= kept).astype(jnp.float32), restore
