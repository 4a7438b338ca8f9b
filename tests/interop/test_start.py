"""A run that starts from weights (`config.init_from`), and the folders of `jssl export`."""

import json
import shutil

import jax
import numpy as np
import pytest
from conftest import make_mesh
from helpers.command import jssl as command
from helpers.command import refused

import jssl
from jssl import cli
from jssl.config import Config, load
from jssl.interop.read import read_weights
from jssl.training.setup import setup_run

FEW = ["--config.steps=2", "--config.eval.every=0", "--config.checkpoint.every=0"]
FEW += ["--config.checkpoint.export=none"]
VIT = "dinov2_continue:tiny"
RESNET = "simclr_digits:tiny"
TEXT = "bert_continue:tiny"
RECIPES = (VIT, RESNET, TEXT)
CHANGES = {RESNET: {"model.stem": "imagenet"}}  # transformers has no other stem
FORMATS = [(VIT, "hf"), (VIT, "safetensors"), (RESNET, "hf"), (RESNET, "safetensors"), (TEXT, "hf")]


def train(recipe, folder, *more):
    words = [f"--config.{key}={value}" for key, value in CHANGES.get(recipe, {}).items()]
    return cli.main(["train", f"--config={recipe}", f"--workdir={folder}", *FEW, *words, *more])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{recipe: the workdir of a short run}."""
    folder = tmp_path_factory.mktemp("runs")
    names = {recipe: folder / recipe.partition("_")[0] for recipe in RECIPES}
    for recipe, workdir in names.items():
        assert train(recipe, workdir) == 0
        assert not (workdir / "export").exists()
    return names


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    """{(recipe, format): the exported folder}."""
    folder = tmp_path_factory.mktemp("exported")
    found = {}
    for recipe, kind in FORMATS:
        out = folder / f"{runs[recipe].name}_{kind}"
        words = ["export", f"--workdir={runs[recipe]}", f"--out={out}", f"--format={kind}"]
        assert cli.main(words) == 0
        found[recipe, kind] = out
    return found


def started(recipe, path, **changes):
    """(run, its state at step 0) with these weights."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    changes = {"init_from": str(path)} | CHANGES.get(recipe, {}) | changes
    config = Config(load(recipe, changes))
    run = setup_run(config, make_mesh(1))
    return run, run.init()


def features(run, state):
    return np.asarray(jax.jit(run.method.embed)(state, run.example))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_starts_with_the_features_of_a_workdir(recipe, runs):
    """Those that `jssl.load` gives: the teacher's, where the method evaluates its teacher."""
    part = "teacher" if recipe == VIT else "encoder"
    run, state = started(recipe, runs[recipe], init_from__part=part)
    encoder = jssl.load(runs[recipe])
    theirs = np.asarray(jax.jit(run.method.embed)(encoder._state, run.example))
    np.testing.assert_allclose(features(run, state), theirs, atol=1e-6)


@pytest.mark.parametrize(("recipe", "kind"), FORMATS)
def test_an_exported_folder_gives_the_same_start(recipe, kind, runs, exported):
    """The features that evaluations of the run see: of its teacher, where it has one for them."""
    part = "teacher" if recipe == VIT else "encoder"
    from_folder = features(*started(recipe, exported[recipe, kind]))
    from_run = features(*started(recipe, runs[recipe], init_from__part=part))
    np.testing.assert_allclose(from_folder, from_run, atol=1e-5)
    drawn = features(*started(recipe, "", seed="1"))
    assert np.abs(drawn - from_run).max() > 1e-3


def test_every_encoder_of_the_state_starts_with_the_weights(runs):
    _, state = started(VIT, runs[VIT])
    mine = jax.tree.leaves(state.params["encoder"])
    for name in ("teacher", "gram"):
        for a, b in zip(mine, jax.tree.leaves(state.buffers[name]["encoder"]), strict=True):
            np.testing.assert_array_equal(a, b)
    weights = read_weights(runs[VIT])
    np.testing.assert_array_equal(state.params["mask_token"], weights.heads["mask_token"])


def test_a_run_needs_its_weights_only_before_the_first_step(runs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(runs[RESNET], copy)
    words = [f"--config.init_from={copy}", "--config.checkpoint.every=2"]
    assert train(RESNET, tmp_path / "a", *words) == 0
    shutil.rmtree(copy)
    assert train(RESNET, tmp_path / "a", *words, "--config.steps=3", "--extend") == 0
    assert train(RESNET, tmp_path / "b", *words) == 2


def test_a_step_of_a_workdir(tmp_path, capfd):
    workdir = tmp_path / "a"
    assert train(RESNET, workdir, "--config.checkpoint.every=1") == 0
    one, two = (read_weights(workdir / "checkpoints" / step) for step in "12")
    newest = read_weights(workdir)
    assert (one.step, two.step, newest.step) == (1, 2, 2)
    for name, value in two.encoder.items():
        np.testing.assert_array_equal(value, newest.encoder[name])
    assert any((value != two.encoder[name]).any() for name, value in one.encoder.items())
    capfd.readouterr()
    missing = f"--config.init_from={workdir}/checkpoints/3"
    line = refused(capfd, "train", f"--config={RESNET}", missing, f"--workdir={tmp_path}/b")
    assert "checkpoints/3: cannot be read: No such file" in line


def test_patches_are_resized_and_it_is_said(runs, caplog):
    caplog.set_level("INFO", "jssl")
    _, state = started(VIT, runs[VIT], model__patch=4)
    assert state.params["encoder"]["patch_embed"]["kernel"].shape == (4 * 4 * 3, 32)
    assert "patches 8x8 -> 4x4" in caplog.text


def test_other_statistics_of_pixels_are_a_warning(runs, caplog):
    started(VIT, runs[VIT])
    assert "expect" not in caplog.text
    started(VIT, runs[VIT], augment__mean=(0.5, 0.5, 0.5))
    assert "the weights expect --config.augment.mean=0.485,0.456,0.406" in caplog.text


def test_another_architecture_names_the_section_that_fits(runs, capfd, tmp_path):
    line = refused(
        capfd, "train", f"--config={RESNET}", f"--config.init_from={runs[VIT]}",
        f"--workdir={tmp_path / 'a'}",
    )  # fmt: skip
    assert "config.init_from.path=" in line and "--config.model.name=vit_test" in line
    line = refused(
        capfd, "train", f"--config={VIT}", f"--config.init_from={runs[VIT]}",
        "--config.model.registers=0", f"--workdir={tmp_path / 'b'}",
    )  # fmt: skip
    assert "use --config.model.registers=2" in line
    code, out, _ = command(capfd, "config", f"--from={runs[VIT]}")
    assert code == 0 and json.loads(out)["model"]["registers"] == 2
    assert not (tmp_path / "a" / "config.json").exists()


def test_a_run_without_a_teacher_says_so(runs, capfd, tmp_path):
    line = refused(
        capfd, "export", f"--workdir={runs[RESNET]}", "--format=hf", f"--out={tmp_path / 'x'}",
        "--part=teacher",
    )  # fmt: skip
    assert "has no teacher" in line
    assert not (tmp_path / "x").exists()
