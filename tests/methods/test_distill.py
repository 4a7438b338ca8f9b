"""The frozen teacher of distillation: its weights come from a workdir, stay as they are, and belong
to the run. No run is trained where its first state will do."""

import shutil

import chex
import jax
import ml_collections
import numpy as np
import pytest
from conftest import in_make_laws, make_mesh
from helpers.losses import close

import jssl
from jssl.config import Config, UserError, load
from jssl.interop import teacher
from jssl.nn import feature_maps, frozen
from jssl.nn.apply import apply
from jssl.ops import l2_normalize
from jssl.training.loop import train
from jssl.training.setup import setup_run
from jssl.workdir import claim, identity
from jssl.workdir.checkpoint import Checkpoints

RECIPE = "configs/distill_cifar10.py:tiny"
OWN_PIXELS = {"augment.mean": "(0.3, 0.4, 0.5)", "augment.std": "(0.1, 0.2, 0.3)"}


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """{method: (workdir that has saved its first state, the state)}; teacher and student differ."""
    found = {}
    for name in ("dino_cifar10", "ibot_imagenette"):
        own = {"model.drop_path": 0.1} if "ibot" in name else {"norm_last_layer": False}
        words = OWN_PIXELS | own
        run = setup_run(Config(load(f"configs/{name}.py:tiny", words)), make_mesh(1))
        state = run.init()
        moved = {
            key: jax.tree.map(lambda x: 2 * x + 0.1, state.buffers[key])
            for key in ("teacher", "teacher_stats")
        }
        state = state.replace(buffers=state.buffers | moved)
        path = tmp_path_factory.mktemp(name)
        folder = claim.TrainingFolder(path)
        content = folder.compose(run.config._tree, run.data_info, "")
        folder.claim()
        mark = identity.mark_of(content)
        saves = Checkpoints(path, every=1, keep_latest=1, keep_best=0, mark=mark)
        saves.save(1, state.replace(step=state.step + 1))
        saves.close()
        found[name.partition("_")[0]] = (path, state)
    return found


def tree_of(path, open_keys=True, **changes):
    """The config of the tiny recipe with weights as teacher; they say which encoder it is."""
    words = {key.replace("__", "."): str(value) for key, value in changes.items()}
    tree = load(RECIPE, {"teacher": str(path)} | words)
    if open_keys:
        with tree.unlocked():
            tree.update({"out_dim": 0})
            tree.teacher_model = ml_collections.ConfigDict()
            tree.teacher_head = ml_collections.ConfigDict()
    return tree


@pytest.mark.parametrize("method", ["dino", "ibot"])
def test_all_of_a_teacher_comes_from_a_workdir(method, workdirs):
    path, state = workdirs[method]
    run = setup_run(Config(tree_of(path, teacher__part="teacher")), make_mesh(1))
    buffers = run.init().buffers[frozen.BUFFER]
    source = state.buffers["teacher"]
    stats = state.buffers["teacher_stats"]
    chex.assert_trees_all_equal(buffers["params"]["network"], source["encoder"])
    chex.assert_trees_all_equal(buffers["stats"]["network"], stats["encoder"])
    chex.assert_trees_all_equal(buffers["params"]["head"], source["head"])
    chex.assert_trees_all_equal(buffers["stats"]["head"], stats["head"])
    layer = source["prototypes"] if method == "dino" else source["prototypes"]["head"]
    np.testing.assert_array_equal(buffers["params"]["prototypes"]["direction"], layer["direction"])
    scale = layer.get("scale", np.ones(12))  # ibot's are unit vectors
    np.testing.assert_array_equal(buffers["params"]["prototypes"]["scale"], scale)
    assert run.config.teacher.mean == (0.3, 0.4, 0.5)
    assert run.config.out_dim == 12
    name = "resnet_test" if method == "dino" else "vit_test"
    assert run.config.teacher_model.name == name


def test_a_step_leaves_the_teacher_and_holds_no_weights_as_constants(workdirs):
    path, _ = workdirs["dino"]
    run = setup_run(Config(tree_of(path)), make_mesh(1))
    state = run.init()
    batch = run.data.source.read(np.arange(16))
    batch.pop("damaged")
    rng = jax.random.key(0)
    jaxpr = jax.make_jaxpr(run.method.train_step)(state, batch, rng)
    largest = max(x.size for x in jax.tree.leaves(state.buffers[frozen.BUFFER]))
    assert all(np.size(constant) < largest for constant in jaxpr.consts)
    new, _ = jax.jit(run.method.train_step)(state, batch, rng)
    chex.assert_trees_all_equal(new.buffers[frozen.BUFFER], state.buffers[frozen.BUFFER])
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(new.params["encoder"], state.params["encoder"])


def test_the_teacher_sees_its_own_pixels_in_its_own_size():
    words = {"teacher.mean": "(0.1, 0.2, 0.3)", "teacher.std": "(0.5, 0.6, 0.7)"}
    config = Config(load("configs/distill_imagenette.py:tiny", words | {"teacher.size": "16"}))
    network = frozen.teacher_from_config(config, False)
    pixels = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    views = (pixels - np.float32(config.augment.mean)) / np.float32(config.augment.std)
    buffers = network.init(jax.random.key(0), views)
    wanted = (pixels - np.float32([0.1, 0.2, 0.3])) / np.float32([0.5, 0.6, 0.7])
    wanted = feature_maps.resized(wanted, 16, 16)
    close(network.images(views), wanted, 1e-4, 1e-5)
    params, stats = (buffers[frozen.BUFFER][name]["network"] for name in ("params", "stats"))
    output, _ = apply(network.encoder, params, stats, wanted, train=False)
    close(network(buffers, views)["features"], network.encoder.features(output), 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("model", "size"),
    [({}, 32), ({"patch": 7, "image_size": 14}, 35), ({"positions": "sincos", "patch": 4}, 32)],
)
def test_the_size_of_the_teachers_images(model, size):
    """A multiple of its patch, or that of its fixed positions."""
    tree = load(RECIPE)
    with tree.unlocked():
        tree.teacher_model.update(model)
    assert frozen.teacher_from_config(Config(tree), False).size == size
    fixed = feature_maps.image_encoder(Config(tree).teacher_model, "teacher_model").clone(
        positions="sincos", image_size=24
    )
    assert frozen.own_size(fixed, 32) == 24


def test_the_logits_of_the_teacher_are_those_of_its_prototypes():
    config = Config(load(RECIPE))
    network = frozen.teacher_from_config(config, True)
    views = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    buffers = network.init(jax.random.key(0), views)
    params = buffers[frozen.BUFFER]["params"]
    params["prototypes"]["scale"] = np.arange(12, dtype=np.float32)
    outputs = network(buffers, views)
    stats = buffers[frozen.BUFFER]["stats"]["head"]
    z, _ = apply(network.head, params["head"], stats, outputs["features"], train=False)
    unit = l2_normalize(params["prototypes"]["direction"])
    close(outputs["logits"], l2_normalize(z) @ unit.T * np.arange(12), 1e-4, 1e-5)


@in_make_laws
def test_a_run_goes_on_without_the_file(workdirs, tmp_path, monkeypatch):
    path = tmp_path / "teacher"
    shutil.copytree(workdirs["dino"][0], path)
    changes = {"steps": 1, "eval__every": 0, "log__tensorboard": False, "dense_weight": 0.0}
    tree = tree_of(path, relation_weight=0.0, prototype_weight=0.0, hidden="()", **changes)
    train(tree, tmp_path / "run")
    shutil.rmtree(path)
    with tree.unlocked():
        tree.steps = 2
    assert train(tree, tmp_path / "run", extend=True)["step"] == 2
    images = np.zeros((2, 32, 32, 3), np.uint8)
    assert np.isfinite(jssl.load(tmp_path / "run").embed(images)).all()
    with pytest.raises(UserError, match=r"^--config.teacher=.* cannot be read"):
        train(tree, tmp_path / "other")


def test_what_is_known_is_not_read_again(workdirs, monkeypatch):
    path, _ = workdirs["dino"]
    whole = teacher.described(tree_of(path))
    monkeypatch.setattr(teacher, "read_weights", None)
    assert teacher.described(whole) is whole
    again = teacher.described(tree_of(path), whole)
    assert again.to_dict() == whole.to_dict()


def refused(tree):
    with pytest.raises(UserError) as error:
        setup_run(Config(tree), make_mesh(1)).init()
    return str(error.value)


def test_wrong_teachers_are_one_line(workdirs, tmp_path):
    path, _ = workdirs["dino"]
    assert refused(tree_of("")).startswith("--config.teacher.path='': names no weights")
    assert "--config.teacher=" in refused(tree_of(tmp_path / "none"))
    line = refused(tree_of(path, open_keys=False))
    assert "use --config.teacher_model.name=resnet_test" in line
    wrong_width = tree_of(path, out_dim=5)
    with wrong_width.unlocked():
        wrong_width.out_dim = 5
    assert "prototypes are (12, 8), and not (5, 8)" in refused(wrong_width)
    off = dict.fromkeys(("global_weight", "dense_weight", "relation_weight"), 0.0)
    assert "all four weights are 0" in refused(load(RECIPE, off | {"prototype_weight": 0.0}))
    no_head = load(RECIPE)
    with no_head.unlocked():
        no_head.teacher_head = ml_collections.ConfigDict()
    assert refused(no_head).startswith("--config.prototype_weight=0.1: needs a teacher")
    wrong = load(RECIPE, {"teacher_model.pool": "max"})
    assert refused(wrong).startswith("--config.teacher_model.pool='max'")
    wrong = load(RECIPE, {"teacher_model.drop_path": 0.1})
    assert "config.teacher_model.drop_path=0.1: means nothing to a frozen" in refused(wrong)
    text = load(RECIPE)
    with text.unlocked():
        text.model.name = "bert_base"
    assert "no image encoder" in refused(text)


def test_a_teacher_without_prototypes_is_refused_only_where_they_count(workdirs, monkeypatch):
    path, _ = workdirs["dino"]
    real = teacher.read_weights
    monkeypatch.setattr(
        teacher, "read_weights", lambda *given: real(*given)._replace(heads={}, head=None)
    )
    assert "has no prototypes of DINO" in refused(tree_of(path))
    plain = teacher.described(tree_of(path, prototype_weight=0.0))
    assert not plain.teacher_head and plain.out_dim == 0


def test_a_stored_teacher_chooses_no_code(workdirs, monkeypatch):
    """Law 13: the name of an encoder in the workdir of another person is not imported."""
    path, _ = workdirs["dino"]
    real = teacher.read_weights
    evil = {"name": "this.encoder"}
    monkeypatch.setattr(teacher, "read_weights", lambda *given: real(*given)._replace(model=evil))
    assert refused(tree_of(path)).startswith("--config.teacher_model.name='this.encoder'")


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_of_other_channels(channels):
    values = (0.2, 0.4, 0.9)
    close(teacher.fit_channels(values, channels), values if channels == 3 else (0.5,))
