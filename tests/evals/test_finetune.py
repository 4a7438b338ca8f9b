"""Fine-tuning and the low-shot probe: against references, from checkpoints, and their traps."""

import json
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_mesh
from helpers import image_info, text_info

from jssl import cli, nn
from jssl.commands import evaluate
from jssl.config import Config, UserError, load
from jssl.data import DataConfig
from jssl.data.loader import Feed
from jssl.data.sources import packed
from jssl.evals import finetune, knn, linear, lowshot
from jssl.optim import layers
from jssl.training.setup import setup_run

RESNET, VIT = "configs/simclr_digits.py:tiny", "configs/mae_imagenette.py:tiny"
BERT = "configs/bert_small_books.py:tiny"
PLAIN = {  # nothing random in the inputs, all layers learn
    "finetune.batch_size": "16", "finetune.lr": "0.1", "finetune.layer_decay": "1.0",
    "finetune.drop_path": "0", "finetune.mixup": "0", "finetune.label_smoothing": "0",
    "finetune.crop_scale": "(1.0, 1.0)", "finetune.flip_prob": "0", "eval.size": "0",
    "finetune.epochs": "60", "data.split": "train[:16]", "eval.batch_size": "16",
    "finetune.warmup_fraction": "0",
}  # fmt: skip


def run_of(recipe, devices=1, source=None, model="", **changes):
    """A prepared run, of another `model` if it is named; `changes` are keys of its section
    finetune."""
    overrides = PLAIN | {f"finetune.{key}": str(value) for key, value in changes.items()}
    overrides |= {"model.name": model} if model else {}
    return setup_run(Config(load(recipe, overrides)), make_mesh(devices), source)


STATES = {}


def start_of(run):
    """The state at step 0; settings of fine-tuning do not change it."""
    key = (run.config.method, str(run.config._tree.model), run.mesh.size)
    if key not in STATES:
        STATES[key] = run.init()
    return STATES[key]


def tune(run):
    def quiet(what):
        return lambda *now: None

    return finetune.finetune(run, start_of(run), run.data.source, quiet)


def method_of(run):
    return finetune.build(run, finetune.optimizer(run.config.finetune, 100))


# --- the learning rate of each layer ---------------------------------------------------------


def params_of(**model):
    section = dict(load(VIT).model) | {"positions": "learned"} | model
    encoder = nn.encoder(section)
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(lambda: encoder.init(jax.random.key(0), images, train=False))["params"]
    head = {"kernel": jnp.zeros((32, 10)), "bias": jnp.zeros(10)}
    return {"encoder": params, "head": head}


def published(name: str, depth: int) -> int:
    """The layer of a timm parameter, as BEiT and MAE count."""
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks") else depth + 1


def scales_of(params, decay=0.5):
    flat = jax.tree_util.tree_flatten_with_path(layers.layer_scales(params, decay))[0]
    return {jax.tree_util.keystr(p, simple=True, separator="."): x for p, x in flat}


def test_layer_scales_of_a_vit_are_the_published_ones():
    found = scales_of(params_of())
    assert found["encoder.blocks.0.attn.qkv.kernel"] == 0.25
    assert {"encoder.cls_token", "encoder.pos_embed", "encoder.norm.scale"} <= found.keys()
    for name, scale in found.items():
        layer = published(name.removeprefix("encoder."), depth=2)
        assert scale == 0.5 ** (3 - layer), name


def test_layer_scales_of_scanned_blocks_are_those_of_unrolled_ones():
    stacked, unrolled = scales_of(params_of(scan=True)), scales_of(params_of())
    scale = stacked["encoder.blocks.layers.mlp.fc1.kernel"]
    assert scale.shape == (2, 1, 1)
    for i in range(2):
        assert scale[i, 0, 0] == unrolled[f"encoder.blocks.{i}.mlp.fc1.kernel"]
    assert stacked["encoder.patch_embed.kernel"] == unrolled["encoder.patch_embed.kernel"] == 0.125


def test_layer_scales_of_a_resnet_go_by_stages():
    model = dict(load(RESNET, {"model.name": "resnet10"}).model)
    encoder = nn.encoder(model)
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(lambda: encoder.init(jax.random.key(0), images, train=False))["params"]
    found = scales_of({"encoder": params, "head": {"bias": jnp.zeros(10)}})
    assert found["encoder.conv1.kernel"] == found["encoder.bn1.scale"] == 0.5**5
    assert found["encoder.layer1_0.conv1.kernel"] == 0.5**4
    assert found["encoder.layer4_0.bn2.bias"] == 0.5 and found["head.bias"] == 1
    assert set(scales_of(params_of(), 1.0).values()) == {np.float32(1)}


def test_the_optimizer_is_adamw_with_these_rates():
    """Two steps, by hand in NumPy: warm-up, cosine, decay that spares biases and norms."""
    section = Config(load(VIT, {"finetune.lr": "0.2", "finetune.batch_size": "128"})).finetune
    params = {
        "encoder": {"blocks": {"0": {"norm1": {"scale": jnp.array([2.0])}}},
                    "cls_token": jnp.array([3.0]), "patch_embed": {"kernel": jnp.array([4.0])}},
        "head": {"kernel": jnp.array([5.0])},
    }  # fmt: skip
    slopes = [jax.tree.map(lambda x, g=g: g * jnp.ones_like(x), params) for g in (0.3, -0.7)]
    tx = finetune.optimizer(section, 2)
    state, now = tx.init(params), params
    for slope in slopes:
        updates, state = tx.update(slope, state, now)
        now = optax.apply_updates(now, updates)

    def by_hand(w, scale, decay):
        m = v = 0.0
        for i, g in enumerate((0.3, -0.7)):
            rate = 0.2 * 128 / 256 * 0.5 * (1 + np.cos(np.pi * i / 2))  # no warm-up in 2 steps
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            adam = m / (1 - 0.9 ** (i + 1)) / (np.sqrt(v / (1 - 0.999 ** (i + 1))) + 1e-8)
            w -= scale * rate * (adam + decay * w)
        return w

    got = [float(x[0]) for x in jax.tree.leaves(now)]
    want = [by_hand(2.0, 0.75, 0), by_hand(3.0, 0.75**2, 0), by_hand(4.0, 0.75**2, 0.05)]
    np.testing.assert_allclose(got, [*want, by_hand(5.0, 1, 0.05)], rtol=1e-5)


# --- targets ---------------------------------------------------------------------------------


def test_targets_and_mixup_equal_numpy():
    rng, labels = np.random.default_rng(0), np.int32([2, 0, 3, 3])
    x = np.float32(rng.normal(size=(4, 2, 2, 3)))
    for smoothing, share in ((0.0, 0.3), (0.2, 0.9)):
        want = np.zeros((4, 5))
        for row in range(4):
            for weight, label in ((share, labels[row]), (1 - share, labels[3 - row])):
                want[row] += weight * smoothing / 5
                want[row, label] += weight * (1 - smoothing)
        got = finetune.mixup(finetune.smoothed_one_hot(labels, 5, smoothing), share)
        np.testing.assert_allclose(got, want, atol=1e-6)
        np.testing.assert_allclose(got.sum(1), 1, rtol=1e-6)
        mixed = np.stack([share * x[i] + (1 - share) * x[3 - i] for i in range(4)])
        np.testing.assert_allclose(finetune.mixup(x, share), mixed, rtol=1e-5, atol=1e-6)
    assert finetune.mixup(x.astype(jnp.bfloat16), 0.5).dtype == jnp.bfloat16


def test_an_unlabeled_row_has_no_target():
    got = np.asarray(finetune.smoothed_one_hot(np.int32([1, -1]), 4, 0.1))
    assert got[0].sum() == pytest.approx(1) and not got[1].any()


def test_mixup_reaches_the_loss():
    """A head that is not zero: then each share of the mixture has its own loss."""
    run = run_of(VIT, mixup=1.0)
    method, batch = method_of(run), run.data.source.read(np.arange(16))
    state = jax.jit(method.init)(jax.random.key(0), start_of(run))
    width = len(state.params["head"]["kernel"])
    head = {"kernel": np.eye(width, 10, dtype=np.float32), "bias": np.zeros(10, np.float32)}
    state = state.replace(params=state.params | {"head": head})
    step = jax.jit(method.train_step)
    mixed = [float(step(state, batch, jax.random.key(i))[1]["loss"]) for i in range(4)]
    plain = jax.jit(method_of(run_of(VIT)).train_step)
    clean = [float(plain(state, batch, jax.random.key(i))[1]["loss"]) for i in range(2)]
    assert clean[0] == pytest.approx(clean[1], rel=1e-6)
    later = state.replace(step=state.step + 1)
    mixed.append(float(step(later, batch, jax.random.key(0))[1]["loss"]))
    assert len({round(value, 5) for value in mixed}) == 5


# --- fine-tuning -----------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [RESNET, VIT])
def test_it_overfits_a_handful_of_images(recipe):
    model = "resnet10" if recipe == RESNET else ""  # resnet_test is too narrow
    found = tune(run_of(recipe, model=model))
    assert found.keys() == {"top1", "n_train", "n_test", "epochs", "seconds", "unreadable_examples"}
    assert found["top1"] == 1.0 and found["seconds"] > 0
    assert (found["n_train"], found["n_test"], found["epochs"]) == (16, 16, 60)


def test_it_starts_from_the_given_state_and_leaves_that_alone():
    run = run_of(RESNET)
    given = start_of(run)
    given = given.replace(params=jax.tree.map(lambda x: np.asarray(x) + 0.25, given.params))
    kept = jax.tree.map(np.asarray, (given.params, given.buffers))
    method = method_of(run)
    state = jax.jit(method.init)(jax.random.key(0), given)
    chex.assert_trees_all_equal(state.params["encoder"], given.params["encoder"])
    chex.assert_trees_all_equal(state.buffers["stats"], given.buffers["stats"]["encoder"])
    kernel = np.asarray(state.params["head"]["kernel"])
    assert 1e-5 < kernel.std() < 3e-5 and not state.params["head"]["bias"].any()
    batch = run.data.source.read(np.arange(16))
    after, _ = jax.jit(method.train_step, donate_argnums=0)(state, batch, jax.random.key(1))
    chex.assert_trees_all_equal((given.params, given.buffers), kept)

    def differ(x, y):
        return bool((np.asarray(x) != np.asarray(y)).any())

    moved = jax.tree.map(differ, after.params["encoder"], given.params["encoder"])
    assert all(jax.tree.leaves(moved)), moved  # every layer learns
    old, new = given.buffers["stats"]["encoder"], after.buffers["stats"]
    assert (old["bn1"]["mean"] != new["bn1"]["mean"]).any()


def test_eight_devices_equal_one(monkeypatch):
    """With mixup, whose pairs lie on different devices, and parameters that are split too."""
    monkeypatch.setattr("jssl.parallel.mesh.MIN_SHARD_SIZE", 1)
    changes, found = {"mixup": 0.8, "label_smoothing": 0.1, "lr": 1e-5}, []
    first = None
    for mesh in (make_mesh(1), make_mesh(4, 2)):
        run = run_of(RESNET, **changes)._replace(mesh=mesh)
        first = start_of(run) if first is None else first
        method = method_of(run)
        state = jax.jit(method.init)(jax.random.key(0), jax.device_get(first))
        places = finetune.mesh.shardings(jax.eval_shape(lambda s=state: s), mesh)
        state = jax.device_put(jax.device_get(state), places)
        feed = Feed(run.data, 0, 16, mesh, 0)
        step, losses = jax.jit(method.train_step, out_shardings=(places, None)), []
        for _ in range(3):
            state, metrics = step(state, feed.batch(feed.held, feed.next()), jax.random.key(3))
            losses.append((float(metrics["loss"]), float(metrics["grad_norm"])))
        feed.close()
        found.append((losses, jax.device_get(state.buffers), state.params))
    (one, one_buffers, _), (eight, eight_buffers, params) = found
    np.testing.assert_allclose(np.array(eight)[:, 0], np.array(one)[:, 0], rtol=1e-5)
    np.testing.assert_allclose(np.array(eight)[:, 1], np.array(one)[:, 1], rtol=2e-3)
    chex.assert_trees_all_close(eight_buffers, one_buffers, rtol=1e-3, atol=1e-5)
    assert any("fsdp" in leaf.sharding.spec for leaf in jax.tree.leaves(params))


def test_seeds_repeat_and_differ(monkeypatch):
    """Of keys; the feed gets the seed too, but here always the same order."""
    losses, seeds = [], []

    def feed(data, seed, *rest):
        seeds.append(seed)
        return Feed(data, 0, *rest)

    monkeypatch.setattr(finetune, "Feed", feed)
    for seed in (0, 0, 1):
        run, notes = run_of(VIT, seed=seed, epochs=9, mixup=0.8), []

        def say(what, notes=notes):
            return lambda *now: notes.append((what, *now))

        finetune.finetune(run, start_of(run), run.data.source, say)
        losses.append([note for what, _, _, *note in notes if "steps" in what])
    assert len(losses[0]) == 9 and losses[0][-1][0].startswith(", loss ")
    assert losses[0] == losses[1] != losses[2] and seeds == [0, 0, 1]


def test_views_are_random_in_training_alone():
    run = run_of(RESNET, crop_scale=(0.2, 1.0))
    read, batch = jax.jit(finetune.reader(run)), run.data.source.read(np.arange(4))
    (a, extra), (b, _) = (read(batch, jax.random.key(i)) for i in range(2))
    assert extra == {} and (a != b).any()
    np.testing.assert_array_equal(read(batch)[0], read(batch)[0])
    jittered, _ = jax.jit(finetune.reader(run_of(RESNET, view="augment")))(batch, jax.random.key(0))

    def hue(x):
        return np.ptp(np.asarray(x).reshape(4, -1, 3).mean(1), axis=1)

    assert (hue(jittered) != hue(a)).any()


def test_what_an_encoder_has_is_adapted():
    def adapted(recipe, **changes):
        words = {f"finetune.{key}": str(value) for key, value in changes.items()}
        return finetune.finetune_encoder(Config(load(recipe, words)), image_info())

    assert adapted(VIT, drop_path=0.2).drop_path == 0.2 and adapted(VIT, pool="").pool == "cls"
    assert adapted(VIT, pool="mean") == adapted(VIT, pool="").clone(pool="mean")
    assert adapted(RESNET, drop_path=0.2) == nn.encoder(load(RESNET).model)
    words = {"finetune.dropout": "0.3"}
    assert finetune.finetune_encoder(Config(load(BERT, words)), text_info(20)).style.dropout == 0.3
    for recipe, pool in ((VIT, "max"), (RESNET, "mean")):
        with pytest.raises(UserError, match=f"config.finetune.pool='{pool}': "):
            adapted(recipe, pool=pool)


def test_paths_are_dropped():
    """The loss of a step then depends on the key."""
    losses = []
    for rate in (0.0, 0.5):
        run = run_of(VIT, drop_path=rate)
        method, batch = method_of(run), run.data.source.read(np.arange(16))
        state = jax.jit(method.init)(jax.random.key(0), start_of(run))
        head = jax.tree.map(lambda x: 1e4 * np.asarray(x), state.params["head"])
        state = state.replace(params=state.params | {"head": head})
        step = jax.jit(method.train_step)
        losses.append([float(step(state, batch, jax.random.key(i))[1]["loss"]) for i in range(2)])
    (kept, again), (dropped, other) = losses
    assert kept == pytest.approx(again, rel=1e-6) and abs(dropped - other) > 1e-2


def with_labels(labels):
    """A run over len(labels) random images, 13 of them or so, in 3 classes."""
    labels = np.int32(labels)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
    source = packed.arrays(images, np.maximum(labels, 2), "made up")
    source.labels = labels
    return run_of(VIT, source=DataConfig(source, False, 0, 0.0), batch_size=8, epochs=2)


def test_unlabeled_examples_are_not_counted():
    """Batches of 8 straddle the epochs of 13."""
    found = tune(with_labels([0, -1, 1, 2, -1, 2, 1, 0, -1, 1, 1, 2, 0]))
    assert found["n_train"] == found["n_test"] == 10
    with pytest.raises(UserError, match="no example of the training set has a label"):
        tune(with_labels([-1] * 13))


def test_divergence_is_said():
    with pytest.raises(UserError, match="config.finetune.lr=1e[+]30: diverged; try 1e[+]29"):
        tune(run_of(VIT, lr=1e30))


@pytest.mark.parametrize("name", ["bert_test", "gpt_test"])
def test_tokens_are_classified_without_views(name):
    model = dict(
        name=name, length=6, positions="learned", pool="last", dropout=0.1, remat="none",
        scan=False, attention="auto", init=name.partition("_")[0], dtype="float32",
        residual_dtype="float32",
    )  # fmt: skip
    tree = load(
        VIT, PLAIN | {"finetune.mixup": "0.8", "finetune.pool": ""}
    ).unlock()  # mixes images
    del tree["augment"]
    tree.model = model
    rng = np.random.default_rng(0)
    tokens, label = np.int32(rng.integers(1, 20, (16, 6))), np.int32(np.arange(16) % 10)
    segment = np.int32(np.arange(6) < rng.integers(3, 7, (16, 1)))  # the rest is padding
    batch = {"tokens": tokens * segment, "segment": segment, "label": label}
    words = nn.encoder(model, 20)
    params = {
        "encoder": jax.jit(words.init, static_argnums=2)(jax.random.key(0), tokens, False)["params"]
    }
    run = types.SimpleNamespace(
        config=Config(tree), example={key: x[:2] for key, x in batch.items()},
        data_info=text_info(20, 6),
        data=types.SimpleNamespace(source=packed.arrays(np.zeros((16, 1, 1, 3), np.uint8),
                                                        np.int32([9] * 16), "words")),
    )  # fmt: skip
    method = finetune.build(run, optax.adam(0.01))
    pretrained = types.SimpleNamespace(params=params, buffers={})
    state = jax.jit(lambda key: method.init(key, pretrained))(jax.random.key(1))
    step, embed = jax.jit(method.train_step), jax.jit(method.embed)
    for i in range(80):
        state, metrics = step(state, batch, jax.random.key(i))
    np.testing.assert_array_equal(embed(state, batch)[:, 0], label)
    padded = batch | {"tokens": np.where(segment, tokens, 7)}
    np.testing.assert_array_equal(embed(state, padded)[:, 0], label)

    found = scales_of(state.params)
    assert found["encoder.tokens.embedding"] == found["encoder.pos_embed"] == 0.5**3
    assert found["encoder.norm.scale"] == (0.5**3 if name == "bert_test" else 1)
    assert found["encoder.blocks.1.mlp.fc1.kernel"] == 0.5


# --- the command -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A trained one of six steps."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    words = ["train", f"--config={RESNET}", f"--workdir={folder}", "--config.eval.every=0"]
    assert cli.main(words) == 0
    return folder


def ask(capfd, folder, protocol, *words):
    """(exit code, JSON or None, last line of stderr)."""
    code = cli.main(["eval", f"--workdir={folder}", f"--protocol={protocol}", *words])
    out, err = capfd.readouterr()
    return (
        code,
        json.loads(out.splitlines()[-1]) if out else None,
        err.splitlines()[-1] if err else "",
    )


SHORT = ["--config.finetune.epochs=1", "--config.finetune.batch_size=64"]


def test_finetune_and_lowshot_from_a_checkpoint(capfd, workdir):
    code, found, err = ask(capfd, workdir, "finetune", *SHORT)
    assert code == 0, err
    assert found["protocol"] == "finetune" and found["step"] == 6 and found["epochs"] == 1
    assert (found["n_train"], found["n_test"]) == (344, 72) and 0 <= found["top1"] <= 1
    words = ["--config.eval.lowshot_per_class=2", "--config.eval.lowshot_seeds=2"]
    code, found, err = ask(capfd, workdir, "lowshot", *words, "--config.eval.lowshot_epochs=3")
    assert code == 0, err
    assert found.keys() == {
        "protocol", "step", "top1", "std", "per_class", "seeds", "n_train", "n_test",
        "unreadable_examples"
    }  # fmt: skip
    assert found["n_train"] == 20 and found["seeds"] == 2 and found["per_class"] == 2


def test_untrained_is_the_state_before_training(capfd, workdir, monkeypatch, tmp_path):
    def seen(config, mesh, classes, train, test):
        return {"features": train[0].tolist()}

    monkeypatch.setitem(evaluate.FROZEN, "knn", seen)
    trained = ask(capfd, workdir, "knn")[1]
    code, untrained, err = ask(capfd, workdir, "knn", "--random-init")
    assert code == 0, err
    assert (trained["step"], untrained["step"]) == (6, 0)
    assert np.abs(np.subtract(trained["features"], untrained["features"])).max() > 1e-3
    run = setup_run(Config(load(RESNET)))
    features = evaluate.Features(run.method.embed, run.mesh, 256)
    want, _ = features(run.init(), run.data.source)
    np.testing.assert_array_equal(np.float32(untrained["features"]), want)


def test_a_workdir_of_an_older_format_is_refused(capfd, workdir, tmp_path):
    stored = json.loads((workdir / "config.json").read_text())
    older = {"config": stored["config"], "versions": stored["versions"]}  # format 1 had no digest
    (tmp_path / "config.json").write_text(json.dumps(older))
    code, _, err = ask(capfd, tmp_path, "finetune", "--random-init", *SHORT)
    assert code == 2 and "config.json is of format 1" in err


@pytest.mark.parametrize(
    ("protocol", "word", "expected"),
    [
        ("finetune", "finetune.epochs=0", "config.finetune.epochs=0: must be at least 1; try 1"),
        (
            "finetune",
            "finetune.layer_decay=1.5",
            "layer_decay=1.5: must be 0.001 to 1; try 1",
        ),
        (
            "finetune",
            "finetune.warmup_fraction=1",
            "config.finetune.warmup_fraction=1.0: must be 0 to 0.99; try 0.99",
        ),
        ("finetune", "finetune.label_smoothing=-1", "config.finetune.label_smoothing=-1.0"),
        ("finetune", "finetune.batch_size=20", "config.finetune.batch_size=20: must be a multiple"),
        (
            "finetune",
            "finetune.view=crpo",
            "'crpo': not known; did you mean 'crop'?",
        ),
        ("finetune", "finetune.pool=mean", "config.finetune.pool='mean'"),
        ("finetune", "finetune.crop_scale=(0.5, 3)", "crop_scale=(0.5, 3): its element"),
        ("finetune", "finetune.lrr=1", "config.finetune.lrr is not a key"),
        ("finetune", "optim.lr=1", "config.optim.lr was fixed by training"),
        (
            "lowshot",
            "eval.label_fraction=0",
            "eval.label_fraction=0.0: must be above 0 and at most 1",
        ),
        ("lowshot", "eval.lowshot_seeds=0", "eval.lowshot_seeds=0: must be at least 1"),
        ("lowshot", "eval.lowshot_per_class=99", "eval.lowshot_per_class=99: class"),
        ("finetun", "eval.size=0", "did you mean 'finetune'?"),
    ],
)
def test_wrong_input_is_one_line(protocol, word, expected, capfd, workdir):
    code, found, line = ask(capfd, workdir, protocol, f"--config.{word}")
    assert code == 2 and found is None
    assert line.startswith("jssl: ") and expected in line, line


# --- few labels ------------------------------------------------------------------------------

LABELS = np.int32(np.repeat([0, 1, 2], [100, 30, 5])[np.random.default_rng(0).permutation(135)])


def test_draws_have_the_stated_numbers_of_each_class():
    def count(*how):
        return np.bincount(LABELS[lowshot.sample_labels(LABELS, *how)], minlength=3).tolist()

    assert count(4, 0.5, 0) == [4, 4, 4]
    assert count(0, 0.1, 0) == [10, 3, 1]  # round(0.5) is 0: one at least
    assert count(0, 1.0, 0) == [100, 30, 5]
    with pytest.raises(UserError, match="per_class=6: class 2 has 5 .*; try 5"):
        lowshot.sample_labels(LABELS, 6, 0.1, 0)


def test_draws_are_of_their_seed_and_nested():
    def draw(n, seed):
        return set(lowshot.sample_labels(LABELS, n, 0, seed).tolist())

    assert draw(4, 0) == draw(4, 0) != draw(4, 1) != draw(4, 2)
    assert draw(2, 0) < draw(4, 0) and len(draw(4, 0)) == 12


def clusters(n, seed, spread):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    centers = np.random.default_rng(99).normal(size=(4, 8))
    return np.float32(centers[labels] + spread * rng.normal(size=(n, 8))), np.int32(labels)


OPTIONS = {
    "classes": 4, "lrs": (0.1, 1.0), "weight_decays": (0.0,), "epochs": 100, "batch_size": 32,
    "val_fraction": 0.2, "standardize": True,
}  # fmt: skip


def test_lowshot_is_the_probe_on_each_draw():
    train, test, calls = clusters(200, 0, 1.0), clusters(150, 1, 1.0), []
    how = {"per_class": 5, "share": 0.5}
    found = lowshot.probe(
        *train, *test, **how, seeds=3, **OPTIONS, progress=lambda *now: calls.append(now)
    )
    tops = []
    for seed in range(3):
        rows = lowshot.sample_labels(train[1], 5, 0.5, seed)
        tops.append(linear.probe(train[0][rows], train[1][rows], *test, seed=seed, **OPTIONS))
    tops = [one["top1"] for one in tops]
    assert len(set(tops)) > 1
    assert found["top1"] == pytest.approx(sum(tops) / 3)
    spread = (sum((top - sum(tops) / 3) ** 2 for top in tops) / 2) ** 0.5
    assert found["std"] == pytest.approx(spread)
    assert (found["n_train"], found["n_test"], found["seeds"]) == (20, 150, 3)
    assert found["per_class"] == 5 and "share" not in found and calls == [(1, 3), (2, 3), (3, 3)]
    all_of_it = lowshot.probe(*train, *test, per_class=0, share=1.0, seeds=1, **OPTIONS)
    assert all_of_it["std"] == 0 and all_of_it["share"] == 1.0 and all_of_it["n_train"] == 200
    assert all_of_it["top1"] > found["top1"]


def test_lowshot_learns_from_one_label_a_class_and_sees_no_other():
    train, test = clusters(200, 0, 0.1), clusters(150, 1, 0.1)
    how = {"per_class": 3, "share": 1.0, "seeds": 2}
    found = lowshot.probe(*train, *test, **how, **OPTIONS)
    assert found["top1"] > 0.95
    used = np.unique(
        np.concatenate([lowshot.sample_labels(train[1], 3, 1.0, seed) for seed in range(2)])
    )
    noise = np.random.default_rng(2).normal(size=train[0].shape).astype(np.float32)
    other = np.where(np.isin(np.arange(200), used)[:, None], train[0], noise)
    assert lowshot.probe(other, train[1], *test, **how, **OPTIONS) == found


def test_lowshot_leaves_out_what_has_no_label():
    x, y = clusters(200, 0, 1.0)
    hidden = np.where(np.arange(200) % 2, y, -1)
    test = clusters(50, 1, 1.0)
    how = {"per_class": 4, "share": 1.0, "seeds": 2}
    assert lowshot.probe(x, hidden, *test, **how, **OPTIONS) == lowshot.probe(
        x[1::2], y[1::2], *test, **how, **OPTIONS
    )
    with pytest.raises(UserError, match="none of the 200 train"):
        lowshot.probe(x, -1 + 0 * y, *test, **how, **OPTIONS)
    assert knn.labeled(x, hidden, classes=4, name="train")[0].shape == (100, 8)
