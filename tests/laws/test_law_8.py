"""Law 8: each key of ``optim``, ``augment`` and ``model``, `accumulate` and `grad_cache`, changes
the traced program of a recipe or is refused. So no key is ignored silently."""

import hashlib
from typing import Annotated, Literal, get_args, get_origin

import jax
import numpy as np
import pytest
from conftest import ALL, make_mesh, recipes
from helpers.pages import write_files

from jssl import optim
from jssl.commands.bench import made_up
from jssl.config import Config, UserError, load, reference, values
from jssl.training.setup import setup_run

# What a zero switches off means nothing then: these are on while the keys are tried.
AWAKE = {
    "optim.warmup_steps": 1,
    "optim.weight_decay": 0.1,
    "augment.flip_prob": 0.5,
    "augment.jitter_prob": 0.5,
    "augment.brightness": 0.4,
    "augment.contrast": 0.4,
    "augment.saturation": 0.4,
    "augment.hue": 0.1,
    "augment.gray_prob": 0.2,
    "augment.blur_prob": 0.5,
    "augment.solarize_prob": 0.2,
}
OTHER = {  # choices for kinds that do not list theirs
    "optim.name": ("adamw", "sgd"),
    "optim.lr_scaling": ("sqrt", "linear"),
    "optim.schedule": ("constant", "cosine"),
    "optim.drop_at": ((0.5,),),
    "optim.no_decay": (("kernel$",),),
    "optim.lr_factors": ((("bias$", 0.5),),),
    "optim.lr_constant": (("bias$",),),
    "optim.freeze": (("bias$",),),
    "optim.muon_params": (("kernel$",),),
    "augment.mean": ((0.1, 0.2, 0.3),),
    "augment.std": ((0.1, 0.2, 0.3),),
    "model.stem": ("imagenet", "cifar"),
    "model.positions": ("sincos", "learned", "rotary"),
    "model.pool": ("mean", "cls", "first", "last"),
    "model.dtype": ("bfloat16", "float32"),
    "model.residual_dtype": ("bfloat16", "float32"),
    "model.remat": ("full",),
    "model.feed_forward": ("gelu", "swiglu"),
    "model.init": ("lecun", "fan_out", "trunc02", "beit", "gpt", "bert"),
}
SAME = {  # keys that cannot change these programs
    "model.attention": "on a CPU, auto is xla, and cudnn is refused",
    "model.name": "another size: every width changes, which test_config.py sees",
    "augment.mode": "exact and fused are compared by test_augment.py",
}


def others(config, key):
    """Other values that the kind of a key allows."""
    section, _, name = key.partition(".")
    value = config[section][name]
    kind = reference.section_kinds(config)[section].get(name, object)
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    candidates = list(OTHER.get(key, ()))
    if get_origin(base) is Literal:
        candidates += get_args(base)
    elif isinstance(value, bool):
        candidates.append(not value)
    elif isinstance(value, int):
        candidates += [value + 1, value - 1, value * 2]
    elif isinstance(value, float):
        candidates += [value / 2, value + 0.1, value + 1]
    elif isinstance(value, tuple) and key not in OTHER:
        candidates += [tuple(x * 0.9 for x in value), tuple(x * 1.1 for x in value)]
    return [x for x in candidates if x != value and not values.wrong(x, kind)]


def digest(jaxpr) -> str:
    """The program and its constants."""
    total = hashlib.sha256(str(jaxpr).encode())
    for constant in jaxpr.consts:
        total.update(np.asarray(constant).tobytes())
    return total.hexdigest()


PARTS = ("step", "start", "embed")


def program(recipe, overrides, part="step") -> str:
    """What is traced of a recipe: one of `PARTS`."""
    config = Config(load(recipe, overrides))
    run = setup_run(config, make_mesh(1), made_up(config))
    key = jax.random.key(0)
    if part == "start":
        return digest(jax.make_jaxpr(run.method.init)(key, run.example))
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype), run.example
    )
    if part == "embed":
        return digest(jax.make_jaxpr(run.method.embed)(run.shapes, batch))
    return digest(jax.make_jaxpr(run.method.train_step)(run.shapes, batch, key))


def update(recipe, overrides, shapes) -> str:
    """What is traced of the optimizer of a recipe, for parameters of these shapes."""
    tx = optim.from_config(Config(load(recipe, overrides)))
    state = jax.eval_shape(tx.init, shapes)
    return digest(jax.make_jaxpr(tx.update)(shapes, state, shapes))


def has_effect(recipe, awake, key, value, before, shapes) -> bool:
    """Whether a value changes the program, or is refused for another reason than being unknown.

    The recipe itself is not refused, so an error about another key is an effect of this one.
    """
    changed = awake | {key: value}
    try:
        if key.startswith("optim."):
            return update(recipe, changed, shapes) != before["optim"]
        return any(program(recipe, changed, part) != before[part] for part in PARTS)
    except UserError as error:
        return f"config.{key}=" not in str(error) or "known" not in str(error)


@pytest.mark.parametrize("recipe", recipes() if ALL else [])  # else the guide's, below
def test_8_every_key_has_an_effect(recipe):
    jax.clear_caches()
    assert not silent_keys(recipe)


def test_8_holds_for_the_guides_method(tmp_path):
    """docs/guides/add_a_method.md: a fork obeys the law without a word about it."""
    write_files("docs/guides/add_a_method.md", tmp_path)
    recipe = f"{tmp_path}/my_recipe.py:tiny"
    assert not silent_keys(recipe, ("optim", "augment", "model") if ALL else ("optim",))
    check_micro_batches(recipe)


def silent_keys(recipe, sections=("optim", "augment", "model")) -> list[str]:
    """The keys of these sections that change nothing and are not refused."""
    config = load(recipe)
    awake = {key: value for key, value in AWAKE.items() if has(config, key)}
    config = load(recipe, awake)
    run = setup_run(Config(config), make_mesh(1), made_up(Config(config)))
    shapes = run.shapes.params
    before = {"optim": update(recipe, awake, shapes)}
    before |= {part: program(recipe, awake, part) for part in PARTS}
    assert program(recipe, awake) == before["step"], "a trace is the same twice"
    silent = []
    for section in sections:
        for name in config.get(section, {}):
            key = f"{section}.{name}"
            if key in SAME:
                continue
            if not any(
                has_effect(recipe, awake, key, x, before, shapes) for x in others(config, key)
            ):
                silent.append(key)
    return silent


@pytest.mark.parametrize("recipe", recipes() if ALL else ["configs/simclr_digits.py:tiny"])
def test_8_micro_batches_have_an_effect(recipe):
    check_micro_batches(recipe)


def check_micro_batches(recipe):
    once = program(recipe, {"accumulate": 1})
    try:
        twice = program(recipe, {"accumulate": 2})
    except UserError as error:  # of two players
        assert "config.accumulate=2" in str(error)
        return
    assert twice != once
    try:
        assert program(recipe, {"accumulate": 2, "grad_cache": True}) != twice
    except UserError as error:
        assert "config.grad_cache=True" in str(error)


def has(config, key) -> bool:
    """Whether a config has a key."""
    section, _, name = key.partition(".")
    return section in config and name in config[section]
