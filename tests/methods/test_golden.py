"""Losses, value and gradient, against numbers of another library: lightly, in PyTorch. See
tests/golden/lightly_losses.py, which made them and says of each what lightly computes."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from jssl import losses, ops

FILE = ROOT / "tests" / "golden" / "lightly_losses.json"
GOLDEN = json.loads(FILE.read_text())["cases"]


def close(ours, theirs):
    """Within 1e-4 of each number, or where numbers cancel within 1e-6 of the array's largest."""
    largest = np.abs(theirs).max()
    assert largest > 0
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6 * largest)


def compare(name, loss, factor=1.0, offset=0.0, cut=()):
    """loss(**inputs) is offset + factor times lightly's, in value and in every gradient.

    cut: inputs to which lightly passes a gradient and leaves it to the caller to stop it, and we
    pass none.
    """
    case = GOLDEN[name]
    value, gradients = jax.jit(jax.value_and_grad(lambda x: loss(**x)))(inputs_of(name))
    gradients = {key: np.asarray(gradient) for key, gradient in gradients.items()}
    close(value, offset + factor * case["value"])
    assert set(gradients) == set(case["gradients"])
    for key, theirs in case["gradients"].items():
        if key in cut:
            assert np.any(theirs) and not np.any(gradients[key])
        else:
            close(gradients[key], factor * np.float32(theirs))


def array(name, key):
    return np.float32(GOLDEN[name][key])


def inputs_of(name):
    return {key: np.float32(x) for key, x in GOLDEN[name]["inputs"].items()}


@pytest.fixture(params=[losses.contrastive.CHUNK_COLUMNS, 4], ids=["whole", "chunks"])
def chunk(request, monkeypatch):
    """The similarity matrix at once, and a few columns at a time."""
    monkeypatch.setattr(losses.contrastive, "CHUNK_COLUMNS", request.param)
    if request.param == 4:
        monkeypatch.setattr(losses.contrastive, "MAX_DENSE_ELEMENTS", 0)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent(chunk, temperature):
    compare(f"nt_xent_{temperature}", lambda z_a, z_b: losses.nt_xent(z_a, z_b, temperature)[0])


def test_dcl(chunk):
    compare("dcl", lambda z_a, z_b: losses.dcl(z_a, z_b, 0.1)[0])


def test_dclw(chunk):
    compare("dclw", lambda z_a, z_b: losses.dcl(z_a, z_b, 0.1, sigma=0.5)[0])


def test_info_nce_with_a_queue(chunk):
    compare("moco", lambda q, k: losses.info_nce(q, k, 0.2, array("moco", "bank"))[0])


def test_info_nce_within_the_batch(chunk):
    # The gradient of the keys is not in the file: to lightly they are a bank, which gets none.
    compare("info_nce", lambda q: losses.info_nce(q, array("info_nce", "k"), 0.2)[0])


def test_push():
    """lightly's bank is a ring, written from row 0 on; ours is the same rows, newest first."""
    keys = inputs_of("moco")["k"]
    ring = array("moco", "bank_after")
    push = jax.jit(lambda bank, keys: ops.enqueue(bank, ops.l2_normalize(keys)))
    ours = push(array("moco", "bank")[::-1], keys)  # row 0 is the oldest of the ring
    close(ours, np.concatenate([ring[: len(keys)], ring[len(keys) :][::-1]]))


def test_regression():
    # BYOL's equation 2 is 2 - 2 cos; lightly has SimSiam's -cos.
    compare("negative_cosine", losses.byol_loss, factor=2, offset=2, cut=["z"])


def test_barlow():
    compare("barlow", lambda z_a, z_b: losses.barlow_twins(z_a, z_b, 5e-3))


def test_vicreg():
    vicreg = partial(losses.vicreg, invariance=25, variance=25, covariance=1)
    compare("vicreg", lambda z_a, z_b: vicreg(z_a, z_b)[0])
    terms = jax.jit(vicreg)(**inputs_of("vicreg"))[1]
    assert set(terms) == set(GOLDEN["vicreg"]["terms"])
    for name, theirs in GOLDEN["vicreg"]["terms"].items():
        close(terms[name], theirs)


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn(iterations):
    case = GOLDEN[f"sinkhorn_{iterations}"]
    sinkhorn = jax.jit(partial(ops.sinkhorn, epsilon=0.05, iterations=iterations))
    codes = sinkhorn(np.float32(case["inputs"]["scores"]))
    np.testing.assert_allclose(codes, case["value"], rtol=1e-4)


def test_swav():
    """Equation 1 with multi-crop: the codes of each large crop are what every other crop tells."""

    def swav(high, low):
        crops = [*high, *low]
        terms = [
            losses.soft_cross_entropy(crops[v] / 0.1, ops.sinkhorn(high[i], 0.05, 3))
            for i in range(len(high))
            for v in range(len(crops))
            if v != i
        ]
        return jnp.stack(terms).mean()

    compare("swav", swav)


def test_dino():
    """Equation 3: every crop but its own tells what the teacher says of a global crop."""
    center = array("dino", "center")

    def dino(teacher, student):
        targets = jax.nn.softmax((teacher - center) / 0.04)
        terms = [
            losses.soft_cross_entropy(student[s] / 0.1, targets[t])
            for t in range(len(teacher))
            for s in range(len(student))
            if s != t
        ]
        return jnp.stack(terms).mean()

    compare("dino", dino, cut=["teacher"])
    teacher = inputs_of("dino")["teacher"]
    after = jax.jit(ops.ema)(center, teacher.mean((0, 1)), 0.9)
    close(after, array("dino", "center_after"))


def on_directions(z, directions):
    """`sigreg` with given directions."""
    return losses.epps_pulley(z @ directions).mean()


def test_sigreg():
    compare("sigreg", lambda z: on_directions(z, array("sigreg", "directions")))


def test_lejepa():
    def lejepa(z_global, z_local):
        z = jnp.concatenate([z_global, z_local])
        distance = jnp.square(z - z_global.mean(0)).mean()
        return 0.05 * on_directions(z, array("lejepa", "directions")) + 0.95 * distance

    compare("lejepa", lejepa)
