"""Layers on CPUs are two-dimensional products, and equal to Flax's own layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_mesh

from jssl.nn import products
from jssl.parallel import mesh

LAYERS = {
    "dense": (nn.Dense(5), products.Dense(5), (2, 3, 4)),
    "1x1": (nn.Conv(5, (1, 1)), products.Conv(5, (1, 1)), (2, 6, 6, 4)),
    "1x1 of stride 2": (
        nn.Conv(5, (1, 1), (2, 2), padding="VALID"),
        products.Conv(5, (1, 1), (2, 2), padding="VALID"),
        (2, 7, 6, 4),
    ),
    "1x1, padded": (
        nn.Conv(5, (1, 1), padding=[(1, 0), (0, 0)]),
        products.Conv(5, (1, 1), padding=[(1, 0), (0, 0)]),
        (2, 6, 6, 4),
    ),
    "3x3": (nn.Conv(5, (3, 3)), products.Conv(5, (3, 3)), (2, 6, 6, 4)),
}


def value_and_gradients(layer, params, x):
    def loss(params, x):
        y = layer.apply(params, x)
        return jnp.sin(y).sum(), y

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)


@pytest.mark.parametrize("name", LAYERS)
def test_they_are_flaxs_layers(name):
    theirs, ours, shape = LAYERS[name]
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    params = theirs.init(jax.random.key(0), x)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, params, ours.init(jax.random.key(0), x)))
    for one, other in zip(
        jax.tree.leaves(value_and_gradients(ours, params, x)),
        jax.tree.leaves(value_and_gradients(theirs, params, x)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "cpu", "elsewhere"), [("dense", [1], [2]), ("1x1", [1], []), ("3x3", [], [])]
)
def test_the_weight_gradient_on_a_cpu_sums_over_one_dimension(name, cpu, elsewhere, monkeypatch):
    _, layer, shape = LAYERS[name]
    x = jnp.zeros(shape)
    params = layer.init(jax.random.key(0), x)

    def summed_dimensions():
        jaxpr = jax.make_jaxpr(jax.grad(lambda params: layer.apply(params, x).sum()))(params)
        dots = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
        return [len(dot.params["dimension_numbers"][0][0]) for dot in dots]

    for is_cpu, expected in ((True, cpu), (False, elsewhere)):
        monkeypatch.setattr(products, "on_cpu", lambda is_cpu=is_cpu: is_cpu)
        assert summed_dimensions()[-1:] == expected


def test_the_mesh_says_what_the_program_is_for(monkeypatch):
    seen = mesh.with_mesh(make_mesh(1), lambda: mesh.on_cpu())
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert not mesh.on_cpu()
    assert seen()
