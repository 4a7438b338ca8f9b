"""The ``jssl`` command. Progress and logs go to stderr; the last line on stdout is one JSON object.

Exit codes: 0 done; 2 the input is wrong (one line says what, where and the cure); 75 stopped by a
signal after saving, start it again; anything else is a bug in jssl.
"""

import argparse
import json
import logging
import os
import pathlib
import sys

from jssl import quiet
from jssl.config import UserError, load, locate, near, parse

COMMANDS = {}


def command(function):
    """Makes `function(arguments, overrides)` a command named like it."""
    COMMANDS[function.__name__] = function
    return function


@command
def train(given, overrides):
    """Pretrains a recipe; goes on where it stopped if --workdir holds a checkpoint."""
    from jssl.train import train

    return train(load(need(given, "config"), overrides), need(given, "workdir"))


@command
def eval(given, overrides):
    """Measures what a workdir has learned, as --protocol says."""
    from jssl import workdir
    from jssl.evals import offline

    config = override(workdir.stored_config(need(given, "workdir")), overrides)
    return offline.evaluate(config, given["workdir"], given["protocol"], given["untrained"])


@command
def bench(given, overrides):
    """The speed of a recipe's training step on this machine, with made-up data."""
    from jssl.bench import bench

    return bench(load(need(given, "config"), overrides), steps=count("--steps", given["steps"]))


@command
def plan(given, overrides):
    """Compiles a recipe's training step for hardware that is not here: does it fit, how fast."""
    from jssl.plan import plan

    config = load(need(given, "config"), overrides)
    return plan(config, given["topology"], count("--devices", given["devices"]))


@command
def doctor(given, overrides):
    """Looks at versions, devices, links, clocks, --workdir and the data of --config."""
    from jssl.doctor import doctor

    return doctor(load(given["config"], overrides) if given["config"] else None, given["workdir"])


@command
def data(given, overrides):
    """`jssl data pack|tokenizer --config=... --out=...`: memory maps; a BPE of --vocab ids.

    pack decodes or tokenizes a data set once; tokenizer trains a byte-level BPE on its text.
    """
    actions = {"pack": pack, "tokenizer": train_tokenizer}
    if given["action"] not in actions:
        raise UserError(
            f"jssl data {given['action']!r} is unknown; {near(given['action'], actions)}"
        )
    section = load(need(given, "config"), overrides).data
    return actions[given["action"]](section, need(given, "out"), given)


def pack(section, out, given):
    from jssl.config import bind
    from jssl.data import load as load_data
    from jssl.data import packed, tokenized, tokenizer
    from jssl.evals.offline import say

    if section.source == "text" or section.length:  # streamed: it may exceed memory
        return tokenized.pack(corpus_of(section), tokenizer.load(section.tokenizer), out)
    return packed.pack(bind(load_data, section, "data").source, out, say("packed"))


def train_tokenizer(section, out, given):
    from jssl.data import tokenized

    size = parse("--vocab", given["vocab"], 8192)
    return tokenized.train(corpus_of(section), size, out)


def corpus_of(section):
    from jssl.config import bind
    from jssl.data.text import open_corpus

    keys = ("source", "name", "path", "dir", "split")
    return bind(open_corpus, {key: section[key] for key in keys}, "data")


def need(given, name: str) -> str:
    if not given[name]:
        raise UserError(f"--{name} is missing; jssl {given['command']} --help shows the use")
    return given[name]


def count(flag: str, text: str) -> int:
    """The whole number, at least 1, that a flag gives."""
    found = parse(flag, text, 1)
    if found < 1:
        raise UserError(f"{flag}={text} must be at least 1")
    return found


def override(config, overrides):
    """A stored config with `overrides`, which may only change what was not trained."""
    free = ("eval", "finetune", "data", "mesh")
    for key, text in overrides.items():
        section, name = locate(config, key)
        if not key.startswith(tuple(f"{part}." for part in free)):
            raise UserError(
                f"config.{key} was fixed by training; only {', '.join(free)} can change"
            )
        section[name] = parse(f"config.{key}", text, section[name])
    return config


def arguments(argv):
    """(the command's own flags, {"a.b": text} of every --config.a.b=text)."""
    about = "\n".join(f"  {name:6} {run.__doc__.splitlines()[0]}" for name, run in COMMANDS.items())
    parser = argparse.ArgumentParser(
        "jssl", description=f"{__doc__}\ncommands:\n{about}",
        epilog="--config.KEY=VALUE changes one key of the config, e.g. --config.optim.lr=0.3",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("command", choices=sorted(COMMANDS), metavar="|".join(sorted(COMMANDS)))
    parser.add_argument("action", nargs="?", default="", help="of jssl data: pack, tokenizer")
    parser.add_argument("--config", default="", help="recipe.py[:variant]")
    parser.add_argument("--workdir", default="", help="the folder of the run")
    known = "of jssl eval: knn, linear, lowshot, finetune; perplexity, generate, fill-mask"
    parser.add_argument("--protocol", default="knn", help=known)
    parser.add_argument("--untrained", action="store_true", help="of jssl eval: as before training")
    parser.add_argument("--steps", default="30", help="of jssl bench: steps to time")
    parser.add_argument("--topology", default="", help="of jssl plan: v5e:16x16, v5p:4x4x8, ...")
    parser.add_argument("--devices", default="1", help="of jssl plan: so many local devices")
    parser.add_argument("--out", default="", help="where to write")
    parser.add_argument("--vocab", default="8192", help="of jssl data tokenizer: ids at most")
    own, overrides = [], {}
    for word in argv:
        if word.startswith("--config."):
            key, found, text = word.removeprefix("--config.").partition("=")
            if not found:
                raise UserError(f"{word} has no value; write {word}=VALUE")
            overrides[key] = text
        else:
            own.append(word)
    return vars(parser.parse_args(own)), overrides


def setup():
    """Logging to stderr, a persistent compilation cache, and the other processes, if any."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(quiet.Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger("jssl").setLevel(logging.INFO)
    quiet.libraries()
    import jax

    from jssl import mesh

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(cache) / "jssl" / "xla"))
    mesh.connect()


def main(argv=None) -> int:
    try:
        given, overrides = arguments(sys.argv[1:] if argv is None else argv)
        setup()
        result = COMMANDS[given["command"]](given, overrides)
    except UserError as error:
        return complain(str(error))
    except (OSError, ValueError) as error:
        if not (said := quiet.storage(error)):
            raise
        quiet.way_out()
        return complain(said)
    print(json.dumps(result), flush=True)
    return 0 if result.get("ok", True) else 2


def complain(message: str) -> int:
    print("jssl: " + quiet.plain(" ".join(message.split())), file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
