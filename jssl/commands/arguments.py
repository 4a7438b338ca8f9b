"""The commands of ``jssl``, their flags, and the parser of the command line.

Nothing here imports JAX, so that ``jssl --help`` is fast. The work of a command is in the module
`Command.module` of this folder, as ``run(args, overrides)``.
"""

import argparse
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from jssl.config import ConfigError, UserError, parse, suggest

Args = dict[str, Any]  # {flag: value}, for all flags of the command
Overrides = dict[str, str]  # {"optim.lr": "0.3"}


class Flag(NamedTuple):
    """A flag ``--name=VALUE``, or ``--name`` if the default is False.

    Attributes:
      help: what it does.
      default: its value if it is not given. A flag with the default () may be given several times.
    """

    help: str
    default: str | bool | tuple[str, ...] = ""


class Command(NamedTuple):
    """A command, with its flags.

    Attributes:
      help: what it does, in one line.
      flags: {name: flag}.
      module: the module of `jssl.commands` that does it.
      function: its function, ``run(args, overrides) -> JSON values``.
      device: whether it needs a device.
    """

    help: str
    flags: dict[str, Flag]
    module: str
    function: str = "run"
    device: bool = True

    def load(self) -> Callable[[Args, Overrides], dict[str, Any]]:
        """Imports the function."""
        return getattr(importlib.import_module(f"jssl.commands.{self.module}"), self.function)


CONFIG = Flag("recipe: simclr_cifar10[:variant] of jssl, or path/to/recipe.py[:variant]")
WORKDIR = Flag("folder of the run")
PATH = Flag("a folder with your own modules (method, source, ...); may be given several times", ())
RECIPE = {"config": CONFIG, "path": PATH}
COMMANDS = {
    "train": Command(
        "pretrains a recipe; continues from the last checkpoint in --workdir, if there is one",
        RECIPE
        | {
            "workdir": WORKDIR,
            "extend": Flag("train the run in --workdir for more config.steps", False),
            "changed-data": Flag("continue although the data set has changed", False),
        },
        "train",
    ),
    "eval": Command(
        "evaluates the encoder of a workdir",
        {
            "workdir": WORKDIR,
            "protocol": Flag(
                "knn (default), linear, lowshot, finetune; perplexity, generate, fill-mask for "
                "text; or a module of your own with a function evaluate",
                "knn",
            ),
            "step": Flag("checkpoint: best (by kNN during training), last, or a step", "last"),
            "random-init": Flag("evaluate the encoder as it was before training", False),
            "config": Flag("recipe of the run, if the run uses modules of your own"),
            "method": Flag(
                "a module of your own that the run uses; may be given several times", ()
            ),
            "path": PATH,
        },
        "evaluate",
    ),
    "export": Command(
        "writes the encoder of a workdir as a folder that other libraries load",
        {
            "workdir": WORKDIR,
            "format": Flag("timm, hf (transformers), torchvision, safetensors, stablehlo"),
            "out": Flag("folder to write"),
            "part": Flag("encoder, the trained one, or teacher, its moving average", "encoder"),
            "heads": Flag("with MAE's decoder, or the layers that predict tokens (hf)", False),
            "verify": Flag("load the folder in that library and compare the outputs", False),
        },
        "export",
    ),
    "bench": Command(
        "measures the speed of a recipe's training step on this machine, with random data",
        RECIPE
        | {
            "steps": Flag("number of timed steps", "30"),
            "vocab": Flag("number of token ids, for recipes of text"),
        },
        "bench",
    ),
    "plan": Command(
        "compiles a recipe's training step for other hardware: does it fit, how fast is it",
        RECIPE
        | {
            "topology": Flag("TPUs: v5e:16x16, v5p:4x4x8, ...; GPUs: h100:16, ..."),
            "devices": Flag("number of local devices, without --topology", "1"),
            "examples": Flag("size of the data set, for methods that keep a bank of it"),
            "vocab": Flag("number of token ids, for recipes of text"),
        },
        "plan",
    ),
    "doctor": Command(
        "checks versions, devices, links, clocks, --workdir and the data of --config",
        RECIPE | {"workdir": WORKDIR},
        "doctor",
    ),
    "data pack": Command(
        "decodes or tokenizes the data set of a recipe once, into --out",
        RECIPE | {"out": Flag("folder to write")},
        "data",
        "run_pack",
        device=False,
    ),
    "data tokenizer": Command(
        "trains a byte-level BPE tokenizer on the text of a recipe",
        RECIPE
        | {"out": Flag("file to write"), "vocab": Flag("largest number of token ids", "8192")},
        "data",
        "run_tokenizer",
        device=False,
    ),
    "data prepare": Command(
        "makes a data set of TFDS readable without TensorFlow",
        {
            "name": Flag("data set of TFDS, such as cifar10"),
            "dir": Flag("folder of data sets; default: the variable TFDS_DATA_DIR"),
        },
        "data",
        "run_prepare",
        device=False,
    ),
    "list": Command(
        "lists methods, recipes, encoders, sources, optimizers and protocols",
        {},
        "listing",
        device=False,
    ),
    "config": Command(
        "prints every key of a recipe: value, origin, type, meaning",
        RECIPE | {"from": Flag("print the section model that fits these weights instead")},
        "show_config",
        device=False,
    ),
    "demo": Command(
        "pretrains on handwritten digits and measures the encoder (minutes on a CPU)",
        {
            "workdir": WORKDIR._replace(default="runs/demo"),
            "config": CONFIG._replace(default="simclr_digits"),
            "seed": Flag("seed of the run", "0"),
        },
        "demo",
    ),
}


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
