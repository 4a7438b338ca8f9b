"""The ``jssl`` command. Progress and logs go to stderr; the last line on stdout is one JSON object.

Exit codes: 0 done; 2 the input or the machine is wrong (one line: key, value, cure); 75 stopped by
a signal after saving, or another process of the run was lost: start it again; 130 stopped by SIGINT
in a command that saves nothing; 1 is a fault of jssl.
"""

import sys

from jssl.config import trust

trust.leave_current_folder()  # before any import that could load a module from there

import contextlib
import json
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections

from jssl import log
from jssl.commands.flags import arguments
from jssl.config import UserError, load, parse, resolve_key
from jssl.parallel import host, peers

Args = dict[str, Any]  # {flag: value}
Overrides = dict[str, str]  # {"optim.lr": "0.3"}
Command = Callable[[Args, Overrides], dict[str, Any]]
COMMANDS: dict[str, Command] = {}


def command(function: Command) -> Command:
    """Registers `function(args, overrides)` as a command with the same name."""
    COMMANDS[function.__name__] = function
    return function


@command
def train(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Pretrains a recipe; continues from the last checkpoint in --workdir, if there is one."""
    from jssl.parallel.agreement import run_on_all_processes
    from jssl.training.loop import train

    config = run_on_all_processes(lambda: load(need(args, "config"), overrides))
    more = {"extend": args["extend"], "changed_data": args["changed-data"]}
    return train(config, need(args, "workdir"), **more)


@command
def eval(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Evaluates the encoder of a workdir with the protocol that --protocol names."""
    from jssl.commands import evaluate
    from jssl.workdir import run_folder

    if args["config"]:  # now the user's own method, in the folder of the recipe, may be imported
        load(args["config"])
    config = override(run_folder.stored_config(need(args, "workdir")), overrides)
    return evaluate.evaluate(config, args["workdir"], args["protocol"], args["untrained"])


@command
def bench(args: Args, overrides: Overrides) -> dict[str, Any]:
    """The speed of a recipe's training step on this machine, with made-up data."""
    from jssl.commands.bench import bench

    vocab = count("--vocab", args["vocab"]) if args["vocab"] else 0
    return bench(load(need(args, "config"), overrides), count("--steps", args["steps"]), vocab)


@command
def plan(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Compiles a recipe's training step for hardware that is not here: does it fit, how fast."""
    from jssl.commands.plan import plan

    config = load(need(args, "config"), overrides)
    sizes = {"num_examples": "examples", "vocab_size": "vocab"}
    more = {name: count(f"--{flag}", args[flag]) for name, flag in sizes.items() if args[flag]}
    return plan(config, args["topology"], count("--devices", args["devices"]), **more)


@command
def doctor(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Looks at versions, devices, links, clocks, --workdir and the data of --config."""
    from jssl.commands.doctor import doctor

    return doctor(load(args["config"], overrides) if args["config"] else None, args["workdir"])


@command
def data(args: Args, overrides: Overrides) -> dict[str, Any]:
    """`jssl data pack|tokenizer --config=... --out=...`, `jssl data prepare --name=... --dir=...`.

    pack decodes or tokenizes a data set once; tokenizer trains a byte-level BPE of --vocab ids on
    its text; prepare makes a data set of TFDS readable without TensorFlow.
    """
    if args["action"] == "prepare":
        from jssl.data.prepare import prepare

        return prepare(need(args, "name"), args["dir"])
    actions = {"pack": pack, "tokenizer": train_tokenizer}
    section = load(need(args, "config"), overrides).data
    return actions[args["action"]](section, need(args, "out"), args)


def pack(section: Any, out: str, args: Args) -> dict[str, Any]:
    """Decodes or tokenizes the data set of a section `data` into the folder `out`."""
    from jssl.config import call_with_section
    from jssl.data import load as load_data
    from jssl.data.sources import packed
    from jssl.data.text import packing, tokenizer
    from jssl.log import log_progress

    if section.source == "text" or section.seq_len:  # streamed, because it may exceed memory
        return packing.pack(corpus_of(section), tokenizer.load(section.tokenizer), out)
    return packed.pack(
        call_with_section(load_data, section, "data").source, out, log_progress("packed")
    )


def train_tokenizer(section: Any, out: str, args: Args) -> dict[str, Any]:
    """Trains a byte-level BPE on the text of a section `data`, into the folder `out`."""
    from jssl.data.text import packing

    size = count("--vocab", args["vocab"] or "8192")
    return packing.train(corpus_of(section), size, out)


def corpus_of(section: Any) -> Any:
    """Opens the texts of a section `data`, as a stream."""
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


def need(args: Args, name: str) -> str:
    """Returns the value of a flag; raises `UserError` if it is missing."""
    if not args[name]:
        raise UserError(f"--{name} is missing; jssl {args['command']} --help shows the use")
    return args[name]


def count(flag: str, text: str) -> int:
    """Parses the value of a flag as a whole number of at least 1."""
    number: int = parse(flag, text, 1)
    if number < 1:
        raise UserError(f"{flag}={text} must be at least 1")
    return number


def override(config: ml_collections.ConfigDict, overrides: Overrides) -> ml_collections.ConfigDict:
    """Applies overrides to a stored config.

    Raises:
      UserError: an override changes a key that training has fixed.
    """
    free = ("eval", "finetune", "data", "mesh")
    for key, text in overrides.items():
        section, name = resolve_key(config, key)
        if not key.startswith(tuple(f"{section_name}." for section_name in free)):
            raise UserError(
                f"config.{key} was fixed by training; only {', '.join(free)} can change"
            )
        section[name] = parse(f"config.{key}", text, section[name])
    return config


def setup(device: bool) -> None:
    """Sets up logging to stderr, a persistent compilation cache and the other processes.

    Args:
      device: whether the command needs a device; then a missing one is an error.

    Raises:
      UserError: JAX, the processes or the device cannot be used.
    """
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
        # A run also compiles a dozen small programs, which together take seconds.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    with environment("there is no such device here"):
        initialize_distributed()
        if device:
            jax.devices()


@contextlib.contextmanager
def environment(problem: str) -> Iterator[None]:
    """Turns any error inside into a `UserError` that names the variables which configure JAX."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        steer = ("JAX_", "XLA_", "CUDA_VISIBLE", "LIBTPU")
        variables = [f"{key}={value}" for key, value in os.environ.items() if key.startswith(steer)]
        variables = [
            variable
            for variable in variables
            if not variable.startswith("JAX_COMPILATION_CACHE_DIR")
        ]
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{' '.join(sorted(variables)) or 'the environment'}: {problem} ({why}); "
            "correct or unset that variable, or install what it asks for (README)"
        ) from None


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return finish(lambda: guarded(sys.argv[1:] if argv is None else argv))


def finish(run: Callable[[], tuple[int, str]]) -> int:
    """The exit code of a command. `run` returns it and the last line, or "" for none."""
    host.check_rerun()
    with host.safe_output():
        code, message = run()
        if message:
            print("jssl: " + log.plain(" ".join(message.split())), file=sys.stderr, flush=True)
        if code:
            peers.fail(code, message)
        return host.leave_with(code)


def guarded(argv: list[str]) -> tuple[int, str]:
    """`attempt` of the command that `argv` names."""

    def run() -> dict[str, Any]:
        args, overrides = arguments(argv, __doc__ or "", COMMANDS)
        setup(device=args["command"] != "data")
        return COMMANDS[args["command"]](args, overrides)

    return attempt(run)


def attempt(run: Callable[[], dict[str, Any]]) -> tuple[int, str]:
    """Runs `run` and prints its result as JSON; returns (exit code, last line or "").

    Raises only SystemExit.
    """
    try:
        result = run()
        from jssl.training.summary import as_json

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
