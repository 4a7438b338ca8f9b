"""Losses as plain functions of global batches, float32 inside, no state."""

import jax
import jax.numpy as jnp
from jax import lax

from jssl.ops import l2_normalize, standardize

# A larger similarity matrix is never in memory as a whole: its columns are computed in chunks, and
# once more in the backward pass.
MAX_DENSE_ELEMENTS = 2**28
CHUNK_COLUMNS = 4096
MASKED_LOGIT = -1e30  # finite, so that its gradient is zero and not NaN


def negatives_logsumexp(queries, keys, skip, temperature):
    """What the keys other than a query's own say: (log-sum-exp [N], largest logit [N]).

    queries [N, D], keys [M, D]: unit rows; skip int32 [N, s]: ids of keys that do not count.
    """

    def block(keys, ids):
        logits = jnp.matmul(queries, keys.T, precision=lax.Precision.HIGHEST) / temperature
        out = (ids[None, :, None] == skip[:, None, :]).any(-1) | (ids >= len_keys)[None]
        logits = jnp.where(out, MASKED_LOGIT, logits)
        return jax.nn.logsumexp(logits, axis=1), lax.stop_gradient(logits.max(axis=1))

    len_keys = len(keys)
    ids = jnp.arange(len(keys))
    if len(queries) * len_keys <= MAX_DENSE_ELEMENTS:
        return block(keys, ids)
    blocks = -(-len_keys // CHUNK_COLUMNS)
    ids = jnp.arange(blocks * CHUNK_COLUMNS).reshape(blocks, CHUNK_COLUMNS)
    keys = jnp.pad(keys, ((0, blocks * CHUNK_COLUMNS - len_keys), (0, 0))).reshape(
        blocks, CHUNK_COLUMNS, -1
    )

    @jax.checkpoint
    def merge(carry, part):
        total, largest = block(*part)
        return (jnp.logaddexp(carry[0], total), jnp.maximum(carry[1], largest)), None

    nothing = jnp.full(len(queries), MASKED_LOGIT)
    return lax.scan(merge, (nothing, nothing), (keys, ids))[0]


def positive_and_negatives(z_a, z_b, temperature):
    """Of all 2B views: (similarity to the partner, log-sum-exp of the 2B - 2 others, top1)."""
    z = l2_normalize(jnp.concatenate([z_a, z_b]))
    n = jnp.arange(len(z))
    partner = (n + len(z_a)) % len(z)
    own = (z * z[partner]).sum(-1) / temperature
    others, rival = negatives_logsumexp(z, z, jnp.stack([n, partner], axis=1), temperature)
    return own, others, (own > rival).mean(dtype=jnp.float32)


def nt_xent(z_a, z_b, temperature: float):
    """NT-Xent, equation 1 of SimCLR (Chen et al. 2020), over the 2B views of a batch.

    z_a, z_b: [B, D], two views of the same B images, any scale. Each view must find its partner
    among the other 2B - 1. Returns (loss [], top1 []): the mean over 2B views, and the share whose
    partner is the nearest.
    """
    own, others, top1 = positive_and_negatives(z_a, z_b, temperature)
    return (jnp.logaddexp(own, others) - own).mean(), top1


def dcl(z_a, z_b, temperature: float, sigma: float = 0.0):
    """Decoupled contrastive loss (Yeh et al. 2022, equation 6): NT-Xent whose denominator leaves
    the partner out. With sigma > 0 DCLW, its equation 7: a pair weighs 2 - B softmax(s / sigma),
    s the cosine of the pair, so that pairs far apart weigh more; no gradient flows to the weight.

    Arguments and results as in `nt_xent`.
    """
    own, others, top1 = positive_and_negatives(z_a, z_b, temperature)
    weight = 1.0
    if sigma:
        closeness = jax.nn.softmax(own[: len(z_a)] * temperature / sigma)
        weight = lax.stop_gradient(jnp.tile(2 - len(z_a) * closeness, 2))
    return (others - weight * own).mean(), top1


def info_nce(q, k, temperature: float, queue=None):
    """InfoNCE (van den Oord et al. 2018): q_i must find k_i. q, k: [B, D] of any scale.

    Without `queue` among all k of the batch (MoCo v3, algorithm 1; NNCLR, equation 3), with it
    [N, D] among k_i and the queue's rows (MoCo, equation 1). Returns (loss [], top1 []).
    """
    q = l2_normalize(q)
    k = l2_normalize(k)
    own = (q * k).sum(-1) / temperature
    if queue is None:
        others, rival = negatives_logsumexp(q, k, jnp.arange(len(k))[:, None], temperature)
    else:
        others, rival = negatives_logsumexp(
            q, l2_normalize(queue), jnp.full((len(q), 1), -1), temperature
        )
    return (jnp.logaddexp(own, others) - own).mean(), (own > rival).mean(dtype=jnp.float32)


def masked_mse(prediction, target, mask):
    """Mean squared error over the masked places only: MAE (He et al. 2022), section 3.

    prediction, target: [B, N, P]; mask: [B, N], 1 where the patch was hidden.
    """
    error = jnp.square(prediction.astype(jnp.float32) - target.astype(jnp.float32)).mean(-1)
    return (error * mask).sum() / mask.sum()


def masked_l1(prediction, target, mask):
    """Mean absolute error over the masked places only: SimMIM (Xie et al. 2022), equation 1.

    Shapes as in `masked_mse`.
    """
    error = jnp.abs(prediction.astype(jnp.float32) - target.astype(jnp.float32)).mean(-1)
    return (error * mask).sum() / mask.sum()


def smooth_l1(error, beta: float):
    """error^2 / (2 beta) up to beta, |error| - beta / 2 beyond, elementwise (data2vec, section 3.3;
    torch.nn.functional.smooth_l1_loss)."""
    size = jnp.abs(error.astype(jnp.float32))
    large = size >= beta  # not of NaN
    small = jnp.where(large, 0, size)  # the square of an infinite error has a NaN gradient
    return jnp.where(large, size - beta / 2, jnp.square(small) / (2 * beta))


def byol_loss(p, z):
    """2 - 2 cos(p, z), equation 2 of BYOL (Grill et al. 2020), mean over the batch.

    p [B, D]: predictions; z [B, D]: what they should be. No gradient flows to z. SimSiam's negative
    cosine (Chen & He 2021, equation 1) is half of this, less 1.
    """
    return 2 - 2 * (l2_normalize(p) * l2_normalize(lax.stop_gradient(z))).sum(-1).mean()


def barlow_twins(z_a, z_b, weight: float):
    """Barlow Twins' loss (Zbontar et al. 2021, equations 1 and 2).

    z_a, z_b: [B, D]. The cross-correlation of the two views' features, each standardised over the
    batch, should be the identity: squared deviation of the diagonal, plus `weight` (lambda) times
    that of the rest. Reference: facebookresearch/barlowtwins main.py (BatchNorm without affine).
    """
    a = standardize(z_a)
    b = standardize(z_b)
    c = jnp.matmul(a.T, b, precision=lax.Precision.HIGHEST) / len(z_a)
    on = jnp.diagonal(c)
    return jnp.square(on - 1).sum() + weight * off_diagonal(c)


def off_diagonal(c: jax.Array) -> jax.Array:
    """The sum of the squares off the diagonal of c [D, D], float32 []. The diagonal is left out of
    the sum and not taken from it: the difference of two large sums has few digits, and no value
    where either is infinite."""
    return jnp.where(jnp.eye(len(c), dtype=bool), 0.0, jnp.square(c)).sum()


def vicreg(z_a, z_b, invariance: float, variance: float, covariance: float):
    """VICReg (Bardes, Ponce, LeCun 2022, equations 1 to 6), with the means and halves of its code,
    facebookresearch/vicreg main_vicreg.py. z_a, z_b: [B, D]. Returns (loss, its three terms)."""
    views = [z.astype(jnp.float32) for z in (z_a, z_b)]
    centred = [z - z.mean(0) for z in views]

    def hinge(z):
        return jnp.maximum(0, 1 - jnp.sqrt(z.var(0, ddof=1) + 1e-4)).mean()

    def moment(z):
        return jnp.matmul(z.T, z, precision=lax.Precision.HIGHEST) / (len(z) - 1)

    terms = {
        "invariance": jnp.square(views[0] - views[1]).mean(),
        "variance": sum(map(hinge, views)) / 2,
        "covariance": sum(off_diagonal(moment(z)) for z in centred) / z_a.shape[1],
    }
    weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
    return sum(weights[name] * term for name, term in terms.items()), terms


def cross_entropy(logits, answer, weight=None):
    """(mean -log softmax(logits)[answer], share that is right): logits [N, K], answer int [N],
    weight [N] or None for all the same."""
    weight = jnp.ones(len(answer)) if weight is None else weight
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    cost = -jnp.take_along_axis(log_p, answer[:, None], axis=1)[:, 0]
    right = log_p.argmax(1) == answer
    total = jnp.maximum(weight.sum(), 1e-9)
    return (cost * weight).sum() / total, (right * weight).sum() / total


def next_token(hidden, table, tokens, segment, chunk: int):
    """(mean -log p, share that is right) of each token given those before it in its document: see
    `next_token_nll`."""
    cost, right, weight = next_token_nll(hidden, table, tokens, segment, chunk)
    total = jnp.maximum(weight.sum(), 1)
    return (cost * weight).sum() / total, (right * weight).sum() / total


def next_token_nll(hidden, table, tokens, segment, chunk: int):
    """-log p of the token that follows each place, 1 where it is the likeliest, and 1 where it is
    of the same document; float32 [B, L].

    hidden [B, L, D], table [V, D] of the compute dtype, tokens and segment int32 [B, L]; segment
    is 0 at padding. Logits are there for `chunk` places a row at a time, and are computed once
    more on the way back.
    """
    answer = jnp.roll(tokens, -1, axis=1)
    follows = (jnp.roll(segment, -1, axis=1) == segment) & (segment > 0)

    def cut(x):
        return x.reshape(x.shape[0], -1, chunk, *x.shape[2:]).swapaxes(0, 1)

    @jax.checkpoint
    def one(_, part):
        hidden, answer = part
        logits = jnp.matmul(hidden, table.T, preferred_element_type=jnp.float32)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        own = jnp.take_along_axis(logits, answer[..., None], axis=-1)[..., 0]
        right = own >= lax.stop_gradient(logits.max(-1))
        return None, (log_z - own, right.astype(jnp.float32))

    found = lax.scan(one, None, jax.tree.map(cut, (hidden.astype(table.dtype), answer)))[1]
    cost, right = (x.swapaxes(0, 1).reshape(tokens.shape) for x in found)
    return cost, right, follows.at[:, -1].set(False).astype(jnp.float32)


def soft_cross_entropy(logits, target):
    """-sum target log softmax(logits), mean over rows [B, K]; no gradient flows to the target
    (SwAV, Caron et al. 2020, equation 2; DINO, Caron et al. 2021, equation 2)."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -(lax.stop_gradient(target).astype(jnp.float32) * log_p).sum(-1).mean()


def cross_view_cross_entropy(
    logits: jax.Array, local_logits: jax.Array | None, targets: jax.Array
) -> jax.Array:
    """DINO's loss: the mean cross-entropy of each pair of a teacher's view and another crop.

    Args:
      logits: [2B, K] of the global views, rows 2i and 2i + 1 being views of image i.
      local_logits: [nB, K] of the n local crops of each image, or None.
      targets: [2B, K], the teacher's distributions.
    """
    value = soft_cross_entropy(logits[0::2], targets[1::2])
    value = value + soft_cross_entropy(logits[1::2], targets[0::2])
    if local_logits is None:
        return value / 2
    num_local = 2 * len(local_logits) // len(targets)
    both = jnp.repeat(targets[0::2] + targets[1::2], num_local, axis=0)
    value = value + num_local * soft_cross_entropy(local_logits, both)
    return value / (2 + 2 * num_local)


def koleo(x, eps: float = 1e-8):
    """-log of the distance to the nearest other row of x [N, D] on the unit sphere, mean over rows:
    spreads features out (Sablayrolles et al. 2019, equation 2; DINOv2, Oquab et al. 2024)."""
    x = l2_normalize(x)
    similar = jnp.matmul(x, x.T, precision=lax.Precision.HIGHEST)
    near = jnp.where(jnp.eye(len(x), dtype=bool), -2.0, lax.stop_gradient(similar)).argmax(1)
    gap = jnp.square(x - x[near]).sum(-1)
    return -jnp.log(jnp.sqrt(gap + eps**2) + eps).mean()  # a root's gradient at 0 is not finite


def sigreg(rng, z, slices: int):
    """SIGReg of LeJEPA (Balestriero & LeCun 2025, algorithm 1): how far the embeddings z [V, B, D]
    of each view are from a standard Gaussian, on `slices` random directions; mean over V."""
    directions = l2_normalize(jax.random.normal(rng, (slices, z.shape[-1]))).T

    def one(x):
        return epps_pulley(jnp.matmul(x, directions, precision=lax.Precision.HIGHEST)).mean()

    # View by view, and once more on the way back: [V, B, slices, knots] is never in memory.
    return lax.map(jax.checkpoint(one), z.astype(jnp.float32)).mean()


def epps_pulley(x, knots: int = 17, end: float = 3.0):
    """Epps-Pulley's statistic of each column of x [..., B, M] -> [..., M]: B times the squared
    distance of the empirical characteristic function from exp(-t^2 / 2), weighted by the same, over
    -end <= t <= end; by symmetry twice the trapezoids of 0 <= t (LeJEPA, equation 7, its code)."""
    t = jnp.linspace(0, end, knots)
    bell = jnp.exp(-jnp.square(t) / 2)
    angle = x.astype(jnp.float32)[..., None] * t
    error = jnp.square(jnp.cos(angle).mean(-3) - bell) + jnp.square(jnp.sin(angle).mean(-3))
    return x.shape[-2] * 2 * jnp.trapezoid(error * bell, t, axis=-1)
