"""Updates that are not finite are skipped whoever wrote the step; a fork cannot forget it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jssl import metrics
from jssl.config import UserError
from jssl.core import Method, Objective, TrainState, gradient_step
from jssl.training.gradients import minimize, skip_nonfinite_updates


def two_players(rate, report=lambda a, b: {"loss": a["loss"]}, moves=True):
    """Two vectors that pull at each other, with an optimizer each and no guard."""
    tx = optax.adam(rate)

    def init(rng, batch):
        params = {"encoder": jnp.ones(3), "critic": -jnp.ones(3)}
        state = {name: tx.init(value) for name, value in params.items()}
        return TrainState(jnp.int32(0), params, state, {"seen": jnp.float32(0), "mask": -jnp.inf})

    def train_step(state, batch, rng):
        p, o = state.params, state.opt_state

        def pull(x):
            return (jnp.sum((x * batch["x"] - p["critic"]) ** 2), None)

        def push(y):
            return (-jnp.sum((p["encoder"] - y) ** 2), None)

        a, oa, _, first = gradient_step(pull, p["encoder"], o["encoder"], tx)
        b, ob, _, second = gradient_step(push, p["critic"], o["critic"], tx)
        new = state.replace(
            params={"encoder": a, "critic": b}, opt_state={"encoder": oa, "critic": ob},
            buffers=state.buffers | {"seen": state.buffers["seen"] + batch["x"].sum()},
        )  # fmt: skip
        return new.replace(step=state.step + moves), report(first, second)

    return skip_nonfinite_updates(Method(init, train_step, None), "mine.method")


def run(method, *batches):
    state = method.init(jax.random.key(0), None)
    step = jax.jit(method.train_step)
    for x in batches:
        state, metrics = step(state, {"x": jnp.float32(x)}, jax.random.key(0))
    return state, metrics


def test_a_rate_that_is_far_too_high_is_seen_in_a_method_without_a_guard():
    state, metrics = run(two_players(1e20), *[np.full(3, 2.0)] * 6)
    assert int(metrics["skipped"]) == int(state.skipped[1]) >= 4
    chex.assert_tree_all_finite(state.params)


def test_a_finite_step_is_the_method_s_own_bit_for_bit():
    method = two_players(0.1)
    state, metrics = run(method, *[np.ones(3)] * 3)
    assert state.skipped.tolist() == [0, 0] and state.step == 3
    assert np.isneginf(state.buffers["mask"]), "what never was finite is no fault"
    assert (state.params["encoder"] != 1).all() and metrics.keys() >= {"loss", "skipped"}


BAD = {
    "the second player's weights": lambda a, b: {"loss": jnp.float32(1)},
    "the loss": lambda a, b: {"loss": a["loss"]},
    "the gradient": lambda a, b: {"loss": jnp.float32(1), "critic_grad_norm": a["grad_norm"]},
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_batch_changes_nothing_but_the_step(what):
    method = two_players(0.1, BAD[what], moves=False)
    good, _ = run(method, np.ones(3))
    state, metrics = run(method, np.ones(3), np.full(3, np.nan))
    assert (
        state.step == 2 and state.skipped.tolist() == [1, 1] and metrics["skipped_consecutive"] == 1
    )
    for part in ("params", "opt_state", "buffers"):
        chex.assert_trees_all_equal(getattr(state, part), getattr(good, part))


@pytest.mark.parametrize("bad", [{"loss": np.nan}, {"loss": 1.0, "critic_grad_norm": np.inf}])
def test_what_the_metrics_say_counts_where_the_state_is_finite(bad):
    """Adam makes a finite update of a gradient that is infinite."""
    method = two_players(0.1, lambda a, b: {key: jnp.float32(x) for key, x in bad.items()})
    state, metrics = run(method, np.ones(3))
    assert state.skipped.tolist() == [1, 1] and metrics["skipped"] == 1
    assert (state.params["encoder"] == 1).all()


def test_a_method_that_guards_itself_is_left_as_it_is():
    objective = Objective(
        lambda rng, batch: ({"encoder": jnp.ones(3)}, {}),
        lambda params, state, batch, rng: (
            jnp.sum((params["encoder"] * batch["x"]) ** 2),
            ({}, {}),
        ),
        None,
    )
    plain = minimize(objective, optax.sgd(0.1))
    wrapped = skip_nonfinite_updates(plain, "mine")
    given = (plain.init(jax.random.key(0), None), {"x": jnp.ones(3)}, jax.random.key(0))
    one, two = (str(jax.make_jaxpr(m.train_step)(*given)) for m in (plain, wrapped))
    assert one == two


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (lambda a, b: {}, "metrics without 'loss'"),
        (lambda a, b: None, "metrics without 'loss'"),
        (lambda a, b: {"loss": jnp.ones(3)}, r"the metric 'loss' has the shape \(3,\)"),
        (lambda a, b: a | {"gap": jnp.ones((2, 1))}, r"the metric 'gap' has the shape \(2, 1\)"),
    ],
)
def test_wrong_metrics_are_named_while_the_step_is_traced(report, said):
    with pytest.raises(UserError, match=f"config.method='mine.method': .*{said}"):
        run(two_players(0.1, report), np.ones(3))


def test_what_is_not_due_is_no_nan():
    """JAX_DEBUG_NANS looks at all that a step gives, at each step."""
    from ml_collections import ConfigDict

    from jssl.training.observers import fetch

    watch = metrics.monitor_from_config(ConfigDict({"log": {"rank_every": 3}, "steps": 7}))
    z = jax.random.normal(jax.random.key(0), (8, 4))
    with jax.debug_nans(True):
        found = [jax.jit(watch)(jnp.int32(step), z, -z) for step in range(7)]
    assert all(np.isfinite(value) for one in found for value in one.values())
    due = [step + 1 for step, one in enumerate(found) if "rank" in fetch(one)]
    assert due == [3, 6, 7]
    assert {"feature_std", "uniformity", "alignment"} <= fetch(found[0]).keys()
