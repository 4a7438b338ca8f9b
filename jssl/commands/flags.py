"""The words and flags of the command line: each command accepts its own flags only."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from jssl.config import UserError, suggest

ACTIONS = ("pack", "tokenizer", "prepare")  # of jssl data
FLAGS: dict[str, tuple[str | bool, str]] = {  # default, help
    "config": ("", "recipe.py[:variant]; of jssl eval: the run's, where its method is your own"),
    "workdir": ("", "the folder of the run"),
    "protocol": (
        "knn",
        "of jssl eval: knn, linear, lowshot, finetune; perplexity, generate, fill-mask",
    ),
    "untrained": (False, "of jssl eval: as before training"),
    "extend": (False, "of jssl train: the run in --workdir gets more config.steps"),
    "changed-data": (False, "of jssl train: go on although the data set is not what it was"),
    "steps": ("30", "of jssl bench: steps to time"),
    "topology": ("", "of jssl plan: v5e:16x16, v5p:4x4x8, ..."),
    "devices": ("1", "of jssl plan: so many local devices"),
    "out": ("", "of jssl data: where to write"),
    "vocab": ("", "of jssl data tokenizer: ids at most; of jssl bench and plan: ids of text"),
    "examples": ("", "of jssl plan: examples of the data set"),
    "name": ("", "of jssl data prepare: a data set of TFDS, such as cifar10"),
    "dir": ("", "of jssl data prepare: where data sets are; or TFDS_DATA_DIR"),
}
TAKES = {  # the flags of each command
    "train": ("config", "workdir", "extend", "changed-data"),
    "eval": ("workdir", "config", "protocol", "untrained"),
    "bench": ("config", "steps", "vocab"),
    "plan": ("config", "topology", "devices", "examples", "vocab"),
    "doctor": ("config", "workdir"),
    "data": ("config", "out", "vocab", "name", "dir"),
}


class Parser(argparse.ArgumentParser):
    """Reports errors in one line, as the whole command does."""

    def error(self, message: str) -> NoReturn:
        """Raises `UserError`."""
        raise UserError(f"{message}; jssl --help shows the use")


def parser(about: str, commands: dict[str, Callable[..., Any]]) -> Parser:
    """Makes a parser of the flags of all commands; its result has only flags that are present."""
    lines = [
        f"  {name:6} {(run.__doc__ or '').partition(chr(10))[0]}" for name, run in commands.items()
    ]
    result = Parser(
        "jssl",
        usage="jssl COMMAND [--FLAG=VALUE ...] [--config.KEY=VALUE ...]",
        description="\n".join([about, "commands:", *lines]),
        epilog="--config.KEY=VALUE changes one key of the config, e.g. --config.optim.lr=0.3",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    result.add_argument("words", nargs="*", metavar="COMMAND", help=", ".join(commands))
    for name, (default, text) in FLAGS.items():
        action = "store_true" if default is False else "store"
        result.add_argument(f"--{name}", action=action, help=text)
    return result


def arguments(
    argv: list[str], about: str, commands: dict[str, Callable[..., Any]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Parses the command line.

    Args:
      argv: the words after ``jssl``.
      about: the description for --help.
      commands: {name: function}; the first line of each docstring is for --help.

    Returns:
      ({flag: value} with "command" and "action", {"a.b": text} for every --config.a.b=text).

    Raises:
      UserError: an unknown word, flag or command, or a flag of another command.
    """
    own = []
    overrides = {}
    for word in argv:
        if word.startswith("--config."):
            key, equals, text = word.removeprefix("--config.").partition("=")
            if not equals:
                raise UserError(f"{word} has no value; write {word}=VALUE")
            overrides[key] = text
        else:
            own.append(word)
    namespace, unknown = parser(about, commands).parse_known_intermixed_args(own)
    flags = {name.replace("_", "-"): value for name, value in vars(namespace).items()}
    words = flags.pop("words", [])
    command, action = check_words(words)
    for flag in unknown:
        name = flag.lstrip("-").partition("=")[0]
        raise UserError(f"{flag} is no flag of jssl {command}; {suggest(name, TAKES[command])}")
    for name in flags:
        if name not in TAKES[command]:
            others = [f"jssl {other}" for other, takes in TAKES.items() if name in takes]
            raise UserError(
                f"--{name} is a flag of {' and '.join(others)}, not of jssl {command}; "
                f"its flags: {', '.join(f'--{flag_name}' for flag_name in TAKES[command])}"
            )
    values = {name: default for name, (default, _) in FLAGS.items()} | flags
    return values | {"command": command, "action": action}, overrides


def check_words(words: list[str]) -> tuple[str, str]:
    """Checks the words that are no flags; returns (command, action of ``jssl data`` or "")."""
    if not words:
        raise UserError(f"a command is missing; use jssl {', jssl '.join(TAKES)}")
    command, *rest = words
    if command not in TAKES:
        raise UserError(f"jssl {command} is unknown; {suggest(command, TAKES)}")
    action = ""
    if command == "data":
        action, *rest = rest or [""]
        if action not in ACTIONS:
            raise UserError(f"jssl data {action!r} is unknown; {suggest(action, ACTIONS)}")
    if rest:
        key, assigned, _ = rest[0].partition("=")
        cure = f"did you mean --config.{rest[0]}?" if assigned else "leave it out"
        raise UserError(f"jssl {command} takes no word {rest[0]!r}; {cure}")
    return command, action
