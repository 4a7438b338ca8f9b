"""The ``jssl`` command. Progress and logs go to stderr; the last line on stdout is one JSON object.

Exit codes: 0 done; 2 the input or the machine is wrong (one line says what, where and the cure);
75 stopped by a signal after saving, or another process of the run was lost: start it again;
130 stopped by SIGINT where nothing is saved; 1 is a fault of jssl.
"""

import sys

from jssl.config import trust

trust.leave_current_folder()  # before any import that it could answer

import contextlib
import json
import logging
import os
import traceback

from jssl import log
from jssl.commands.flags import arguments
from jssl.config import UserError, load, parse, resolve_key
from jssl.parallel import host, peers

COMMANDS = {}


def command(function):
    """Makes `function(arguments, overrides)` a command named like it."""
    COMMANDS[function.__name__] = function
    return function


@command
def train(given, overrides):
    """Pretrains a recipe; goes on where it stopped if --workdir holds a checkpoint."""
    from jssl.parallel.agreement import run_on_all_processes
    from jssl.training.loop import train

    config = run_on_all_processes(lambda: load(need(given, "config"), overrides))
    more = {"extend": given["extend"], "changed_data": given["changed-data"]}
    return train(config, need(given, "workdir"), **more)


@command
def eval(given, overrides):
    """Measures what a workdir has learned, as --protocol says."""
    from jssl.commands import evaluate
    from jssl.workdir import run_folder

    if given["config"]:  # its folder, and with it the user's own method, may be imported
        load(given["config"])
    config = override(run_folder.stored_config(need(given, "workdir")), overrides)
    return evaluate.evaluate(config, given["workdir"], given["protocol"], given["untrained"])


@command
def bench(given, overrides):
    """The speed of a recipe's training step on this machine, with made-up data."""
    from jssl.commands.bench import bench

    vocab = count("--vocab", given["vocab"]) if given["vocab"] else 0
    return bench(load(need(given, "config"), overrides), count("--steps", given["steps"]), vocab)


@command
def plan(given, overrides):
    """Compiles a recipe's training step for hardware that is not here: does it fit, how fast."""
    from jssl.commands.plan import plan

    config = load(need(given, "config"), overrides)
    sizes = {"num_examples": "examples", "vocab_size": "vocab"}
    more = {name: count(f"--{flag}", given[flag]) for name, flag in sizes.items() if given[flag]}
    return plan(config, given["topology"], count("--devices", given["devices"]), **more)


@command
def doctor(given, overrides):
    """Looks at versions, devices, links, clocks, --workdir and the data of --config."""
    from jssl.commands.doctor import doctor

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
    from jssl.config import call_with_section
    from jssl.data import load as load_data
    from jssl.data.sources import packed
    from jssl.data.text import packing, tokenizer
    from jssl.log import log_progress

    if section.source == "text" or section.seq_len:  # streamed: it may exceed memory
        return packing.pack(corpus_of(section), tokenizer.load(section.tokenizer), out)
    return packed.pack(
        call_with_section(load_data, section, "data").source, out, log_progress("packed")
    )


def train_tokenizer(section, out, given):
    from jssl.data.text import packing

    size = count("--vocab", given["vocab"] or "8192")
    return packing.train(corpus_of(section), size, out)


def corpus_of(section):
    from jssl.config import call_with_section
    from jssl.data.text.corpora import open_corpus

    keys = (
        "source",
        "name",
        "path",
        "dir",
        "split",
        "encoding",
        "text_key",
        "max_corrupt_fraction",
    )
    return call_with_section(open_corpus, {key: section[key] for key in keys}, "data")


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
        section, name = resolve_key(config, key)
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
    handler.setFormatter(log.Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger("jssl").setLevel(logging.INFO)
    log.libraries()
    with environment("JAX cannot be used"):
        import jax
    from jssl.parallel.connect import initialize_distributed

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder, why = host.cache_folder()
        if why:
            logging.getLogger("jssl").info("compiled programs are not kept: %s", why)
        else:
            jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # A run compiles a dozen small programs too, which together take seconds.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    with environment("there is no such device here"):
        initialize_distributed()
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
    host.check_rerun()
    with host.safe_output():
        code, message = guarded(sys.argv[1:] if argv is None else argv)
        if message:
            print("jssl: " + log.plain(" ".join(message.split())), file=sys.stderr, flush=True)
        if code:
            peers.fail(code, message)
        return host.leave_with(code)


def guarded(argv) -> tuple[int, str]:
    """(exit code, the line to end with or "") of the command. Only SystemExit is raised."""
    try:
        given, overrides = arguments(argv, __doc__ or "", COMMANDS)
        setup(device=given["command"] != "data")
        from jssl.training.summary import as_json

        result = COMMANDS[given["command"]](given, overrides)
        print(json.dumps(as_json(result), allow_nan=False), flush=True)
        return (0, "") if result.get("ok", True) else (2, "")
    except UserError as error:
        return 2, str(error)
    except KeyboardInterrupt:
        return 130, "stopped by SIGINT; nothing was saved"
    except Exception as error:
        if message := host.missing(error) or log.storage(error):
            log.way_out()
            return 2, message
        if peers.broke_off(error):
            peers.await_verdict()
        traceback.print_exc()
        return 1, "this is a fault of jssl or of a library: please report it with the lines above"


if __name__ == "__main__":
    sys.exit(main())
