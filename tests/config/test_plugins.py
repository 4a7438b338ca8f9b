"""Code outside jssl by a dotted name: sources, encoders, optimizers, observers and protocols."""

import json
import sys

import numpy as np
import pytest
from helpers import config_json, open_source

from jssl import cli, nn, optim
from jssl.config import Config, UserError, load, plugins, trust
from jssl.workdir import run_folder

TINY = "simclr_digits:tiny"
SOURCE = """
import numpy as np

class Squares:
    modality = "image"
    classes = ("dark", "light")

    def __init__(self, split, max_side):
        self.size = 24 if split == "train" else 12
        self.side = max_side

    def __len__(self):
        return self.size

    def read(self, indices):
        shade = (indices % 2 * 200).astype(np.uint8)
        image = np.tile(shade[:, None, None, None], (1, self.side, self.side, 3))
        return {"image": image + (indices % 7).astype(np.uint8)[:, None, None, None],
                "label": (indices % 2).astype(np.int32)}

build = Squares
"""
ENCODER = """
import flax.linen as nn

class Tiny(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train):
        return nn.relu(nn.Conv(self.width, (3, 3), (4, 4))(x)).mean((1, 2))

    def features(self, output):
        return output

def build(*, name, width: int = 8, dtype: str = "float32"):
    return Tiny(width)
"""
OPTIMIZER = """
import optax

def build(learning_rate, momentum):
    return optax.sgd(learning_rate, momentum)

def no_rate(momentum):
    return optax.sgd(0.1, momentum)

def nothing(learning_rate):
    return 3
"""
OBSERVER = """
def build(run, folder):
    seen = folder / "seen.txt"
    def observe(step, state, metrics):
        with seen.open("a") as file:
            file.write(f"{step}\\n")
    return observe
"""
PROTOCOL = """
def evaluate(config, mesh, classes, train, test):
    return {"classes": classes, "rows": [len(train[0]), len(test[0])]}
"""


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    """A folder with modules of the user's own, which the user has named."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(trust, "_named", set())
    monkeypatch.setattr(trust, "_folders", [])
    folder = tmp_path / "mine"
    folder.mkdir()
    files = {
        "squares": SOURCE,
        "tinynet": ENCODER,
        "descent": OPTIMIZER,
        "watch": OBSERVER,
        "purity": PROTOCOL,
    }
    for name, text in files.items():
        (folder / f"my_{name}.py").write_text(text)
    (folder / "my_pack").mkdir()
    (folder / "my_pack" / "__init__.py").write_text(OPTIMIZER)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def test_a_run_of_modules_of_ones_own(mine, tmp_path, capfd):
    """Source, encoder, optimizer, observer and protocol; and the stored names choose no code."""
    work = f"--workdir={tmp_path}/run"
    words = [f"--config={TINY}", f"--path={mine}", work, "--config.data.source=my_squares.build",
             "--config.model.name=my_tinynet.build", "--config.optim.name=my_descent.build",
             "--config.optim.weight_decay=0", "--config.log.observers=('my_watch.build',)",
             "--config.steps=3", "--config.optim.warmup_steps=0", "--config.data.split=train",
             "--config.eval.split=test", "--config.eval.knn_k=2"]  # fmt: skip
    assert cli.main(["train", *words]) == 0, capfd.readouterr().err
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result["step"] == 3 and result["knn_top1"] is not None
    assert (tmp_path / "run" / "seen.txt").read_text().split() == ["1", "2", "3"]

    trust._named.clear()
    evaluate = ["eval", work, "--protocol=my_purity.evaluate"]
    assert cli.main(evaluate) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert "chooses no code" in line and "--method=my_squares.build --path=DIR" in line
    named = [f"--method=my_{name}.build" for name in ("squares", "tinynet", "descent")]
    assert cli.main([*evaluate, f"--path={mine}", *named]) == 0, capfd.readouterr().err
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (found["classes"], found["rows"], found["protocol"]) == (
        2,
        [24, 12],
        "my_purity.evaluate",
    )


@pytest.mark.parametrize("key", plugins.STORED)
def test_no_stored_name_is_imported(key, tmp_path):
    """Whatever key of config.json has it."""
    tree = load(TINY)
    section, name = tree, key
    if "." in key:
        section, name = tree[key.partition(".")[0]], key.partition(".")[2]
    with tree.unlocked():
        section[name] = "evil.module"
    (tmp_path / "config.json").write_text(config_json(tree))
    with pytest.raises(UserError, match=f"config.{key}='evil.module': .* chooses no code"):
        assert run_folder.RunFolder(tmp_path).config
    trust.name("evil.module")
    assert run_folder.RunFolder(tmp_path).config


def opened(name, split):
    return open_source(source=name, split=split)


def test_a_source_needs_little(mine):
    trust.grant_folder(mine)
    source = opened("my_squares.build", "test")
    batch = source.read(np.array([3, 0]))
    assert batch["image"].shape == (2, 16, 16, 3) and batch["size"].tolist() == [[16, 16]] * 2
    assert batch["index"].tolist() == [3, 0] and batch["damaged"].tolist() == [-1, -1]
    assert set(source.fields) == {"image", "size", "index", "label"}
    assert source.describe(3).endswith("example 3") and source.classes == ("dark", "light")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("split, max_side", "max_side"), "has no argument split; add it"),
        (('modality = "image"', "kind = 1"), "returns Squares without modality; add it"),
        (('modality = "image"', 'modality = "smell"'), "its modality is 'smell'; use one of"),
        (('modality = "image"', 'modality = "text"'), "without tokenizer"),
        (("if split == \"train\" else 12", "* 0"), "has no examples"),
        (('"image": image', '"picture": image'), "returns no 'image'; it has picture"),
        (('"label": (', '"lable": ('), "returns no 'label'"),
        (("np.tile(shade", "1.0 * np.tile(shade"), "'image' of float64"),
        (("(indices % 2).astype(np.int32)", "np.int32(1)"), r"'label' of shape \(\)"),
        (("% 2 * 200", "% 2 * nothing"), r"read\(\[0\]\) fails with name 'nothing'"),
        (("\nbuild = Squares", "\nmake = Squares"), "not found"),
    ],
)  # fmt: skip
def test_a_source_with_a_fault_is_one_line(mine, change, words):
    assert change[0] in SOURCE
    text = SOURCE.replace(*change)
    if change[0].startswith("split"):
        text = text.replace('split == "train"', "True")
    (mine / "my_fault.py").write_text(text)
    trust.grant_folder(mine)
    with pytest.raises(UserError, match=words) as error:
        opened("my_fault.build", "train")
    assert "config.data.source='my_fault.build'" in str(error.value) and "\n" not in str(
        error.value
    )


def test_optimizers(mine):
    """A function of a library, of a package and of a module; and what is none."""
    trust.grant_folder(mine)

    def made(name, **changes):
        return optim.from_config(Config(load(TINY, {"optim.name": name} | changes)))

    assert made("optax.lion").update and made("my_pack.build", **{"optim.weight_decay": 0.0}).update
    for name, words in (
        (
            "my_descent.build",
            "config.optim.weight_decay=.*: means nothing to my_descent.build; set it",
        ),
        ("my_descent.no_rate", "takes no argument learning_rate"),
        ("my_descent.nothing", "returns int; it must return an optax.Gradient"),
        ("my_descent.absent", "'my_descent.absent': not found"),
        ("my_absent.build", "'my_absent.build': not found; put it beside the recipe"),
        ("optax..lion", "no name of a module"),
    ):
        with pytest.raises(UserError, match=words):
            made(name, **{"optim.weight_decay": 0.0 if "nothing" in name else 0.1})


def test_an_encoder_brings_its_own_section(mine):
    trust.grant_folder(mine)
    tree = load(TINY, {"model.name": "my_tinynet.build", "model.width": "16"})
    assert tree.model.to_dict() == {"name": "my_tinynet.build", "width": 16, "dtype": "float32"}
    assert nn.encoder(tree.model).width == 16


@pytest.mark.parametrize(
    ("recipe", "name", "key", "value"),
    [
        ("simclr_cifar10", "vit_s", "patch", 4), ("byol_imagenet", "vit_b", "patch", 16),
        ("dino_vits_imagenet", "resnet50", "stem", "imagenet"),
        ("simclr_cifar10:solo", "vit_s", "dtype", "bfloat16"),
    ],
)  # fmt: skip
def test_another_backbone_brings_its_own_section(recipe, name, key, value):
    tree = load(recipe, {"model.name": name})
    assert tree.model.name == name and tree.model[key] == value
    assert nn.encoder(Config(tree).model)
    again = load(recipe, {"model.dtype": "float32", "model.name": name})
    assert again.model.dtype == "float32", "in any order"


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(UserError, match="--path=.*nowhere': no folder"):
        trust.grant_folder(tmp_path / "nowhere")
