"""Every key of every recipe has a meaning, and every kind is a text."""

from typing import Annotated, Literal

import pytest
from conftest import recipes

from jssl import data, nn, optim
from jssl.config import UserError, load, reference, values
from jssl.config.values import Count, Every, Length, Part, Positive, ShareSpan, Span, Steps
from jssl.methods import ijepa
from jssl.nn import heads, mae_decoder
from jssl.parallel import mesh
from jssl.transforms import augment

LONGEST = 90  # characters of a meaning


def test_every_key_of_every_recipe_has_a_meaning():
    missing = set()
    for tiny in recipes():
        for spec in (tiny, tiny.removesuffix(":tiny")):
            for key in reference.keys(load(spec)):
                if not key.meaning:
                    missing.add(f"{key.name} of {spec}")
                assert key.kind != "any value", f"{key.name} of {spec} has no kind"
                assert len(key.meaning) <= LONGEST, key
                assert not key.meaning.endswith("."), key
    assert not missing, f"no meaning: {sorted(missing)}"


def test_a_key_has_one_meaning_and_an_entry_has_an_argument():
    for tiny in recipes():
        for section, kinds in reference.section_kinds(load(tiny)).items():
            for name, kind in kinds.items():
                rules = getattr(kind, "__metadata__", ())
                assert sum(isinstance(rule, str) for rule in rules) <= 1, (section, name, rules)
    functions = (data.load, mesh.make_mesh, optim.build, augment.view, heads.build)
    functions += (ijepa.predictor, mae_decoder.decoder, *nn.builders().values())
    for function in functions:
        stale = values.argument_meanings(function).keys() - values.kinds_of(function).keys()
        assert not stale, (function, stale)


def test_meaning():
    config = load("configs/dino_cifar10.py:tiny")
    assert reference.meaning(config, "steps") == "number of updates of the run"
    assert reference.meaning(config, "temperature").startswith("softmax temperature")
    assert reference.meaning(config, "model.stem").startswith("first layers")
    assert reference.meaning(config, "local.count") == "local crops of each image; 0: none"
    with pytest.raises(UserError, match="did you mean 'lr'"):
        reference.meaning(config, "optim.lrr")


def test_a_section_belongs_to_the_function_that_the_method_passes_it_to():
    jepa = load("configs/ijepa_imagenette.py:tiny")
    byol = load("configs/byol_cifar10.py:tiny")
    assert "multiple of 4" in reference.meaning(jepa, "predictor.dim")
    assert "Dense" in reference.meaning(byol, "predictor.features")
    text = load("configs/gpt_small_books.py:tiny")
    assert reference.meaning(jepa, "model.pool") != reference.meaning(text, "model.pool")


def test_a_key_of_a_fork_has_a_text_too():
    config = load("configs/simclr_digits.py:tiny").copy_and_resolve_references().unlock()
    config.noise = 0.3
    config.my_section = {"depth": 2}
    by_name = {key.name: key for key in reference.keys(config)}
    assert by_name["noise"] == ("noise", 0.3, "any value", "")
    assert by_name["my_section.depth"][1:] == (2, "any value", "")
    del config.method
    with pytest.raises(UserError, match="config.method"):
        reference.keys(config)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "int"),
        (str, "str"),
        (object, "any value"),
        (Annotated[bool, "a meaning"], "bool"),
        (Annotated[Positive, "a meaning"], "float, above 0"),
        (Count, "int, at least 1"),
        (Part, "float, above 0 and below 1"),
        (mesh.Axis, "int, at least 1 or -1"),
        (Steps, "int, at least 1; or a duration"),
        (Annotated[Every, "a meaning"], "int, at least 0; or a duration"),
        (Literal["center", "sinkhorn"], "one of 'center', 'sinkhorn'"),
        (tuple[values.Share, values.Share], "2 floats from 0 to 1"),
        (ShareSpan, "2 floats from 0 to 1, ascending"),
        (Span, "2 floats, each above 0, ascending"),
        (Annotated[tuple[Count, ...], Length(1)], "1 or more ints, each at least 1"),
        (optim.Patterns, "0 or more strings"),
        (optim.Factors, "0 or more tuples (str; float, at least 0)"),
    ],
)
def test_describe_kind(kind, text):
    assert reference.describe_kind(kind) == text


def test_the_first_sentence_of_an_entry_is_the_meaning():
    def build(*, width: Count, depth: Count, rate, other):
        """Builds.

        Args:
          width: channels of the first
            stage (0.5 of "x.y"); 64 as published. More is not
            a meaning.
          depth, rate: of both

        Returns:
          other: not an argument.
        """

    assert values.argument_meanings(build) == {
        "width": 'channels of the first stage (0.5 of "x.y"); 64 as published',
        "depth": "of both",
        "rate": "of both",
    }
    assert values.argument_meanings(test_meaning) == {}
    assert values.documented_kinds(build)["depth"] == Annotated[Count, "of both"]


def test_a_meaning_changes_no_check():
    kinds = (int, float, str, bool, Count, Steps, Span, object, Literal["a", "b"], tuple[int, ...])
    for kind in kinds:
        for value in (0, 1, 1.5, 10**12, "x", "a", "10 epochs", True, (2, 1), (1, 2), None):
            documented = Annotated[kind, "a meaning"]
            assert values.wrong(value, documented) == values.wrong(value, kind), (kind, value)
        assert values.counts_steps(Annotated[kind, "a meaning"]) == values.counts_steps(kind)
