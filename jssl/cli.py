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

import jssl
from jssl import log
from jssl.commands.arguments import arguments, overview
from jssl.commands.table import COMMANDS
from jssl.config import UserError
from jssl.parallel import host, peers
from jssl.perf import huge_pages


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
    if argv is not None:
        return finish(lambda: run(argv))
    return finish(lambda: run(sys.argv[1:], restart=True))


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


def run(argv: list[str], restart: bool = False) -> tuple[int, str]:
    """Runs the command that `argv` names; returns (exit code, last line or "").

    Args:
      argv: the words after ``jssl``.
      restart: whether they are those of this process, which may then start again.
    """
    if argv[:1] in (["--help"], ["-h"], ["help"]):
        print(overview(__doc__ or ""), flush=True)
        return 0, ""
    if argv[:1] == ["--version"]:
        print(f"jssl {jssl.__version__}", flush=True)
        return 0, ""

    def work() -> dict[str, Any]:
        name, args, overrides = arguments(argv)
        for folder in args.get("path", ()):
            trust.grant_folder(folder)
        command = COMMANDS[name]
        if restart and command.device:
            huge_pages.restart()
        setup(device=command.device)
        return command.load()(args, overrides)

    return attempt(work)


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
