"""Joins the processes of a run; a failure is reported in one line."""

import os
import socket
import time
from typing import Any

import jax

from jssl.errors import UserError
from jssl.parallel import mesh, peers

WAIT = 300  # seconds in which all processes have to join
KEYS = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def initialize_distributed() -> None:
    """Joins the other processes of a run.

    JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID name the processes, or
    JAX itself finds them: the tasks of a SLURM step (srun), and, with JSSL_DISTRIBUTED=1, the
    workers of a TPU slice or the pods of a job.

    Raises:
      UserError: the variables do not fit each other, or the processes do not meet.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    if address:
        named(address)
    elif variable := asked():
        joined(variable)
    else:
        alone()
    if jax.distributed.is_initialized():
        peers.watch(address)
        if not mesh.shares_cached_programs(jax.default_backend()):
            jax.config.update("jax_enable_compilation_cache", False)


def asked() -> str:
    """Returns the variable with which JAX can find the other processes by itself, or ""."""
    if os.environ.get("JSSL_DISTRIBUTED") == "1":
        return "JSSL_DISTRIBUTED=1"
    if whole("SLURM_STEP_NUM_TASKS", 1) > 1:
        return f"SLURM_STEP_NUM_TASKS={os.environ['SLURM_STEP_NUM_TASKS']}"
    return ""


def alone() -> None:
    """Raises `UserError` if a variable announces other processes and none gives their address."""
    if whole("JAX_NUM_PROCESSES", 1) > 1 or whole("JAX_PROCESS_ID", 0) > 0:
        variables = " ".join(f"{key}={os.environ[key]}" for key in KEYS if os.environ.get(key))
        raise UserError(
            f"{variables} needs JAX_COORDINATOR_ADDRESS=host:port of process 0; set all three, or "
            "none"
        )


def whole(key: str, default: int) -> int:
    """Reads the whole number in a variable; `default` if it is not set."""
    text = os.environ.get(key, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise UserError(
            f"{key}={text!r} must be a whole number; set it right or unset it"
        ) from None


def named(address: str) -> None:
    """Joins the processes that the three variables of JAX name."""
    if not all(os.environ.get(key, "").isdecimal() for key in KEYS):
        raise UserError(
            f"JAX_COORDINATOR_ADDRESS={address} needs whole numbers in {' and '.join(KEYS)}; "
            "set both, or none of the three"
        )
    count, index = (int(os.environ[key]) for key in KEYS)
    if not index < count:
        raise UserError(
            f"JAX_PROCESS_ID={index} must be below JAX_NUM_PROCESSES={count}; they count from 0"
        )
    port = address.rpartition(":")[2]
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(
            f"JAX_COORDINATOR_ADDRESS={address} has no port; write host:port, "
            "e.g. 10.0.0.1:1234, with a free port of the host of process 0"
        )
    if index == 0:
        check_port(address, int(port))
    else:
        await_first(address)
    joined(
        f"JAX_COORDINATOR_ADDRESS={address}",
        coordinator_address=address,
        num_processes=count,
        process_id=index,
    )


def joined(asked: str, **where: Any) -> None:
    """Calls `jax.distributed.initialize`; reports any error in one line.

    Args:
      asked: the variable that requested it, for messages.
      **where: arguments of `jax.distributed.initialize`.
    """
    try:
        jax.distributed.initialize(initialization_timeout=WAIT, **where)
    except Exception as error:  # of JAX, gRPC, or the variables of the cluster
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{asked}: the processes of the run do not come together ({why}); start all of them "
            "in the same way (srun, the pod's command), or unset the variable for a single one"
        ) from None


def check_port(address: str, port: int) -> None:
    """Raises `UserError` if another program uses the port on this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"JAX_COORDINATOR_ADDRESS={address}: port {port} cannot be used on this machine "
                f"({error.strerror}); choose a free one, the same for all processes"
            ) from None


def await_first(address: str) -> None:
    """Waits until process 0 serves at the address; JAX itself would abort after `WAIT` seconds."""
    until = time.monotonic() + WAIT
    while not peers.reachable(address, 5.0):
        if time.monotonic() > until:
            raise UserError(
                f"JAX_COORDINATOR_ADDRESS={address}: process 0 has not answered for {WAIT} s; "
                "is it started, and is that port open?"
            )
        time.sleep(0.5)
