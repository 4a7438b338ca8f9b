"""The command line: a word or flag means something to the command or is refused in one line."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

import jssl
from jssl import cli
from jssl.commands.arguments import arguments
from jssl.commands.table import COMMANDS
from jssl.config import UserError, load

TINY = "--config=configs/simclr_digits.py:tiny"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "steps=3", TINY], "takes no word 'steps=3'; did you mean --config.steps=3"),
        (["train", TINY, "optim.lr=3"], "did you mean --config.optim.lr=3"),
        (["eval", "w"], "takes no word 'w'; leave it out"),
        (["data", "pack", "more", TINY], "jssl data pack takes no word 'more'"),
        (["data", "pak", TINY], "jssl data 'pak' is unknown; did you mean 'pack'"),
        (["data"], "jssl data '' is unknown; known: check, pack, prepare, tokenizer"),
        ([TINY, "train"], "comes before the command; write jssl COMMAND --config="),
        (["list", "--workdir=w"], "not of jssl list; its flags: none"),
        (["data", "prepare", "--config.steps=3"], "is no flag of jssl data prepare"),
        (["train", "banana", "--protocol=zzz", "--topology=moon"], "takes no word 'banana'"),
        (["trian", TINY], "jssl trian is unknown; did you mean 'train'"),
        ([], "a command is missing"),
        (["train", "--steps=3", TINY], "--steps is a flag of jssl bench, not of jssl train"),
        (["train", "--protocol=knn"], "--protocol is a flag of jssl eval"),
        (["bench", TINY, "--workdir=w"], "--workdir is a flag of"),
        (
            ["eval", "--random-int"],
            "--random-int is no flag of jssl eval; did you mean 'random-init'",
        ),
        (["train", "--conf=x"], "--conf=x is no flag of jssl train; did you mean 'config'"),
        (["train", "--config"], "expected one argument"),
        (["train", "--config.steps"], "has no value; write --config.steps=VALUE"),
        (["eval", "--random-init=yes"], "ignored explicit argument"),
    ],
)
def test_what_has_no_meaning_is_refused(words, expected):
    with pytest.raises(UserError, match=re.escape(expected)) as error:
        arguments(words)
    assert "\n" not in str(error.value)


def test_flags_of_a_command():
    words = ["data", "tokenizer", "--config", "a.py", "--out=o", "--config.a.b=c=d"]
    command, args, overrides = arguments(words)
    assert (command, args["config"], args["out"]) == ("data tokenizer", "a.py", "o")
    assert (args["vocab"], overrides) == ("8192", {"a.b": "c=d"})
    assert arguments(["eval", "--random-init"])[1]["random-init"] is True
    assert arguments(["doctor"])[1]["config"] == ""
    assert arguments(["train", "--path=a", "--path=b"])[1]["path"] == ["a", "b"]


def test_every_command_has_its_work():
    for command in COMMANDS.values():
        assert callable(command.load())


def test_help_and_version(capsys):
    for words in (["--help"], ["-h"], ["help"]):
        assert cli.main(words) == 0
        shown = capsys.readouterr().out
        assert all(f"  {name} " in shown and command.help in shown
                   for name, command in COMMANDS.items())  # fmt: skip
    with pytest.raises(SystemExit, match="0"):
        arguments(["train", "--help"])
    shown = capsys.readouterr().out
    assert "--workdir" in shown and "--topology" not in shown and "--config.KEY" in shown
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"jssl {jssl.__version__}\n"


def test_help_needs_no_jax():
    code = "import sys; from jssl import cli; cli.main(['--help']); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


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
