"""Values of a config: every key of every section has a kind, and every value of the wrong kind is
one line before anything is compiled, or else is a run."""

import math
import re
from typing import Annotated, Literal

import jax
import pytest
from conftest import make_mesh, recipes

from jssl import methods
from jssl import recipes as made
from jssl.commands.bench import made_up
from jssl.config import Config, UserError, call_with_section, flatten, load, schema, tasks, values
from jssl.config.values import (
    INT,
    Count,
    Length,
    NonNegative,
    Part,
    Positive,
    Range,
    Rate,
    Share,
    Span,
)
from jssl.training.setup import check_batch, setup_run

# One recipe of each family: contrastive, an averaged target with prototypes, pixels, text.
FAMILIES = (
    "simclr_digits",
    "dino_imagenette",
    "mae_imagenette",
    "bert_small_books",
    "gpt_small_books",
)
TRIED = (
    -1,
    0,
    1.5,
    1e30,
    "x",
    None,
    (),
    math.nan,
    True,
    math.inf,
    ("x",),
    (1.5, None),
    (0, 10**12),
)


@pytest.mark.parametrize(
    ("kind", "right", "faulty"),
    [
        (Count, [1, 7, INT], [0, -1, 1.0, 1.5, True, "1", None, INT + 1, math.nan, (1,)]),
        (int, [-3, 0, INT], [10**11, -(10**11), 2.0, False]),
        (float, [0, -1.5, 3, 1e30], [math.nan, math.inf, -math.inf, 1e-60, 1e60, 10**400, True]),
        (Positive, [1, 1e-30], [0, -1, 0.0, 1e-60]),
        (NonNegative, [0, 0.0, 5], [-1e-9, None]),
        (Share, [0, 1, 0.5], [-0.1, 1.1, "0.5"]),
        (Rate, [0, 0.999], [1, 1.0]),
        (Part, [0.5], [0, 1]),
        (Annotated[int, Range(1, INT, also=(-1,))], [-1, 4], [0, -2]),
        (bool, [True, False], [0, 1, "true", None]),
        (str, ["", "x"], [1, None, ("x",)]),
        (Literal["a", "b"], ["a"], ["c", 1, None, ()]),
        (tuple[Count, ...], [(), (1,), [2, 3]], [1, (0,), (1.5, 2), (None,), "ab", ((1,),)]),
        (Annotated[tuple[Count, ...], Length(1)], [(5,)], [(), [], (0,)]),
        (Span, [(1, 2), (1.0, 1.0)], [(2, 1), (1,), (1, 2, 3), (0, 1), (1, math.nan)]),
        (tuple[tuple[str, Share], ...], [(), (("a", 1),)], [("a", 1), (("a", -1),), (("a",),)]),
        (object, ["x", None, 1, (1, 2)], [math.nan, (1, (2, math.inf))]),
    ],
)  # fmt: skip
def test_kinds(kind, right, faulty):
    for value in right:
        values.check("key", value, kind)
    for value in faulty:
        with pytest.raises(UserError) as error:
            values.check("key", value, kind)
        said = str(error.value)
        assert said.startswith("--key=") and "\n" not in said and len(said) < 300
        if found := re.search(r"; (?:try|write) (\S+)$", said):  # the cure works
            cure = int(found[1]) if found[1].lstrip("-").isdigit() else float(found[1])
            if not isinstance(value, tuple | list):
                values.check("key", cure, kind)


def test_the_cure_of_an_order_works():
    with pytest.raises(UserError, match=r"must ascend; try \(1, 2\)"):
        values.check("key", (2, 1), Span)


def test_bind_takes_kinds_from_any_signature():
    """Also from one whose hints are text, and from a class."""

    def one(*, width: "Count", ratio: "Share" = 0.5, other=None):
        return width

    class Other:
        def __init__(self, given, *, width: Count):
            self.width = width

    assert call_with_section(one, {"width": 3, "ratio": 1, "other": ()}, "head") == 3
    assert call_with_section(Other, {"width": 3}, "head", given=0).width == 3
    for section, words in (
        ({"width": 0, "ratio": 1, "other": 0}, "config.head.width=0: must be at least 1; try 1"),
        ({"width": 1, "ratio": 2, "other": 0}, "config.head.ratio=2: must be 0 to 1; try 1"),
        ({"width": 1, "ratio": 1, "other": math.nan}, "config.head.other=nan: must be finite"),
        (7, "config.head=7: must be a section"),
        (None, "config.head=None: must be a section"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            call_with_section(one, section, "head")


def test_every_key_that_all_recipes_have_has_a_kind():
    for key, value in made.DEFAULTS.items():
        if isinstance(value, dict):
            assert set(value) <= set(schema.SECTIONS[key]), key
        else:
            assert key in schema.TOP


@pytest.mark.parametrize("recipe", recipes())
def test_every_key_of_a_method_has_a_kind(recipe):
    """`KEYS` of the method has just those keys of its recipes that not all recipes have."""
    tree = load(recipe)
    shared = (*schema.TOP, *schema.SECTIONS, *schema.BOUND, *tasks.methods_of(tree))
    own = {key for key in tree if key not in shared}
    assert own == set(getattr(methods.module(tree.method), "KEYS", ()))
    schema.check(tree)


def changed(tree, values_of: dict):
    """A copy of the config with any values in the places of these keys."""
    tree = tree.copy_and_resolve_references().unlock()
    for dotted, value in values_of.items():
        *parents, name = dotted.split(".")
        section = tree
        for part in parents:
            section = section[part]
        section[name] = value
    return tree.lock()


def built(tree, source, mesh, step: bool):
    """Builds of a config all but the compiled step: the optimizer, the networks and the shapes of
    the state are traced, and the step if asked for. Raises what training would raise by then."""
    config = Config(tree)
    run = setup_run(config, mesh, source)
    check_batch(run)
    if step:

        def rows(x):
            return jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype)

        batch = jax.tree.map(rows, run.example)
        jax.eval_shape(run.method.train_step, run.shapes, batch, jax.random.key(0))


def is_built(key: str) -> bool:
    """Whether something is built of a key; the others are checked alone."""
    aside = ("data", "mesh", "vocab", "finetune", "alarm", "checkpoint", "log")
    alone = ("method", "seed", "examples", "batch_size")  # the data was made for these
    return key.partition(".")[0] not in aside and key not in alone


def blamed(error: UserError, keys: list[str]) -> str:
    """Which of the keys the error is about: a message names it."""
    said = str(error)
    assert "\n" not in said and len(said) < 600, said
    named = [key for key in keys if re.search(rf"\b{re.escape(key)}\b", said)]
    named += [key for key in keys if re.search(rf"\b{key.rpartition('.')[2]}\b", said)]
    assert named, f"names none of {keys}: {said}"
    return named[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_value_of_every_key_is_one_line_or_a_run(name):
    """Each value is tried alone in the check that comes before anything is built; all keys that it
    leaves are then built together, and what that refuses is put back until the rest can be built.
    Nothing but a `UserError` of one line that names the key may be raised."""
    tree, mesh = load(f"configs/{name}.py:tiny"), make_mesh(1)
    source = made_up(Config(tree))
    keys = [key.removeprefix("config.") for key in flatten(tree)]
    refused = 0
    for value in TRIED:
        passed = []
        for key in keys:
            try:
                schema.check(changed(tree, {key: value}))
                passed += [key] * is_built(key)
            except UserError as error:
                blamed(error, [key])
                refused += 1
        while passed:
            try:
                built(changed(tree, dict.fromkeys(passed, value)), source, mesh, value == 1.5)
                break
            except UserError as error:
                passed.remove(blamed(error, passed))
                refused += 1
    assert refused > len(keys) * len(TRIED) / 2
