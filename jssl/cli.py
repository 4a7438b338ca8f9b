"""The ``jssl`` command. Progress and logs go to stderr; the last line on stdout is one JSON object.

Exit codes: 0 done; 2 the input is wrong (one line says what, where and the cure); 75 stopped by a
signal after saving, start it again; anything else is a bug in jssl.
"""

import sys

from jssl import trust

trust.leave_current_folder()  # before any import that it could answer

import json
import logging
import os
import pathlib

from jssl import quiet
from jssl.config import UserError, load, locate, parse
from jssl.flags import arguments

COMMANDS = {}


def command(function):
    """Makes `function(arguments, overrides)` a command named like it."""
    COMMANDS[function.__name__] = function
    return function


@command
def train(given, overrides):
    """Pretrains a recipe; goes on where it stopped if --workdir holds a checkpoint."""
    from jssl.agree import together
    from jssl.train import train

    config = together(lambda: load(need(given, "config"), overrides))
    more = {"extend": given["extend"], "changed_data": given["changed-data"]}
    return train(config, need(given, "workdir"), **more)


@command
def eval(given, overrides):
    """Measures what a workdir has learned, as --protocol says."""
    from jssl import workdir
    from jssl.evals import offline

    if given["config"]:  # its folder, and with it the user's own method, may be imported
        load(given["config"])
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
    """`jssl data pack|tokenizer --config=... --out=...`, `jssl data prepare --name=... --dir=...`.

    pack decodes or tokenizes a data set once; tokenizer trains a byte-level BPE of --vocab ids on
    its text; prepare makes a data set of TFDS readable without TensorFlow.
    """
    if given["action"] == "prepare":
        from jssl.data.prepare import prepare

        return prepare(need(given, "name"), given["dir"])
    actions = {"pack": pack, "tokenizer": train_tokenizer}
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

    keys = ("source", "name", "path", "dir", "split", "encoding", "text_key", "max_damaged")
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
    from jssl.result import as_json

    try:
        given, overrides = arguments(sys.argv[1:] if argv is None else argv, __doc__, COMMANDS)
        setup()
        result = COMMANDS[given["command"]](given, overrides)
    except UserError as error:
        return complain(str(error))
    except (OSError, ValueError) as error:
        if not (said := quiet.storage(error)):
            raise
        quiet.way_out()
        return complain(said)
    print(json.dumps(as_json(result), allow_nan=False), flush=True)
    return 0 if result.get("ok", True) else 2


def complain(message: str) -> int:
    print("jssl: " + quiet.plain(" ".join(message.split())), file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
