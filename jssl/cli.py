"""The ``jssl`` command. Progress and logs go to stderr; the last line on stdout is one JSON object.

Exit codes: 0 done; 2 the input or the machine is wrong (one line says what, where and the cure);
75 stopped by a signal after saving, or another process of the run was lost: start it again;
130 stopped by SIGINT where nothing is saved; 1 is a fault of jssl.
"""

import sys

from jssl import trust

trust.leave_current_folder()  # before any import that it could answer

import contextlib
import json
import logging
import os
import traceback
from collections.abc import Callable

from jssl import peers, quiet, surroundings
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


def setup(device: bool) -> None:
    """Logging to stderr, a persistent compilation cache, the other processes, if any, and whether
    there is the device that the environment asks for, if one is needed."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(quiet.Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger("jssl").setLevel(logging.INFO)
    quiet.libraries()
    with environment("JAX cannot be used"):
        import jax
    from jssl.connect import connect

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder, why = surroundings.cache_folder()
        if why:
            logging.getLogger("jssl").info("compiled programs are not kept: %s", why)
        else:
            jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # A run compiles a dozen small programs too, which together take seconds.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    with environment("there is no such device here"):
        connect()
        if device:
            jax.devices()


@contextlib.contextmanager
def environment(problem: str):
    """Any error inside is one line that names the variables which steer JAX."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        steer = ("JAX_", "XLA_", "CUDA_VISIBLE", "LIBTPU")
        found = [f"{key}={value}" for key, value in os.environ.items() if key.startswith(steer)]
        found = [said for said in found if not said.startswith("JAX_COMPILATION_CACHE_DIR")]
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{' '.join(sorted(found)) or 'the environment'}: {problem} ({why}); "
            "correct or unset that variable, or install what it asks for (README)"
        ) from None


def main(argv=None) -> int:
    return finish(lambda: guarded(sys.argv[1:] if argv is None else argv))


def finish(run: Callable[[], tuple[int, str]]) -> int:
    """The exit code of a command, whose `run` gives it and the line to end with or ""."""
    surroundings.check_rerun()
    with surroundings.safe_output():
        code, message = run()
        if message:
            print("jssl: " + quiet.plain(" ".join(message.split())), file=sys.stderr, flush=True)
        if code:
            peers.fail(code, message)
        return surroundings.leave_with(code)


def guarded(argv) -> tuple[int, str]:
    """`attempt` of the command of these words."""

    def run():
        given, overrides = arguments(argv, __doc__ or "", COMMANDS)
        setup(device=given["command"] != "data")
        return COMMANDS[given["command"]](given, overrides)

    return attempt(run)


def attempt(run: Callable[[], dict]) -> tuple[int, str]:
    """(exit code, the line to end with or "") of `run`, whose result is printed as JSON. Only
    SystemExit is raised."""
    try:
        result = run()
        from jssl.result import as_json

        print(json.dumps(as_json(result), allow_nan=False), flush=True)
        return (0, "") if result.get("ok", True) else (2, "")
    except UserError as error:
        return 2, str(error)
    except KeyboardInterrupt:
        return 130, "stopped by SIGINT; nothing was saved"
    except Exception as error:
        if message := surroundings.missing(error) or quiet.storage(error):
            quiet.way_out()
            return 2, message
        if peers.broke_off(error):
            peers.await_verdict()
        traceback.print_exc()
        return 1, "this is a fault of jssl or of a library: please report it with the lines above"


if __name__ == "__main__":
    sys.exit(main())
