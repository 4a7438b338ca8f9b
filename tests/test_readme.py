"""The README's method, taken from its text, is trained from a folder outside the package, as the
installed command does it: the current folder is not on Python's path, the recipe's is."""

import json
import os
import re
import subprocess
import sys

from conftest import FAST, ROOT

RECIPE = """
from jssl.recipes import recipe

def get_config(variant=""):
    return recipe(variant, dict(
        method="my_fork.denoise", steps=6, batch_size=16, noise=0.3,
        data=dict(source="digits", max_side=32, split="train[:3%]", on_device=True),
        model=dict(name="resnet_test", stem="cifar", width=8, zero_init_residual=False,
        init="fan_out",
                   dtype="float32"),
        augment=dict(mode="fused", size=16, crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3),
                     flip_prob=0.0, jitter_prob=0.0, brightness=0.0, contrast=0.0,
                     saturation=0.0, hue=0.0,
                     gray_prob=0.0, blur_prob=0.0, blur_sigma=(0.1, 2.0), solarize_prob=0.0,
                     mean=(0.5,),
                     std=(0.25,)),
        optim=dict(name="adamw", lr=1e-3),
    ))
"""


def test_the_readmes_method_trains(tmp_path):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    (tmp_path / "my_fork").mkdir()
    (tmp_path / "my_fork" / "denoise.py").write_text(code)
    (tmp_path / "recipe.py").write_text(RECIPE)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": FAST}
    installed = "import sys; from jssl.cli import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", installed, "train", "--config=recipe.py"]
    command += [f"--workdir={tmp_path}/run", "--config.log.every=1"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["step"] == 6
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(row)["loss"] for row in rows]
    assert losses[-1] < losses[0]


def test_the_readme_fits_a_screen_before_any_depth():
    head = (ROOT / "README.md").read_text().partition("## Add a method")[0]
    assert len(head.splitlines()) <= 60
