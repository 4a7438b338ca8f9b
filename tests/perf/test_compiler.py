"""The options of the compiler: known ones only, the user's first, and what they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_mesh

from jssl.nn import heads
from jssl.perf import compiler


@pytest.fixture
def fresh():
    """No options are remembered, before and after."""
    compiler.options.cache_clear()
    yield
    compiler.options.cache_clear()


def test_an_option_or_a_value_that_jaxlib_does_not_know_is_left_out(fresh, monkeypatch):
    wrong = {"xla_of_the_future": "1", "xla_cpu_prefer_vector_width": "wide"}
    right = {"xla_cpu_prefer_vector_width": "256"}
    monkeypatch.setattr(compiler, "OPTIONS", {"cpu": wrong, "tpu": wrong})
    assert compiler.options("cpu") == {} == compiler.options("gpu")
    compiler.options.cache_clear()
    monkeypatch.setattr(compiler, "OPTIONS", {"cpu": right})
    assert compiler.options("cpu") == right


def test_what_the_user_sets_is_kept(fresh, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=")
    assert compiler.options("cpu") == {}


def test_convolutions_on_a_cpu_are_xlas_own_and_sums_are_not():
    x, w = jnp.ones((8, 16, 16, 32)), jnp.ones((3, 3, 32, 32))

    def convolve(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def both(x, w):
        return convolve(x, w), x.sum((0, 1, 2))

    ours = compiler.jit(both, make_mesh(1)).lower(x, w).compile()
    theirs = jax.jit(both).lower(x, w).compile()
    calls = [program.as_text().count("__ynn_fusion") for program in (ours, theirs)]
    assert calls[0] < calls[1], calls
    np.testing.assert_allclose(ours(x, w)[0], theirs(x, w)[0], rtol=1e-6)


def test_initial_weights_have_the_bits_of_a_longer_compilation(fresh, monkeypatch):
    """The tests themselves compile at level 0, which has other bits."""
    monkeypatch.delenv("XLA_FLAGS")
    assert compiler.options("cpu, once") == compiler.CPU_ONCE
    net = heads.MLP(
        (64, 8), norm=True, last_norm=True, last_scale=True, last_bias=True, activation="relu",
        initializer="torch", dtype=jnp.dtype("float32"),
    )  # fmt: skip

    def draw(key):
        return net.init(key, jnp.ones((2, 32)), train=False)

    ours = compiler.jit(draw, make_mesh(1), runs_once=True)(jax.random.key(0))
    longer = jax.jit(draw, compiler_options={"xla_backend_optimization_level": "3"})
    jax.tree.map(np.testing.assert_array_equal, ours, longer(jax.random.key(0)))
