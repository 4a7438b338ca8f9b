"""The parser of the command line. `jssl.commands.table` has the commands and their flags.

Nothing here imports JAX, so that ``jssl --help`` is fast.
"""

import argparse
from typing import NoReturn

from jssl.commands.table import COMMANDS, Args, Overrides
from jssl.config import ConfigError, UserError, parse, suggest


class Parser(argparse.ArgumentParser):
    """Reports errors in one line, as the whole command does."""

    def error(self, message: str) -> NoReturn:
        """Raises `UserError`."""
        raise UserError(f"{message}; {self.prog} --help shows the use")


def parser_of(name: str) -> Parser:
    """Makes the parser of a command. Its result has only the flags that are given."""
    command = COMMANDS[name]
    takes_keys = "config" in command.flags
    result = Parser(
        f"jssl {name}",
        usage=f"jssl {name} [--FLAG=VALUE ...]" + " [--config.KEY=VALUE ...]" * takes_keys,
        description=f"jssl {name} {command.help}.",
        epilog="--config.KEY=VALUE sets one key of the config: --config.optim.lr=0.3"
        if takes_keys
        else None,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for flag, (text, default) in command.flags.items():
        actions = {bool: "store_true", tuple: "append", str: "store"}
        default_text = f" (default: {default})" if default and isinstance(default, str) else ""
        result.add_argument(f"--{flag}", action=actions[type(default)], help=text + default_text)
    return result


def overview(about: str) -> str:
    """The text of ``jssl --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jssl COMMAND [--FLAG=VALUE ...] [--config.KEY=VALUE ...]",
            "",
            about.strip(),
            "",
            "commands:",
            *lines,
            "",
            "jssl COMMAND --help shows the flags of a command; jssl --version the version.",
        ]
    )


def arguments(argv: list[str]) -> tuple[str, Args, Overrides]:
    """Parses the words after ``jssl``.

    Returns:
      (command, {flag: value} for all flags of the command, {"a.b": text} for every
      --config.a.b=text).

    Raises:
      UserError: an unknown word, flag or command, or a flag of another command.
      SystemExit: after the text of ``jssl COMMAND --help``.
    """
    command, words = split_command(argv)
    flags = COMMANDS[command].flags
    own = []
    overrides = {}
    for word in words:
        if word.startswith("--config.") and "config" in flags:
            key, equals, text = word.removeprefix("--config.").partition("=")
            if not equals:
                raise UserError(f"{word} has no value; write {word}=VALUE")
            overrides[key] = text
        else:
            own.append(word)
    namespace, unknown = parser_of(command).parse_known_args(own)
    given = {name.replace("_", "-"): value for name, value in vars(namespace).items()}
    for word in unknown:
        check_unknown(command, word)
    return command, {name: flag.default for name, flag in flags.items()} | given, overrides


def split_command(argv: list[str]) -> tuple[str, list[str]]:
    """Splits the words after ``jssl`` into the command and the rest."""
    groups = {name.partition(" ")[0] for name in COMMANDS}
    if not argv:
        raise UserError(f"a command is missing; use jssl {', jssl '.join(COMMANDS)}")
    first, *rest = argv
    if first.startswith("-"):
        raise UserError(f"{first} comes before the command; write jssl COMMAND {first}")
    if first in COMMANDS:
        return first, rest
    if first not in groups:
        raise UserError(f"jssl {first} is unknown; {suggest(first, groups)}")
    second, *rest = rest or [""]
    name = f"{first} {second}"
    if name in COMMANDS:
        return name, rest
    actions = [known.partition(" ")[2] for known in COMMANDS if known.startswith(f"{first} ")]
    raise UserError(f"jssl {first} {second!r} is unknown; {suggest(second, actions)}")


def check_unknown(command: str, word: str) -> NoReturn:
    """Raises the `UserError` for a word that the parser of the command does not know."""
    flags = COMMANDS[command].flags
    if not word.startswith("-"):
        assigned = "=" in word
        cure = (
            f"did you mean --config.{word}?" if assigned and "config" in flags else "leave it out"
        )
        raise UserError(f"jssl {command} takes no word {word!r}; {cure}")
    name = word.lstrip("-").partition("=")[0]
    others = [f"jssl {other}" for other, its in COMMANDS.items() if name in its.flags]
    if others:
        raise UserError(
            f"--{name} is a flag of {' and '.join(others)}, not of jssl {command}; "
            f"its flags: {', '.join(f'--{flag}' for flag in flags) or 'none'}"
        )
    raise UserError(f"{word} is no flag of jssl {command}; {suggest(name, flags)}")


def require(args: Args, flag: str, command: str) -> str:
    """Returns the value of a flag; raises `UserError` if it is missing."""
    if not args[flag]:
        raise UserError(f"--{flag} is missing; jssl {command} --help shows the use")
    return args[flag]


def count(args: Args, flag: str, least: int = 1) -> int:
    """Parses the value of a flag as a whole number; raises `UserError` if it is below `least`."""
    number: int = parse(flag, args[flag], 1)
    if number < least:
        raise ConfigError(flag, number, f"must be at least {least}", f"try {least}")
    return number
