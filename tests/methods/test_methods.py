"""What a method's step does beyond the laws: buffers, schedules, who sees what."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, in_make_laws, make_mesh
from helpers import image_info
from jax.sharding import PartitionSpec as P

from jssl import methods, metrics
from jssl.config import Config, UserError, load
from jssl.parallel import mesh
from jssl.training import loop
from jssl.training.setup import rng_keys, setup_run

STILL = {  # views that are the image itself
    "augment.crop_scale": "(1.0, 1.0)",
    "augment.crop_ratio": "(1.0, 1.0)",
    "augment.flip_prob": "0",
}


COLORS_STAY = {"augment.jitter_prob": "0", "augment.gray_prob": "0", "augment.solarize_prob": "0"}


@functools.cache
def run_of(name, *changes):
    """The run of a tiny recipe whose views are crops and flips; they compile in less time."""
    config = Config(load(f"configs/{name}.py:tiny", COLORS_STAY | dict(changes)))
    return setup_run(config, make_mesh(1))


def batch_of(run, first=0, n=16):
    batch = run.data.source.read(np.arange(first, first + n))
    batch.pop("damaged")
    return batch


def steps(run, batches):
    """[(state, metrics)] from the first state on; one key a step, as in the loop."""
    rng, state, found = rng_keys(run.config)[1], run.init(), []
    step = jax.jit(run.method.train_step)
    for batch in batches:
        state, metrics = step(state, batch, jax.random.fold_in(rng, state.step))
        found.append((state, metrics))
    return found


def test_simclr_pairs_the_two_views_of_an_image():
    """Two equal views are each other's nearest, whatever the weights; wrong pairs are not."""
    run = run_of("simclr_digits", *STILL.items())
    ((_, metrics),) = steps(run, [batch_of(run)])
    assert metrics["contrastive_top1"] == 1.0


@in_make_laws
def test_simclr_with_the_decoupled_loss():
    """The same views and weights, another loss."""
    plain = run_of("simclr_digits", *STILL.items())
    run = run_of("simclr_digits", *STILL.items(), ("loss", "dclw"))
    ((_, found),), ((_, wanted),) = (steps(r, [batch_of(r)]) for r in (run, plain))
    assert found["contrastive_top1"] == wanted["contrastive_top1"]
    assert found["loss"] != wanted["loss"] and np.isfinite(found["loss"])
    with pytest.raises(UserError, match="config.loss='dlc'.*did you mean 'dcl'"):
        methods.load(Config(load("configs/simclr_digits.py:tiny", {"loss": "dlc"})), image_info())


def test_byol_target_is_the_average_and_gets_no_gradient():
    """After two steps: the average of the first two weights, and no optimizer slot of its own."""
    run = run_of("byol_cifar10", ("ema_decay", "0.9"), ("ema_decay_final", "0.9"))
    first = run.init()
    (second, _), (third, _) = steps(run, [batch_of(run)] * 2)
    for name in ("encoder", "head"):
        wanted = jax.tree.map(
            lambda a, b: 0.9 * a + 0.1 * b, first.params[name], second.params[name]
        )
        chex.assert_trees_all_close(third.buffers["teacher"][name], wanted, rtol=1e-4, atol=1e-6)
    assert "predictor" not in third.buffers["teacher"]


@pytest.mark.parametrize("name", ["byol", "simsiam", "nnclr", "moco_v3"])
def test_a_predictor_as_wide_as_the_head(name):
    config = Config(load(f"configs/{name}_cifar10.py:tiny", {"head.features": "(16, 4)"}))
    with pytest.raises(UserError, match="ends in 8 and --config.head.features in 4"):
        methods.load(config, image_info())


def test_moco_queue_holds_the_newest_keys_in_the_order_of_the_views():
    """Equal views and a target that equals the network: keys are what the queue gets, unshuffled,
    and each query's own key is its nearest, as both come of the same image."""
    run = run_of("moco_cifar10", *STILL.items(), ("bn_splits", "1"))
    (one, metrics), (two, _) = steps(run, [batch_of(run), batch_of(run, 16)])
    queue, later = (np.asarray(s.buffers["queue"]) for s in (one, two))
    np.testing.assert_allclose(queue[0:32:2], queue[1:32:2], atol=1e-4)  # pairs are neighbors
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-4)
    np.testing.assert_array_equal(later[32:], queue[:32])
    assert metrics["contrastive_top1"] == 1.0 and metrics["alignment"] < 1e-5


def test_moco_says_what_it_needs():
    for words, said in (
        ({"bn_splits": "5"}, "config.bn_splits=5: must divide the 32 views"),
        ({"queue_size": "16"}, "config.queue_size=16: must hold"),
    ):
        with pytest.raises(UserError, match=said):
            methods.load(Config(load("configs/moco_cifar10.py:tiny", words)), image_info())


def test_nnclr_takes_neighbors_from_the_queue_of_earlier_images():
    run = run_of("nnclr_cifar10", *STILL.items())
    (one, _), (two, metrics) = steps(run, [batch_of(run)] * 2)
    queue = np.asarray(two.buffers["queue"])
    np.testing.assert_array_equal(queue[16:32], np.asarray(one.buffers["queue"])[:16])
    assert metrics["neighbor_agreement"] == 1.0, "equal views have the same neighbor"


def test_swav_prototypes_lie_on_the_sphere_and_wait():
    """Frozen for one step, then trained; normalized at the start of each step."""
    run = run_of("swav_cifar10", ("sinkhorn_iterations", "8"))
    first = run.init().params["prototypes"]
    (one, _), (two, _), (three, metrics) = steps(run, [batch_of(run)] * 3)
    np.testing.assert_allclose(np.linalg.norm(first, axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(one.params["prototypes"], first, atol=1e-6)
    assert np.abs(two.params["prototypes"] - first).max() > 1e-5
    queue = three.buffers["queue"]
    assert set(queue) == {"a", "b"} and queue["a"].shape == (32, 8)
    assert np.abs(queue["a"]).sum(1).min() > 0, "two batches of 16 have filled it"
    assert 0 < metrics["usage_entropy"] <= np.log(12) + 1e-5


def test_swav_codes_share_the_batch_out_evenly():
    """Sinkhorn's point: the prototypes are used about equally, even at random weights."""
    run = run_of("swav_cifar10", ("sinkhorn_iterations", "8"))
    ((_, metrics),) = steps(run, [batch_of(run)])
    assert metrics["usage_entropy"] > 0.98 * np.log(12)


def test_dino_center_temperature_and_last_layer():
    run = run_of("dino_cifar10")
    first = run.init()
    found = steps(run, [batch_of(run)] * 2)
    (one, m_one), (two, m_two) = found
    np.testing.assert_allclose([m_one["teacher_temperature"], m_two["teacher_temperature"]],
                               [0.04, 0.05], rtol=1e-5)  # fmt: skip

    def same(s):
        return np.array_equal(
            s.params["prototypes"]["direction"], first.params["prototypes"]["direction"]
        )

    assert same(one) and not same(two), "the last layer waits for a step"
    assert np.abs(one.buffers["center"]).max() > 0
    learned = run_of("dino_cifar10", ("norm_last_layer", "false"))
    assert set(learned.init().params["prototypes"]) == {"direction", "scale"}


def test_dinos_center_moves_by_its_momentum():
    """From zero: (1 - m) times the batch's mean, which is the same whatever m is."""
    slow, fast = run_of("dino_cifar10"), run_of("dino_cifar10", ("center_momentum", "0.25"))
    slow, fast = (steps(run, [batch_of(run)])[0][0].buffers["center"] for run in (slow, fast))
    np.testing.assert_allclose(fast / 0.75, slow / 0.1, rtol=1e-4, atol=1e-6)
    for wrong in ("1.0", "-0.1"):
        with pytest.raises(UserError, match=f"config.center_momentum={wrong}: must be at least 0"):
            methods.load(
                Config(load("configs/dino_cifar10.py:tiny", {"center_momentum": wrong})),
                image_info(),
            )


@in_make_laws
def test_dino_with_sinkhorn_centering():
    run = run_of("dino_cifar10", ("centering", "sinkhorn"))
    ((_, metrics),) = steps(run, [batch_of(run)])
    assert np.isfinite(metrics["loss"]) and metrics["assignment_entropy"] < np.log(12)
    other = Config(load("configs/dino_cifar10.py:tiny", {"centering": "centre"}))
    with pytest.raises(UserError, match="config.centering='centre'"):
        methods.load(other, image_info())


def test_deepcluster_files_by_index_and_clusters_in_time():
    run = run_of("deepcluster_v2_cifar10")
    (one, m_one), (two, m_two) = steps(run, [batch_of(run)] * 2)
    bank = one.buffers["bank"]
    assert bank["a"].shape == (1024, 8) and m_one["loss"] == 0
    np.testing.assert_array_equal(np.flatnonzero(bank["seen"]), np.arange(16))
    np.testing.assert_allclose(np.linalg.norm(bank["a"][:16], axis=1), 1, rtol=1e-5)
    assert (np.asarray(bank["label"]) == -1).all()
    label = np.asarray(two.buffers["bank"]["label"])
    assert (label[16:] == -1).all() and m_two["loss"] > 0
    for head, (k, name) in enumerate([(6, "a"), (4, "b")]):
        centroids = np.asarray(two.buffers["centroids"][str(head)])
        assert centroids.shape == (k, 8) and set(label[:16, head]) <= set(range(k))
        nearest = (np.asarray(bank[name])[:16] @ centroids.T).argmax(1)
        np.testing.assert_array_equal(label[:16, head], nearest)
    frozen = jax.tree.leaves(jax.tree.map(jnp.array_equal, one.params, run.init().params))
    assert all(frozen), "nothing is trained before there are clusters"


def test_deepcluster_learns_clusters_of_features_with_a_new_classifier():
    run = run_of("deepcluster_cifar10", ("num_clusters", "6"))
    found = steps(run, [batch_of(run)] * 3)
    kernels = [np.asarray(s.params["classifier"]["kernel"]) for s, _ in found]
    assert found[0][0].buffers["bank"]["a"].shape[1] == kernels[0].shape[0] == 16
    assert np.abs(kernels[2] - kernels[1]).max() > 1e-3, "drawn anew at each clustering"
    assert 0 < found[1][1]["loss"] < 3


def test_lejepa_draws_views_to_their_mean():
    """Equal views have one embedding, so that only SIGReg is left of the loss."""
    still = dict(STILL) | {"sigreg_weight": "0.25"}
    run = run_of("lejepa_cifar10", *still.items())
    ((_, metrics),) = steps(run, [batch_of(run)])
    assert metrics["prediction"] < 1e-6
    np.testing.assert_allclose(metrics["loss"], 0.25 * metrics["sigreg"], rtol=1e-4)


def test_the_rank_is_there_when_due():
    run = run_of("simclr_cifar10", ("log.rank_every", "2"))
    ranks = [float(metrics["rank"]) for _, metrics in steps(run, [batch_of(run)] * 4)]
    assert [rank == metrics.NOT_DUE for rank in ranks] == [True, False, True, False]
    assert 1 <= ranks[1] <= 8


def test_queues_and_banks_are_shared_out_over_all_devices():
    """And checkpoints hold them: they are part of the state that the laws save and restore."""
    eight = make_mesh(4, 2)
    for name, key in (
        ("moco", "queue"),
        ("nnclr", "queue"),
        ("swav", "queue"),
        ("deepcluster", "bank"),
    ):
        run = setup_run(Config(load(f"configs/{name}_cifar10.py:tiny")), eight)
        for leaf in jax.tree.leaves(run.shapes.buffers[key]):
            assert leaf.sharding.spec == P(mesh.AXES), (name, leaf)
    odd = mesh.shardings({"buffers": {"queue": jax.ShapeDtypeStruct((7, 2), jnp.float32)}}, eight)
    assert odd["buffers"]["queue"].spec == P()


def test_the_probes_never_reach_the_encoder(tmp_path):
    """The law of the online linear probe: the same run without it ends at the same parameters."""
    found = {}
    for epochs in (0, 3):
        words = {"eval.online_linear_epochs": str(epochs), "log.tensorboard": "false"}
        tree = load("configs/simclr_cifar10.py:tiny", words)
        found[epochs] = loop.train(tree, str(tmp_path / str(epochs)))
    assert found[0]["params_sha256"] == found[3]["params_sha256"]
    assert found[0]["linear_top1"] is None and 0 <= found[3]["linear_top1"] <= 1
    assert found[0]["knn_top1"] == found[3]["knn_top1"]


def used_leaves(function, state, *rest):
    """The paths of the leaves of `state` that a function reads."""
    flat, tree = jax.tree.flatten(state)
    traced = jax.make_jaxpr(lambda leaves: function(jax.tree.unflatten(tree, leaves), *rest))(flat)
    read = {id(x) for equation in traced.jaxpr.eqns for x in equation.invars}
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    rows = zip(paths, traced.jaxpr.invars, strict=True)
    return {jax.tree_util.keystr(path) for path, x in rows if id(x) in read}


@pytest.mark.parametrize("name", sorted(methods.names()))
def test_embeds_says_whose_encoder_evaluations_use(name):
    recipes = [path.stem for path in (ROOT / "configs").glob(f"{name}_*.py")]
    recipe = min(path for path in recipes if not path.endswith("continue"))
    run = setup_run(Config(load(f"configs/{recipe}.py:tiny")), make_mesh(1))
    read = used_leaves(run.method.embed, run.shapes, run.example)
    of_teacher = {path for path in read if "['teacher']['encoder']" in path}
    of_student = {path for path in read if path.startswith(".params['encoder']")}
    assert read and bool(of_teacher) == (run.method.embeds == "teacher")
    assert bool(of_student) == (run.method.embeds == "encoder")
