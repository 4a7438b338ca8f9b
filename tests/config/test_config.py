"""Recipes, overrides, and the one line that says what is wrong with them."""

import pathlib

import pytest
from conftest import ALL, BY_METHOD, ROOT, make_mesh, recipes

import jssl.recipes
from jssl import config
from jssl.config import Config, UserError, durations, load
from jssl.training.loop import train
from jssl.training.setup import check_batch, check_unused_keys, model_flops, setup_run


def test_overrides_take_the_type_of_the_recipe():
    words = {"optim.lr": "1", "steps": "1e3", "data.on_device": "false", "augment.mean": "(0.5,)"}
    words |= {"optim.name": "lars", "augment.crop_scale": "0.2,1"}
    tree = config.load("configs/simclr_digits.py", words)
    assert tree.optim.lr == 1.0 and isinstance(tree.optim.lr, float)
    assert tree.steps == 1000 and isinstance(tree.steps, int)
    assert tree.data.on_device is False
    assert tree.augment.mean == (0.5,) and tree.augment.crop_scale == (0.2, 1)
    assert tree.optim.name == "lars"


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("optim.lrr", "1", ["config.optim.lrr", "did you mean 'lr'?"]),
        ("optm.lr", "1", ["config.optm", "did you mean 'optim'?"]),
        ("model", "x", ["config.model='x': a section"]),
        ("steps.many", "1", ["config.steps is not a section"]),
        ("steps", "abc", ["config.steps='abc'", "int"]),
        ("steps", "1.5", ["config.steps='1.5'", "int"]),
        ("steps", "True", ["config.steps='True'", "int"]),
        ("optim.lr", "fast", ["config.optim.lr='fast'", "float"]),
        ("data.on_device", "maybe", ["config.data.on_device='maybe'", "bool"]),
        ("optim.lr", "__import__('os')", ["config.optim.lr", "float"]),
    ],
)
def test_a_wrong_override_is_one_line(key, text, words):
    with pytest.raises(UserError) as error:
        config.load("configs/simclr_digits.py", {key: text})
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("configs/simclr_digit.py", ["not a file", "configs/simclr_digits.py"]),
        ("configs/simclr_digits.py:tny", ["no variant 'tny'", "tiny"]),
        ("nowhere/x.py", ["not a file"]),
    ],
)
def test_a_wrong_recipe_is_one_line(spec, words):
    with pytest.raises(UserError) as error:
        config.load(spec)
    assert all(word in str(error.value) for word in words), error.value


def test_a_broken_recipe_is_named(tmp_path):
    (tmp_path / "a.py").write_text("def get_config(:\n")
    with pytest.raises(UserError, match="line 1 is not Python"):
        config.load(str(tmp_path / "a.py"))
    (tmp_path / "b.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="has no get_config"):
        config.load(str(tmp_path / "b.py"))


def build(*, width: int, rate: float, name: str, given):
    return width, rate, name, given


def test_bind_checks_names_and_types():
    good = {"width": 3, "rate": 1, "name": "x"}
    assert config.call_with_section(build, good, "model", given=5) == (3, 1, "x", 5)
    for change, words in (
        ({"widht": 3}, "config.model.widht is not a key; did you mean 'width'"),
        ({"width": 3.5}, "config.model.width=3.5: must be of type int"),
        ({"width": True}, "config.model.width=True: must be of type int"),
        ({"name": 3}, "config.model.name=3: must be of type str"),
        ({"given": 3}, "config.model.given is not a key"),
    ):
        with pytest.raises(UserError, match=words.replace("?", ".")):
            config.call_with_section(build, good | change, "model", given=5)
    with pytest.raises(UserError, match="config.model.width is missing"):
        config.call_with_section(build, {"rate": 1.0, "name": "x"}, "model", given=5)


def test_what_is_not_read_is_known():
    view = Config(config.load("configs/simclr_digits.py"))
    assert view.optim.lr and "config.optim.lr" not in view.unread()
    assert "config.temperature" in view.unread()
    other = view.changed({"temperature": 9.0, "model.width": 2, "model.no_such": 1})
    assert (other.temperature, other.model.width) == (9.0, 2)
    assert view._tree.temperature != 9.0 and view._tree.model.width != 2, "the first is untouched"
    assert "config.temperature" not in view.unread()
    with pytest.raises(UserError, match="config.temprature is missing; did you mean 'temperature'"):
        _ = view.temprature


def test_every_recipe_says_its_own_command_and_fits_a_screen():
    for recipe in recipes():
        path = pathlib.Path(ROOT / recipe.partition(":")[0])
        text = path.read_text()
        assert f"--config=configs/{path.name}" in text.splitlines()[0]
        assert len(text.splitlines()) <= 60, path
        whole = durations.resolved(config.load(str(path)), 10_000)
        assert whole.steps > config.load(recipe).steps


def test_a_recipe_is_recorded_in_the_encoding_that_it_declares(tmp_path):
    text = '# -*- coding: latin-1 -*-\n"""A recipe of Ren\xe9."""\n'
    (tmp_path / "recipe.py").write_text(text, encoding="latin-1")
    spec = str(tmp_path / "recipe.py")
    assert config.record(spec) == {"name": spec, "text": text}
    assert config.docstring(spec) == "A recipe of Ren\xe9."


def variants(path, monkeypatch) -> list[str]:
    """The names of a recipe's variants."""
    found = {}
    real = jssl.recipes.recipe

    def spy(variant, sections, **names):
        found.update(names)
        return real(variant, sections, **names)

    monkeypatch.setattr(jssl.recipes, "recipe", spy)
    load(str(path))
    monkeypatch.undo()
    return list(found)


@pytest.mark.parametrize("recipe", recipes() if ALL else sorted(BY_METHOD.values()))
def test_every_variant_can_be_built_and_every_key_is_read(recipe, monkeypatch):
    """At tiny size, traced and not run; `epochs...` change numbers alone. `make laws` asks every
    recipe, `make test` one of each method."""
    path = recipe.partition(":")[0]
    for name in variants(path, monkeypatch):
        if name.startswith("epochs"):
            continue
        words = {"optim.warmup_steps": "1"} | ({"clusters": "(6,)"} if name == "v1" else {})
        config = Config(load(f"{path}:{name}+tiny", words))
        run = setup_run(config, make_mesh(1))
        check_batch(run)
        model_flops(run)  # traces the step, as training does before it asks what was read
        dict(config.mesh)  # the mesh was given here
        check_unused_keys(config)


def test_all_missing_keys_are_named_at_once(tmp_path):
    """A recipe may be a plain ConfigDict; the keys of every run have defaults."""
    text = "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({})\n"
    (tmp_path / "bare.py").write_text(text.format("{'method': 'byol', 'seed': 3}"))
    tree = load(str(tmp_path / "bare.py"))
    assert tree.seed == 3 and tree.checkpoint.keep_latest == 2
    with pytest.raises(UserError) as error:
        train(tree, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    keys = "steps batch_size ema_decay ema_decay_final model head predictor augment".split()
    assert all(f"config.{key}" in str(error.value) for key in keys), error.value
    with tree.unlocked():
        tree.update(load("byol_cifar10:tiny"))
        del tree["predictor"]
    with pytest.raises(UserError, match="^--config.predictor is missing"):
        train(tree, tmp_path / "run")
    with tree.unlocked():
        tree.predictor = {"norm": True}
    with pytest.raises(UserError, match="config.predictor.features, .* are missing; add them"):
        train(tree, tmp_path / "run")
