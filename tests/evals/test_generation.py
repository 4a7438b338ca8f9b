"""`jssl eval --protocol=generation` and `jssl sample`."""

import json

import numpy as np
import pytest
from helpers.command import jssl as command
from helpers.command import refused
from PIL import Image

from jssl import cli
from jssl.evals import generation

RECIPE = "biggan_cifar10:tiny"
FEW = ["--config.eval.every=0", "--config.log.render_every=0", "--config.checkpoint.export=none"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gan") / "run"
    words = ["train", f"--config={RECIPE}", f"--workdir={folder}", "--config.steps=2", *FEW]
    assert cli.main(words) == 0
    return folder


def test_figures_floor_and_scale(workdir, capfd):
    words = ["eval", f"--workdir={workdir}", "--protocol=generation", "--config.eval.generated=64"]
    code, out, err = command(capfd, *words)
    assert code == 0, err
    found = json.loads(out)
    assert found["n_generated"] == found["n_train"] == 64 and "pixels" in found["features"]
    assert found["frechet"] > found["floor"]["frechet"] > 0
    assert found["scale"]["frechet"] > found["floor"]["frechet"]
    for row in (found, found["floor"], found["scale"]):
        assert 0 <= row["precision"] <= 1 and 0 <= row["recall"] <= 1
        assert row["kernel_deviation"] >= 0


def test_features_of_an_own_encoder(workdir, capfd):
    words = ["eval", f"--workdir={workdir}", "--protocol=generation", "--config.eval.generated=32"]
    code, out, err = command(capfd, *words, f"--config.eval.features={workdir}")
    assert code == 0, err
    assert f"of {workdir}, step 2" in json.loads(out)["features"]


def test_images_are_written_and_repeat(workdir, tmp_path, capfd):
    for name in "ab":
        words = ["sample", f"--workdir={workdir}", "--n=11", f"--out={tmp_path / name}"]
        assert cli.main(words) == 0
    files = sorted((tmp_path / "a").iterdir())
    assert [file.name for file in files] == [f"{i:02}.png" for i in range(11)]
    images = [np.asarray(Image.open(file)) for file in files]
    assert images[0].shape == (32, 32, 3) and (images[0] != images[1]).any()
    for file, image in zip(files, images, strict=True):
        np.testing.assert_array_equal(image, Image.open(tmp_path / "b" / file.name))
    capfd.readouterr()
    line = refused(capfd, "sample", f"--workdir={workdir}", f"--out={tmp_path / 'a'}")
    assert "--out=" in line and "exists" in line
    line = refused(
        capfd, "sample", f"--workdir={workdir}", f"--out={tmp_path / 'c'}", "--truncation=-1"
    )
    assert "--truncation='-1'" in line


def test_a_method_that_generates_nothing_says_so(tmp_path, capfd):
    words = ["train", "--config=simclr_digits:tiny", f"--workdir={tmp_path / 'a'}", *FEW]
    assert cli.main([*words, "--config.steps=2"]) == 0
    capfd.readouterr()
    for words in (["eval", "--protocol=generation"], ["sample", f"--out={tmp_path / 'b'}"]):
        line = refused(capfd, *words, f"--workdir={tmp_path / 'a'}")
        assert "a method that generates no images" in line
    assert not (tmp_path / "b").exists()


def test_principal_components_keep_the_axes_of_the_real_images(monkeypatch):
    monkeypatch.setattr(generation, "COMPONENTS", 3)
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(3, 4 * 4 * 3))
    pixels = 128 + 20 * rng.normal(size=(200, 3)) @ axes
    images = np.clip(pixels, 0, 255).astype(np.uint8).reshape(-1, 4, 4, 3)
    z = generation.principal(images)(images)
    x = images.reshape(200, -1) / 255
    assert z.shape == (200, 3)
    np.testing.assert_allclose(z.var(0).sum(), x.var(0).sum(), rtol=0.05)
    np.testing.assert_allclose(np.cov(z.T), np.diag(z.var(0, ddof=1)), atol=1e-8)
