"""Keys that every recipe has: a method does what they say, or they are refused before training."""

import pytest
from conftest import make_mesh
from helpers import image_info, text_info

from jssl.commands.bench import made_up
from jssl.config import Config, UserError, load
from jssl.core import Method
from jssl.training.compared import check_compared
from jssl.training.setup import Run, build_method, check_honored, setup_run

DIGITS = "configs/simclr_digits.py:tiny"


def deaf(init=None, step=None, render=None) -> Method:
    """A method, of two players say, that was told nothing of micro-batches."""
    return Method(init, step, None, render)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"accumulate": "4"}, "config.accumulate=4: means nothing to .* set it to 1"),
        ({"grad_cache": "true"}, "config.grad_cache=True: means nothing to .* set it to False"),
        ({"log.render_every": "5"}, "config.log.render_every=5: .* set it to 0"),
    ],
)
def test_a_key_that_a_method_does_nothing_with(words, said):
    with pytest.raises(UserError, match=said):
        check_honored(Config(load(DIGITS, words)), deaf())
    check_honored(Config(load(DIGITS)), deaf())  # the cure: as it was


def test_a_method_that_says_what_it_does_is_believed():
    words = {"accumulate": "4", "log.render_every": "5"}
    own = deaf(render=lambda *given: {})._replace(accumulate=4)
    check_honored(Config(load(DIGITS, words)), own)


@pytest.mark.parametrize("name", ["simclr_digits", "mae_imagenette", "gpt_small_books"])
def test_micro_batches_are_honored_by_the_methods_of_jssl(name):
    config = Config(load(f"configs/{name}.py:tiny", {"accumulate": "2"}))
    check_honored(config, setup_run(config, make_mesh(1), made_up(config)).method)


class Few:
    name = "few"

    def __len__(self):
        return 12


class FewData:
    source = Few()


def test_a_batch_of_more_than_all_examples():
    """Where a loss compares examples, some would be their own negatives; else some come twice."""
    config = Config(load(DIGITS))
    run = Run(config, make_mesh(4), deaf()._replace(compares=True), FewData, None, None, None)
    with pytest.raises(UserError, match=r"config.batch_size=16: above the 12 examples.*try 12"):
        check_compared(run)
    check_compared(run._replace(config=Config(load(DIGITS, {"batch_size": "12"}))))
    check_compared(run._replace(method=deaf()))
    alone = run._replace(mesh=make_mesh(8))
    with pytest.raises(UserError, match="try 8"):
        check_compared(alone)


@pytest.mark.parametrize(
    ("name", "compares"), [("simclr_digits", True), ("mae_imagenette", False), ("gpt2", False)]
)
def test_which_losses_compare_examples(name, compares):
    config = Config(load(f"configs/{name}.py:tiny"))
    info = text_info() if name == "gpt2" else image_info()
    assert build_method(config, info).compares is compares
