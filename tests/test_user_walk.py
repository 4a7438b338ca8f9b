"""The way of a user: tests/walk.sh, from a folder of JPEGs to other libraries."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ALL, ROOT
from PIL import Image

TINY = ["--config.steps=2", "--config.data.split=train", "--config.eval.every=0"]


@pytest.mark.skipif(not ALL, reason="a minute; make laws runs it")
def test_from_a_folder_of_jpegs_to_other_libraries(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(24):
        pixels = rng.integers(0, 255, (48, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02}.jpg")
    words = ["bash", "tests/walk.sh", tmp_path, tmp_path / "out", "mae_imagenette:tiny", *TINY]
    done = subprocess.run(
        words, cwd=ROOT, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for line in (f"{tmp_path}/00.jpg -> ", '"format": "timm"', '"format": "hf"'):
        assert line in done.stdout
    for name, shape in (("timm", (2, 32)), ("transformers", (1, 17, 32))):
        is_there = importlib.util.find_spec(name)
        assert (f"{name}: {shape}" if is_there else f"{name} is not installed") in done.stdout
    assert (tmp_path / "out" / "report.html").stat().st_size > 1_000_000
