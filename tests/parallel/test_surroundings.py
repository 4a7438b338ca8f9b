"""What the machine lacks is one line: streams, folders, variables, memory, other processes."""

import errno
import io
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import types

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT, in_make_laws, make_mesh

from jssl import cli
from jssl.commands.table import Command
from jssl.errors import UserError
from jssl.parallel import connect, host, peers
from jssl.perf import memory

# -- output --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF])
def test_a_stream_that_cannot_be_written_to_is_silent(number, tmp_path):
    class Broken(io.StringIO):
        def write(self, *text):
            raise OSError(number, os.strerror(number))

        flush = isatty = write

    stream = host.Output(Broken())
    assert stream.write("lost") == 4
    print("lost too", file=stream, flush=True)
    with (tmp_path / "file").open("w") as file:
        stream = host.Output(file)
        print("kept", file=stream, flush=True)
        assert stream.name == file.name and not stream.isatty()
    print("the file is closed", file=stream, flush=True)
    assert (tmp_path / "file").read_text() == "kept\n"


def test_the_command_runs_without_standard_streams(tmp_path):
    """No descriptor below 3 is left for a file of the run, and what reads the pipe may go away."""
    code = """
        import os, sys
        from jssl.parallel import host as surroundings
        with surroundings.safe_output():
            opened = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
            assert opened > 2, opened
            for _ in range(3):
                print("to nobody", flush=True)
                print("to nobody", file=sys.stderr, flush=True)
            os.write(opened, b"done")
    """
    words = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "out")]
    for closed in ("<&- >&- 2>&-", "2>&- >/dev/full", "2>&1 | true; sleep 0.1"):
        (tmp_path / "out").write_text("")
        shell = f'"$0" "$@" {closed}'
        subprocess.run(["bash", "-c", shell, *words], cwd=ROOT, check=True)
        for _ in range(100):  # behind the pipe it may end a little later
            if (tmp_path / "out").read_text():
                break
            connect.time.sleep(0.1)
        assert (tmp_path / "out").read_text() == "done", closed


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capfd):
    """command(error): exit code and stderr of `jssl doctor`, in which the error is raised."""

    def run(error):
        def fails(given, overrides):
            raise error

        monkeypatch.setattr(Command, "load", lambda self: fails)
        code = cli.main(["doctor"])
        return code, capfd.readouterr().err

    return run


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (KeyboardInterrupt(), "stopped by SIGINT"),
        (MemoryError(), "config.batch_size"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.EROFS, "Read-only file system"), "use another folder"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (RuntimeError("Could not determine home directory."), "set HOME"),
    ],
)
def test_what_the_machine_lacks_is_one_line(command, error, wanted):
    code, err = command(error)
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert "Traceback" not in err and wanted in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("jssl: ")


def test_a_fault_of_ours_keeps_its_traceback(command):
    code, err = command(KeyError("a fault"))
    assert code == 1 and "Traceback" in err and "KeyError: 'a fault'" in err
    assert "please report it" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("JAX_PLATFORMS", "rocm", "no such device"),
        pytest.param("JAX_NUM_CPU_DEVICES", "0", "no such device", marks=in_make_laws),
        ("JAX_ENABLE_X64", "maybe", "JAX cannot be used"),
        pytest.param("JAX_PROCESS_ID", "1", "needs JAX_COORDINATOR_ADDRESS", marks=in_make_laws),
        ("SLURM_STEP_NUM_TASKS", "two", "must be a whole number"),
    ],
)
def test_variables_that_ask_for_what_is_not_there(key, value, wanted):
    env = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-OO", "-m", "jssl", "doctor"],
        env=env | {key: value}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("jssl: ")]
    assert f"{key}=" in line and wanted in line


def test_no_folder_for_compiled_programs(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert host.cache_folder() == (tmp_path / "jssl" / "xla", "")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder, why = host.cache_folder()
    assert folder is None and "cannot be made (Not a directory)" in why
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(host.pathlib.Path, "home", homeless)
    folder, why = host.cache_folder()
    assert folder is None and "set HOME or JAX_COMPILATION_CACHE_DIR" in why


def test_full_shared_memory_is_named(monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    sizes = types.SimpleNamespace(free=4096, total=64e6)
    monkeypatch.setattr(host.shutil, "disk_usage", lambda path: sizes)
    assert "/dev/shm is full (0.0 of 64.0 MB free)" in host.missing(full)
    sizes.free = 60e6
    assert host.missing(full) == "", "then it is the disk"


# -- memory --------------------------------------------------------------------------------------


def run_of(batch_size, accumulate=1, devices=2, grad_cache=False):
    config = types.SimpleNamespace(
        batch_size=batch_size, accumulate=accumulate, grad_cache=grad_cache
    )
    there = make_mesh(devices)
    mesh = types.SimpleNamespace(local_devices=list(there.devices.flat), shape=there.shape)
    method = types.SimpleNamespace(accumulates=True, turns=1)
    return types.SimpleNamespace(config=config, mesh=mesh, method=method)


def needs(batch_size, accumulate):
    return 100 * batch_size // accumulate


@pytest.mark.parametrize(("batch", "parts"), [(512, 1), (512, 4), (96, 1), (24, 2)])
@pytest.mark.parametrize("free", [40000, 5000, 900, 300])
def test_the_proposed_batch_and_accumulation_fit(batch, parts, free):
    """Of a program whose needs grow with the micro-batch; each cure is valid and is tried."""
    run, needed = run_of(batch, parts), needs(batch, parts)
    if needed <= free:
        return
    line = memory.advice(run, needed, free, batch=True)
    assert f"config.batch_size={batch} with --config.accumulate={parts} does not fit" in line
    cures = line.partition("; ")[2]
    for size in map(int, re.findall(r"config.batch_size=(\d+)", cures)):
        assert needs(size, parts) <= free and size % (2 * parts) == 0
    for count in map(int, re.findall(r"config.accumulate=(\d+)", cures)):
        assert needs(batch, count) <= free and batch % (2 * count) == 0 and count > parts
    if free >= 900 and batch == 512:
        assert "config.accumulate=" in cures
    assert "use a smaller --config.model" in cures


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory allocating 1600000000000 bytes.", 1600000000000),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 21.5GiB.", 21.5 * 2**30),
        ("RESOURCE_EXHAUSTED: Ran out of memory. Used 20.00G of 15.75G hbm.", 20 * 2**30),
        ("RESOURCE_EXHAUSTED: of something", 1),
        ("INVALID_ARGUMENT: 7 bytes", 0),
    ],
)
def test_what_devices_say_of_used_up_memory(text, size):
    assert memory.exhausted(RuntimeError(text)) == int(size)
    if not size:
        return
    with pytest.raises(UserError, match="try --config.batch_size=32 or --config.accumulate=2"):
        with memory.explained(run_of(64)):
            raise RuntimeError(text)


def test_a_program_that_does_not_fit_is_refused_before_it_runs(monkeypatch):
    big = jax.jit(lambda x: jnp.cumsum(jnp.outer(x, x), 0).sum()).lower(jnp.ones(2048)).compile()
    run = run_of(64, devices=1)
    memory.check(big, run)
    monkeypatch.setattr(memory, "free_bytes", lambda: 2**20)
    with pytest.raises(UserError, match="does not fit in the memory of cpu .* 0.0 GiB free"):
        memory.check(big, run)
    with pytest.raises(UserError, match=r"config.augment.size"):
        memory.check(big, run, batch=False)


def test_a_step_is_compiled_once_and_checked_once(monkeypatch):
    checked = []
    monkeypatch.setattr(memory, "check", lambda compiled, run: checked.append(compiled))
    step = memory.Step(run_of(64), jax.jit(lambda state, held, fed: (state + fed, {})))
    for number in range(3):
        assert step(jnp.ones(2), {}, jnp.full(2, number))[0][0] == 1 + number
    assert len(checked) == 1


def test_free_memory_is_that_of_the_tightest_group(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:  800 kB\n")
    (proc / "self" / "cgroup").write_text("0::/job/task\n")
    assert memory.free_bytes(str(proc), str(groups)) == 800 * 1024
    for name, limit in (("", "max"), ("job", "500000"), ("job/task", "max")):
        folder = groups / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text("300000\n")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 1000\n")
    assert memory.free_bytes(str(proc), str(groups)) == 201000
    old = groups / "memory" / "job"  # version 1
    old.mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("3:cpu:/x\n5:memory:/job\n")
    (old / "memory.limit_in_bytes").write_text("400000")
    (old / "memory.usage_in_bytes").write_text("390000")
    (old / "memory.stat").write_text("total_inactive_file 0")
    assert memory.free_bytes(str(proc), str(groups)) == 10000
    assert memory.free_bytes(str(tmp_path / "none"), str(groups)) is None


# -- other processes -----------------------------------------------------------------------------


class Service:
    """JAX's coordination service, as far as `peers` uses it."""

    def __init__(self):
        self.values, self.down = {}, False

    def key_value_set(self, key, value, allow_overwrite=False):
        if self.down:
            raise RuntimeError("UNAVAILABLE: Socket closed")
        if key in self.values and not allow_overwrite:
            raise RuntimeError("ALREADY_EXISTS")
        self.values[key] = value

    def key_value_dir_get(self, key):
        return [(name, value) for name, value in self.values.items() if name.startswith(key)]


@pytest.fixture
def three(monkeypatch):
    """(the watches of three processes, their ends, the service, pass_time(seconds))."""
    clock = [100.0]
    monkeypatch.setattr(peers.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(peers.time, "sleep", lambda seconds: None)
    service, ended = Service(), {}

    def watch(index):
        return peers.Watch(
            service, index, 3, lambda code, line: ended.update({index: (code, line)})
        )

    def pass_time(seconds):
        clock[0] += seconds

    return [watch(index) for index in range(3)], ended, service, pass_time


def test_a_process_that_gives_no_sign_ends_all(three):
    watches, ended, _, pass_time = three
    for _ in range(3):
        for one in watches:
            one.look()
        pass_time(1)
    assert not ended
    for _ in range(int(peers.LOST) + 3):  # process 2 is killed
        watches[0].look()
        watches[1].look()
        pass_time(1)
        if ended:
            break
    watches[1].look()
    assert ended.keys() == {0, 1}
    assert ended[1] == (75, "process 2 of 3 has given no sign of life for 30 s")


def test_a_process_that_ends_well_is_not_missed(three):
    watches, ended, _, pass_time = three
    watches[2].look()
    watches[2].leave()
    for _ in range(100):
        watches[0].look()
        watches[1].look()
        pass_time(1)
    assert not ended


def test_a_process_that_fails_ends_all_with_its_code_and_its_line(three):
    watches, ended, service, _ = three
    watches[1].fail(2, "config.lr=-1: must be positive")
    watches[2].fail(1, "later")
    watches[0].look()
    assert ended == {0: (2, "process 1 has ended: config.lr=-1: must be positive")}
    assert json.loads(service.values[peers.FATE])[0] == 1, "the first one counts"


def test_a_service_that_does_not_answer_is_given_time(three):
    watches, ended, service, pass_time = three
    service.down = True
    watches[1].look()
    pass_time(peers.LOST / 2)
    watches[1].look()
    assert not ended
    service.down = False
    watches[1].look()
    service.down = True
    pass_time(peers.LOST + 1)
    watches[1].look()
    assert ended[1][0] == 75 and "process 0 has not answered for 30 s" in ended[1][1]


def test_processes_that_cannot_come_together(monkeypatch):
    def refused(address, count, index):
        monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", address)
        monkeypatch.setenv("JAX_NUM_PROCESSES", count)
        monkeypatch.setenv("JAX_PROCESS_ID", index)
        with pytest.raises(UserError) as found:
            connect.initialize_distributed()
        return str(found.value)

    assert "needs whole numbers" in refused("127.0.0.1:4000", "2", "")
    assert "must be below JAX_NUM_PROCESSES=2" in refused("127.0.0.1:4000", "2", "2")
    assert "has no port" in refused("127.0.0.1", "2", "0")
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert "cannot be used on this machine" in refused(f"127.0.0.1:{port}", "2", "0")
        assert peers.reachable(f"127.0.0.1:{port}", 1.0)
    assert not peers.reachable(f"127.0.0.1:{port}", 1.0)
    monkeypatch.setattr(connect, "WAIT", -1)
    assert "is it started" in refused(f"127.0.0.1:{port}", "2", "1")


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed: pair.cc:547 Connection closed by peer"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: an operation failed"), True),
        (RuntimeError("UNAVAILABLE: failed to connect to all addresses"), True),
        (ConnectionResetError("Connection reset by peer"), True),
        (RuntimeError("NCCL operation ncclAllReduce() failed"), True),
        (ValueError("shapes (2,) and (3,) do not match"), False),
        (KeyError("gloomy"), False),
    ],
)
def test_a_lost_process_is_looked_for_wherever_an_exchange_fails(monkeypatch, error, waits):
    """Not in the steps alone: before them processes agree on their config."""

    def failing(given, overrides):
        raise error

    waited = []
    monkeypatch.setattr(cli, "setup", lambda device: None)
    monkeypatch.setattr(Command, "load", lambda self: failing)
    monkeypatch.setattr(peers, "await_verdict", lambda: waited.append(True))
    code, line = cli.run(["train"])
    assert code == 1 and "please report it" in line
    assert bool(waited) == waits
