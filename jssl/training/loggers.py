"""Where scalars go: metrics.jsonl, TensorBoard, trackers. A sink is called with
(step, {name: float}), hears `rewind(step)` when a run goes on from an earlier step, and is closed
at the end. Each is behind an `Outbox`, and so may be slow or fail.
"""

import json
import math
import os
import pathlib
import socket
import stat
import struct
import tempfile
import time

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from jssl.data import files
from jssl.training import trackers
from jssl.training.outbox import Outbox

METRICS = "metrics.jsonl"
LINE = 2**20  # bytes; a longer line of metrics.jsonl is none of ours


class Appender:
    """A regular file that grows by whole records: what was written in part is taken back."""

    def __init__(self, path: pathlib.Path):
        self.file = files.open_regular(path, "ab")

    def write(self, record: bytes) -> None:
        """Raises `OSError` with the file as it was before."""
        number = self.file.fileno()
        size = os.fstat(number).st_size
        rest = memoryview(record)
        try:
            while rest:
                rest = rest[os.write(number, rest) :]
        except OSError:
            os.ftruncate(number, size)
            raise

    def close(self) -> None:
        self.file.close()


class Jsonl:
    """metrics.jsonl: one JSON object a line, in the order of the steps. What the system has taken
    outlives the process. `start`: the step that the run goes on from; lines of later steps are
    written anew, so they are removed."""

    def __init__(self, path, start: int | None = None):
        self.path = pathlib.Path(path)
        if start is not None:
            supersede(self.path, start)
        self.out = Appender(self.path)
        size = os.fstat(self.out.file.fileno()).st_size
        # A full disk or a lost machine may have cut the last line off.
        if size and os.pread(self.out.file.fileno(), 1, size - 1) != b"\n":
            self.out.write(b"\n")

    def __call__(self, step, values):
        finite = {k: v if math.isfinite(v) else str(v) for k, v in values.items()}
        self.out.write((json.dumps({"step": step, **finite}) + "\n").encode())

    def rewind(self, step):
        self.out.close()
        try:
            supersede(self.path, step)
        finally:
            self.out = Appender(self.path)

    def close(self):
        self.out.close()


class TensorBoard:
    """Scalars for TensorBoard, in <workdir>/tensorboard. `start`: TensorBoard hides what an earlier
    process wrote of later steps.

    The events are written here and at once: tensorboardX would do it in a thread that ends without
    a word when the disk is full.
    """

    def __init__(self, folder, start: int = 0):
        folder = pathlib.Path(folder)
        folder.mkdir(exist_ok=True)
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise files.Damaged(folder, "it is a link")
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self.out = Appender(folder / name)
        self.out.write(framed(Event(wall_time=time.time(), file_version="brain.Event:2")))
        if start:
            self.rewind(start)

    def __call__(self, step, values):
        scalars = [Summary.Value(tag=key, simple_value=value) for key, value in values.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=scalars))
        self.out.write(framed(event))

    def rewind(self, step):
        again = SessionLog(status=SessionLog.START)
        self.out.write(framed(Event(wall_time=time.time(), step=step + 1, session_log=again)))

    def close(self):
        self.out.close()


def framed(event: Event) -> bytes:
    """A record of a TFRecord file: length and data, each with its masked CRC-32C."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    return length + sums[0] + data + sums[1]


def lines(path: pathlib.Path):
    """(bytes, object or None) of every line of metrics.jsonl; None of what is no JSON object."""
    with files.open_regular(path) as file:
        while line := file.readline(LINE):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield line, row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def supersede(path: pathlib.Path, step: int) -> None:
    """Removes the lines of steps after `step` from metrics.jsonl: a run that goes on from there
    writes them again. The file is replaced as a whole, and only if there are some."""
    if not os.path.lexists(path) or not any(row and row["step"] > step for _, row in lines(path)):
        return
    number, part = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as kept:
            for line, row in lines(path):
                if row is None or row["step"] <= step:
                    kept.write(line)
            os.fchmod(kept.fileno(), stat.S_IMODE(os.lstat(path).st_mode))
        os.replace(part, path)
    except BaseException:
        pathlib.Path(part).unlink(missing_ok=True)
        raise


def newest(folder, upto: int) -> dict[str, tuple[int, float]]:
    """{name: (step, value)}: the newest value of every metric in metrics.jsonl, of steps up to
    `upto`. A file that cannot be read, and every line that is none of ours, is passed over: metrics
    are observed, never needed."""
    found = {}
    try:
        for _, row in lines(pathlib.Path(folder) / METRICS):
            if row and row["step"] <= upto:
                known = {key: number(value) for key, value in row.items() if key != "step"}
                known = {key: value for key, value in known.items() if value is not None}
                found.update({key: (row["step"], value) for key, value in known.items()})
    except (OSError, files.Damaged):
        return found
    return found


def number(value) -> float | None:
    """A number as `Jsonl` writes it, which is "nan" or "inf" in words; None of anything else."""
    if value in ("nan", "inf", "-inf"):
        return float(value)
    return value if type(value) in (int, float) else None


def open_all(workdir, *, start: int, config: dict, tensorboard: bool, wandb: str, mlflow: str):
    """An `Outbox` for each sink: metrics.jsonl always, the others by config. `config`: of the run,
    for trackers. `UserError` if the package of a tracker is missing."""
    workdir = pathlib.Path(workdir)
    made = {METRICS: lambda: Jsonl(workdir / METRICS, start)}
    if wandb:
        trackers.need("wandb", wandb)
        made["log.wandb"] = lambda: trackers.Wandb(wandb, workdir, config)
    if mlflow:
        trackers.need("mlflow", mlflow)
        made["log.mlflow"] = lambda: trackers.Mlflow(mlflow, workdir, config)
    if tensorboard:
        made["TensorBoard"] = lambda: TensorBoard(workdir / "tensorboard", start)
    boxes = [Outbox(name, opens) for name, opens in made.items()]
    for box in boxes:
        box.post(lambda sink: None, records=0)  # opens it, ahead of the first metrics
    return boxes
