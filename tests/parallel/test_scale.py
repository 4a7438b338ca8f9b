"""One run on other devices and numbers of processes: rules, elastic resumes, a signal to one."""

import fcntl
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FAST, ROOT, in_make_laws, make_mesh
from helpers.checkpoints import flip, largest
from helpers.laws import GENTLE, Small, losses
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jssl import ops
from jssl.data.loader import Feed
from jssl.nn import products
from jssl.parallel import connect, mesh
from jssl.perf import hlo
from jssl.workdir.checkpoint import Checkpoints

MAE = "configs/mae_imagenette.py:tiny"


@pytest.mark.parametrize(
    ("path", "shape", "wanted"),
    [
        ("params/encoder/blocks/0/attn/qkv/kernel", (768, 2304), P("fsdp", "tensor")),
        (
            "params/encoder/blocks/layers/attn/qkv/kernel",
            (12, 768, 2304),
            P(None, "fsdp", "tensor"),
        ),
        ("opt_state/0/mu/encoder/blocks/0/mlp/fc1/kernel", (768, 3072), P("fsdp", "tensor")),
        ("buffers/teacher/encoder/blocks/0/mlp/fc2/kernel", (3072, 768), P("tensor", "fsdp")),
        ("params/encoder/tokens/embedding", (30522, 768), P("tensor", "fsdp")),
        ("params/prototypes/direction", (65536, 256), P("tensor", "fsdp")),
        ("params/encoder/conv1/kernel", (7, 7, 3, 64), P()),
        ("params/encoder/layer4_1/conv2/kernel", (3, 3, 512, 512), P(None, None, None, "fsdp")),
        ("params/encoder/blocks/0/attn/qkv/bias", (2304,), P()),
        ("buffers/queue", (65536, 128), P(mesh.AXES)),
        ("buffers/bank/label", (1024, 3), P(mesh.AXES)),
        ("buffers/center", (65536,), P()),
    ],
)
def test_rules(path, shape, wanted):
    assert mesh.partition_spec(path, shape, make_mesh(2, 2, 2)) == wanted


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((768, 2304), P("fsdp", None)),  # 2304 / 16 is no multiple of 128
        ((768, 4096), P(None, "fsdp")),
        ((24, 4096, 1024), P(None, "fsdp", None)),
        ((1, 1, 256, 1024), P(None, None, "fsdp", None)),
        ((3, 3, 128, 128), P(None, None, None, "fsdp")),  # no part of it is a whole tile
        ((30522, 768), P(None, "fsdp")),
        ((1024,), P()),
    ],
)
def test_parts_are_whole_tiles_where_that_is_possible(shape, wanted):
    sixteen = AbstractMesh((1, 16, 1), mesh.AXES)
    assert mesh.partition_spec("params/encoder/kernel", shape, sixteen) == wanted


@pytest.mark.parametrize(
    ("platform", "count", "data", "tensor", "wanted"),
    [
        ("tpu", 256, -1, 1, 16),
        ("tpu", 8, -1, 1, 4),
        ("tpu", 24, -1, 1, 12),
        ("tpu", 256, -1, 32, 4),
        ("tpu", 256, 256, 1, -1),
        ("tpu", 2, -1, 1, 1),
        ("tpu", 1, -1, 1, 1),
        ("gpu", 16, -1, 1, 1),
        ("cpu", 8, -1, -1, 1),
    ],
)
def test_state_shards_where_the_config_leaves_them_open(platform, count, data, tensor, wanted):
    assert mesh.state_shards(count, platform, data, tensor) == wanted


def test_a_kernel_is_gathered_in_the_dtype_of_its_product():
    """After it is converted, and its gradient is summed in parts; `jssl plan` shows it on TPUs."""
    four = make_mesh(1, 4)
    split = NamedSharding(four, mesh.partition_spec("params/kernel", (256, 512), four))
    rows = NamedSharding(four, P(mesh.BATCH))
    kernel = np.random.default_rng(0).normal(size=(256, 512)).astype(np.float32)
    x = np.random.default_rng(1).normal(size=(8, 256)).astype(np.float32)

    def loss(kernel, x, product):
        y = product(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
        return y.astype(jnp.float32).var()

    def lowered(sharding, product):
        step = mesh.with_mesh(four, lambda *given: jax.grad(loss, (0, 1))(*given, product))
        places = (sharding, rows)
        return jax.jit(step, in_shardings=places, out_shardings=places).lower(kernel, x)

    last_by_first: Any = (((1,), (0,)), ((), ()))
    ours = lowered(split, lambda x, kernel: products.dot_general(x, kernel, last_by_first))
    constraint = r"sharding_constraint .*@mesh, \[{([^}]*)}, {([^}]*)}\].*tensor<256x512x(\w+)>"
    assert re.findall(constraint, ours.as_text()) == [
        *[("", '"fsdp"', "bf16"), ("", "", "bf16")] * 2,
        ("", '"fsdp"', "bf16"),  # of the gradient
    ]
    wanted = lowered(NamedSharding(four, P()), jnp.matmul).compile()(kernel, x)
    for one, other in zip(ours.compile()(kernel, x), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.05, atol=2e-5)


@functools.cache
def alone():
    """The recipe on one device, and the losses of its first 40 steps."""
    one = Small(MAE, GENTLE)
    config = one.run.config
    feed = Feed(one.run.data, config.seed, config.batch_size, one.run.mesh, 0)
    batches = [feed.batch(feed.held, feed.next()) for _ in range(40)]
    feed.close()
    return one, one.steps(40, batches)[1]


@in_make_laws
def test_a_run_goes_on_with_fewer_devices(tmp_path):
    """8 -> 4 devices, through a checkpoint: the losses of a run on one."""
    one, wanted = alone()
    found = []
    for step, devices in enumerate((make_mesh(2, 2, 2), make_mesh(4))):
        here = Small(MAE, GENTLE, devices=devices, like=one)
        saves = Checkpoints(tmp_path, every=1, keep_latest=2, keep_best=0)
        state = saves.restore(here.run.shapes) if step else here.first
        assert int(state.step) == step
        state, metrics = here.step(state, here.batches[step])
        found.append(float(metrics["loss"]))
        saves.save(step + 1, state, None)
        saves.close()
    np.testing.assert_allclose(found, wanted[:2], rtol=1e-5)


STREAMED = {"data.on_device": False, "data.workers": 1}


def start(folder, processes: int, hosts=None):
    """The processes of a run, on this machine or each on its own one of `hosts`."""
    words = [sys.executable, "-m", "jssl", "train", f"--config={MAE}"]
    words += [f"--config.{key}={value}" for key, value in {**GENTLE, **STREAMED}.items()]
    words += ["--config.steps=40", "--config.eval.every=0", "--config.checkpoint.every=100"]
    words += ["--config.log.render_every=0", f"--workdir={folder}"]
    env = {**os.environ, "XLA_FLAGS": FAST}
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        host = "host0" if hosts else "127.0.0.1"
        env |= {"JAX_COORDINATOR_ADDRESS": f"{host}:{port}", "JAX_NUM_PROCESSES": str(processes)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    before = hosts if hosts and processes > 1 else [()] * processes
    return [
        subprocess.Popen([*before[i], *words], env=env | {"JAX_PROCESS_ID": str(i)}, **pipes)
        for i in range(processes)
    ]


def stop_after(folder, processes, step: int, number=signal.SIGTERM):
    """Signals the last of the processes once that step is written; their ends."""
    path, until = folder / "metrics.jsonl", time.monotonic() + 200
    while time.monotonic() < until and processes[-1].poll() is None:
        if path.exists() and any(n >= step for n in losses(folder)):
            break
        time.sleep(0.05)
    processes[-1].send_signal(number)
    return ends(processes)


def ends(processes):
    found = [(*one.communicate(timeout=240), one.returncode) for one in processes]
    return [code for *_, code in found], found[0][1]


@pytest.fixture
def hosts(tmp_path):
    """What to write before a command to run it on one of two hosts: network namespaces of their
    own, joined by one wire, each with a name. Why not, where the machine does not allow it."""
    names = [f"jssl-{os.getpid()}-{i}" for i in range(2)]
    book = tmp_path / "hosts"
    book.write_text("127.0.0.1 localhost\n192.0.2.1 host0\n192.0.2.2 host1\n")

    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True, text=True, check=True)

    inside = "mount --bind {book} /etc/hosts && hostname host{i} && exec {words}"
    try:
        for name in names:
            ip("netns", "add", name)
        wire = ["link", "add", "w0", "netns", names[0], "type", "veth", "peer", "name", "w1"]
        ip(*wire, "netns", names[1])
        for i, name in enumerate(names):
            ip("-n", name, "address", "add", f"192.0.2.{i + 1}/24", "dev", f"w{i}")
            ip("-n", name, "link", "set", f"w{i}", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield [
            ["ip", "netns", "exec", name, "unshare", "--mount", "--uts", "sh", "-c",
             inside.format(book=book, i=i, words='"$@"'), "sh"]
            for i, name in enumerate(names)
        ]  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        yield f"no network namespaces here ({getattr(error, 'stderr', '') or error})"
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def test_hosts_see_each_other_through_their_wire_only(hosts):
    if isinstance(hosts, str):
        pytest.skip(f"{hosts}: the two processes below are on one host")
    code = "import socket, sys; s = socket.create_server(('', 4000)); s.accept()[0].sendall(b'hi')"
    ask = "import socket, sys; print(socket.create_connection((sys.argv[1], 4000), 9).recv(9))"
    with subprocess.Popen([*hosts[0], sys.executable, "-c", code]) as server:
        for host, wanted in (("localhost", "Connection refused"), ("host0", "b'hi'")):
            words, until = [*hosts[1], sys.executable, "-c", ask, host], time.monotonic() + 20
            while True:  # the server, and the wire, take a moment
                done = subprocess.run(words, capture_output=True, text=True)
                if wanted in done.stdout + done.stderr or time.monotonic() > until:
                    break
                time.sleep(0.1)
            if wanted not in done.stdout + done.stderr:
                server.kill()
            assert wanted in done.stdout + done.stderr
        assert server.wait(20) == 0


@pytest.mark.parametrize("numbers", [(2, 1), pytest.param((2, 1, 2), marks=in_make_laws)])
def test_a_signal_to_one_process_stops_all_and_another_number_goes_on(numbers, hosts, tmp_path):
    """Processes with data workers, each number of them stopped by a signal but for the last. Two
    are on two hosts where the machine can make them. If there are three numbers, the last finds
    the newest checkpoint damaged. Losses equal an undisturbed run's on resident data."""
    folder, hosts = tmp_path / "elastic", None if isinstance(hosts, str) else hosts
    saved = []
    for number in numbers[:-1]:
        which = signal.SIGTERM if number > 1 else signal.SIGINT
        after = 3 + max(saved, default=0)
        codes, err = stop_after(folder, start(folder, number, hosts), after, which)
        assert codes == [75] * number, err[-2000:]
        saved = sorted(int(path.name) for path in (folder / "checkpoints").glob("[0-9]*"))
        assert after <= saved[-1] < 40
    damaged = len(numbers) > 2
    if damaged:
        flip(largest(folder / "checkpoints" / str(saved[-1]) / "state"), 1)
    codes, err = ends(start(folder, numbers[-1], hosts))
    assert codes == [0] * numbers[-1], err[-2000:]
    assert (f"checkpoint {saved[-1]} cannot be read and is set aside" in err) == damaged
    rows = losses(folder)
    assert rows.keys() == set(range(1, 41))
    found = [rows[step][0] for step in sorted(rows)]
    np.testing.assert_allclose(found, alone()[1], rtol=1e-5)


BOTH = (
    "import sys; from jssl import cli; from jssl.workdir import claim, lock; "
    "lock.LOCK_TIMEOUT_S = claim.VISIBLE = 1.0; sys.exit(cli.main(sys.argv[1:]))"
)


def both(words, own=lambda i: []):
    """[(exit code, stdout, stderr)] of two processes of one command; `own`: what is each one's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = {**os.environ, "XLA_FLAGS": FAST, "JAX_COORDINATOR_ADDRESS": address}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", BOTH, *words, *own(i)],
            env=env | {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(i)}, **pipes,
        )
        for i in range(2)
    ]  # fmt: skip
    found = [one.communicate(timeout=120) for one in pair]
    return [(one.returncode, *said) for one, said in zip(pair, found, strict=True)]


def test_trouble_of_one_process_is_said_by_both(tmp_path):
    """The doctor where the data and the workdir are missing on one host."""
    (tmp_path / "file").touch()
    (tmp_path / "a").mkdir()
    words = ["doctor", "--config=configs/simclr_digits.py:tiny", "--config.data.source=folder"]
    words += [f"--config.data.path={tmp_path}/none"]
    found = both(words, lambda i: [f"--workdir={tmp_path}/{('a', 'file/b')[i]}"])
    for code, out, err in found:
        assert code == 2, err[-3000:]
        said = json.loads(out.splitlines()[-1])
        assert not said["ok"] and said["processes"] == 2 and "failed" not in said["collectives"]
        assert "failed" in said["workdir"] and f"{tmp_path}/none" in said["data"]["failed"]
    assert "another process failed here" in found[0][2] and "file/b" in found[1][2]


@in_make_laws
def test_a_workdir_in_use_is_refused_by_both(tmp_path):
    (tmp_path / "a").mkdir()
    with (tmp_path / "a" / ".lock").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        words = ["train", "--config=configs/simclr_digits.py:tiny", f"--workdir={tmp_path}/a"]
        for code, _, err in both(words):
            assert code == 2 and "in use by another run" in err, err[-3000:]


def test_processes_agree_before_anything_is_written(tmp_path):
    """On their keys, and then on the folder: another one on each host is seen at once."""
    words = ["train", "--config=configs/simclr_digits.py:tiny", "--config.eval.every=0"]

    def own(i):
        return [f"--config.optim.lr={(0.002, 0.5)[i]}", f"--workdir={tmp_path}/a"]

    for code, _, err in both(words, own):
        assert code == 2, err[-3000:]
        line = "config.optim.lr=0.002 on process 0 and 0.5 on process 1; start all processes with"
        assert line in err.splitlines()[-1]
    assert not (tmp_path / "a").exists()
    for code, _, err in both(words, lambda i: [f"--workdir={tmp_path}/{'ab'[i]}"]):
        assert code == 2 and "it must be one folder for all processes" in err, err[-3000:]
    assert not [path for path in tmp_path.rglob("*.json")]


def test_processes_on_cpus_take_no_programs_from_the_cache(monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    # A watch without other processes would end this one after half a minute.
    monkeypatch.setattr(connect.peers, "watch", lambda address: None)
    before = jax.config.jax_enable_compilation_cache
    try:
        connect.initialize_distributed()
        assert not jax.config.jax_enable_compilation_cache
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def test_the_mesh_says_what_does_not_cover_the_devices():
    from jssl.config import UserError

    with pytest.raises(
        UserError, match="mesh.data=3 --config.mesh.fsdp=1 --config.mesh.tensor=1 do not cover 8"
    ):
        mesh.make_mesh(data=3, fsdp=1, tensor=1)
    assert mesh.make_mesh(data=-1, fsdp=2, tensor=2).shape == {"data": 2, "fsdp": 2, "tensor": 2}
    assert mesh.batch_parts(make_mesh(2, 2, 2)) == 4


def test_an_axis_may_be_a_part_of_a_torus():
    pytest.importorskip("libtpu", reason="needs TPU topologies: pip install 'jssl[plan]'")
    from jssl.commands import plan

    made = mesh.make_mesh(data=-1, fsdp=8, devices=plan.devices_for("v6e:16x16", 0))
    assert dict(made.shape) == {"data": 32, "fsdp": 8, "tensor": 1}


def test_a_split_queue_is_gathered_once_and_not_by_every_turn_of_the_search(monkeypatch):
    monkeypatch.setattr(ops, "COLUMNS", 16)  # 4 turns, so that each takes rows of 2 devices
    here = make_mesh(8)
    queue = jax.ShapeDtypeStruct((64, 4), np.float32, sharding=NamedSharding(here, P(mesh.AXES)))
    rows = jax.ShapeDtypeStruct((16, 4), np.float32, sharding=mesh.batch_sharding(here))
    search = mesh.with_mesh(here, lambda x, queue: ops.nearest_index(x, queue, True))
    program = hlo.Program(jax.jit(search).lower(rows, queue).compile().as_text())
    found = [(one.kind, one.times) for one in program.collectives(8)]
    assert found == [("all-gather", 1)] and 4 in program.times.values()


def test_which_processes_share_compiled_programs(monkeypatch):
    from jax._src import cache_key

    from jssl.parallel import mesh

    monkeypatch.delattr(cache_key, "_shared_fingerprints", raising=False)
    shared = {kind: mesh.shares_cached_programs(kind) for kind in ("cpu", "gpu", "tpu")}
    assert shared == {"cpu": False, "gpu": False, "tpu": True}
    monkeypatch.setattr(cache_key, "_shared_fingerprints", object(), raising=False)
    assert mesh.shares_cached_programs("gpu")
