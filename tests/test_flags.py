"""The command line: a word or flag means something to the command or is refused in one line."""

import re

import pytest

from jssl import cli
from jssl.commands.flags import TAKES, arguments
from jssl.config import UserError, load

TINY = "--config=configs/simclr_digits.py:tiny"


def parsed(*words):
    return arguments(list(words), cli.__doc__, cli.COMMANDS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "steps=3", TINY], "takes no word 'steps=3'; did you mean --config.steps=3"),
        (["train", TINY, "optim.lr=3"], "did you mean --config.optim.lr=3"),
        (["eval", "w"], "takes no word 'w'; leave it out"),
        (["data", "pack", "more", TINY], "jssl data takes no word 'more'"),
        (["data", "pak", TINY], "jssl data 'pak' is unknown; did you mean 'pack'"),
        (["data", TINY], "jssl data '' is unknown"),
        (["trian", TINY], "jssl trian is unknown; did you mean 'train'"),
        ([], "a command is missing"),
        (["train", "--steps=3", TINY], "--steps is a flag of jssl bench, not of jssl train"),
        (["train", "--protocol=knn"], "--protocol is a flag of jssl eval"),
        (["bench", TINY, "--workdir=w"], "--workdir is a flag of"),
        (["eval", "--untraind"], "--untraind is no flag of jssl eval; did you mean 'untrained'"),
        (["train", "--conf=x"], "--conf=x is no flag of jssl train; did you mean 'config'"),
        (["train", "--config"], "expected one argument"),
        (["train", "--config.steps"], "has no value; write --config.steps=VALUE"),
        (["eval", "--untrained=yes"], "ignored explicit argument"),
    ],
)
def test_what_has_no_meaning_is_refused(words, expected):
    with pytest.raises(UserError, match=re.escape(expected)) as error:
        parsed(*words)
    assert "\n" not in str(error.value)


def test_flags_where_they_stand():
    given, overrides = parsed("--config", "a.py", "data", "--out=o", "pack", "--config.a.b=c=d")
    assert (given["command"], given["action"], given["config"]) == ("data", "pack", "a.py")
    assert (given["out"], given["vocab"], overrides) == ("o", "8192", {"a.b": "c=d"})
    assert parsed("eval", "--untrained")[0]["untrained"] is True
    assert parsed("doctor")[0]["config"] == ""
    assert set(TAKES) == set(cli.COMMANDS), "every command says which flags it takes"


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        parsed("--help")
    said = capsys.readouterr().out
    assert all(f"  {name}" in said for name in cli.COMMANDS) and "--workdir" in said


@pytest.mark.parametrize(
    ("key", "cure"),
    [
        ("lr", "did you mean 'optim.lr' or 'finetune.lr'?"),
        ("knn_k", "did you mean 'eval.knn_k'?"),
        ("crop_scale", "did you mean 'finetune.crop_scale' or 'augment.crop_scale'?"),
        ("stepz", "did you mean 'steps'?"),
    ],
)
def test_a_key_without_its_section(key, cure):
    with pytest.raises(UserError) as error:
        load("configs/simclr_digits.py:tiny", {key: "1"})
    assert f"config.{key} is not a key; " in str(error.value)
    named = re.findall(r"'([\w.]+)'", cure)
    assert all(f"'{one}'" in str(error.value) for one in named), error.value
    for one in named[:1]:  # the cure works
        load("configs/simclr_digits.py:tiny", {one: "1" if "scale" not in one else "0.5,1.0"})


@pytest.mark.parametrize(
    "text", ["(" * 3000, "[" * 500 + "]" * 500, "1" * 6000, "{}[0]", "\0", "x" * 999]
)
def test_texts_that_python_cannot_read(text):
    for key in ("optim.lr", "steps", "augment.mean"):
        with pytest.raises(UserError, match=f"config.{key}=") as error:
            load("configs/simclr_digits.py:tiny", {key: text})
        assert len(str(error.value)) < 500
    with pytest.raises(UserError, match="config.optim.lr="):
        load("configs/simclr_digits.py:tiny", {"optim.lr": "1" * 400})
