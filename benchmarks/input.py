"""Examples per second that a host reads, beside PyTorch's DataLoader on the same files.

    python benchmarks/input.py --peer-python=PYTHON --out=benchmarks/results/input-cpu.json
    python benchmarks/input.py --only files --files=1000000 --out=...   # replaces that row alone
    python benchmarks/input.py --tiny                                   # the whole script, briefly

Measures what `jssl.data.host_batches.stream` gives to a feed, without a training step. The data are
made in a temporary folder. PYTHON is an interpreter with torch and torchvision. Every round times
jssl and then the DataLoader. A rate per core is the rate divided by the number of workers.
"""

import argparse
import contextlib
import datetime
import hashlib
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from decode import photo
from input_timing import measure, memory

from jssl import data
from jssl.data.host_batches import prepare_start, stream
from jssl.data.source import Batch, Source
from jssl.data.sources import packed
from jssl.data.text import corpora, packing, tokenizer
from jssl.workdir import run_folder

HERE = pathlib.Path(__file__).parent
SEED = 0


class Row(NamedTuple):
    """One row of the results.

    Attributes:
      kind: kind of the data: "arrays", "text", "photos" or "files".
      unit: what is counted.
      side: the side of an image in pixels, or the tokens of a row.
      batch: examples of a batch.
      count: examples of the data set.
      workers: numbers of worker processes to measure.
      goal: examples per second and core; 0: none.
    """

    kind: str
    unit: str
    side: int
    batch: int
    count: int
    workers: tuple[int, ...]
    goal: int


ROWS = {
    "arrays_32": Row("arrays", "images", 32, 512, 50_000, (0,), 250_000),
    "packed_224": Row("arrays", "images", 224, 256, 4_000, (0,), 12_000),
    "photos": Row("photos", "images", 256, 32, 256, (0, 1, 2), 2_000),
    "text_512": Row("text", "rows", 512, 256, 16_000, (0,), 0),
    "files": Row("files", "images", 32, 64, 1_000_000, (1,), 0),
}


def make(row: Row, path: str) -> None:
    """Makes the data of a row in the new folder `path`."""
    if row.kind == "arrays":
        make_arrays(row, path)
    elif row.kind == "text":
        make_text(row, path)
    else:
        make_images(row, path)


def make_arrays(row: Row, path: str) -> None:
    """Packs random images of ten classes."""
    rng = np.random.default_rng(SEED)
    shape = (row.count, row.side, row.side, 3)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    labels = np.arange(row.count) % 10
    packed.pack(packed.arrays(images, labels, "random"), path, lambda done, total: None)


def make_text(row: Row, path: str) -> None:
    """Packs documents of 20 to 2,000 random letters, one token each."""
    rng = np.random.default_rng(SEED)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz     ", np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        total = 0
        with open(os.path.join(folder, "text.jsonl"), "w", encoding="utf-8") as file:
            while total < row.count * row.side:
                text = letters[rng.integers(0, len(letters), rng.integers(20, 2_000))].tobytes()
                file.write(json.dumps({"text": text.decode()}) + "\n")
                total += len(text) + 1
        corpus = corpora.open_corpus(
            source="text",
            name="",
            path=folder,
            dir="",
            split="train",
            encoding="",
            text_key="text",
            max_corrupt_fraction=0.0,
        )
        packing.pack(corpus, tokenizer.load("bytes"), path)


def make_images(row: Row, path: str) -> None:
    """Writes photos in four folders, or many hard links to small images in folders of a thousand.

    A file system limits the links of a file, so each folder has an image of its own.
    """
    small = row.kind == "files"
    folders = -(-row.count // 1_000) if small else 4
    for k in range(folders):
        folder = os.path.join(path, f"class_{k:04}")
        os.makedirs(folder)
        first = os.path.join(folder, "0000.jpg")
        for number in range(min(row.count // folders, 1_000)):
            file = os.path.join(folder, f"{number:04}.jpg")
            if number and small:
                os.link(first, file)
                continue
            height, width = (24, 32) if small else (375, 500)
            pathlib.Path(file).write_bytes(photo(height, width, seed=k * 1_000 + number))


def open_source(row: Row, path: str) -> Source:
    """Opens the data of a row as a run does."""
    return data.load(
        source="folder" if row.kind in ("photos", "files") else "packed",
        name="",
        path=path,
        dir="",
        split="train",
        max_side=0 if row.kind == "text" else row.side,
        channels=3,
        on_device=False,
        workers=0,
        max_corrupt_fraction=0.0,
        seq_len=row.side if row.kind == "text" else 0,
    ).source


def batches(row: Row, source: Source, workers: int) -> Iterator[Batch]:
    """Returns the batches of a run from step 0 on, on the host."""
    prepare_start(workers)
    return stream(
        source,
        seed=SEED,
        batch_size=row.batch,
        rows=np.arange(row.batch),
        start=0,
        workers=workers,
    )


def time_jssl(row: Row, path: str, workers: int, seconds: float) -> dict:
    """Measures jssl once; see `input_timing.measure` and `input_peer.listing`."""
    began = time.perf_counter()
    source = open_source(row, path)
    listed = time.perf_counter()
    if row.kind == "files":
        opened = batches(row, source, workers)
        with contextlib.closing(opened):
            next(opened)
            found = {"list_s": listed - began, "first_s": time.perf_counter() - began}
            return found | memory([p.pid for p in multiprocessing.active_children()])
    opened = batches(row, source, workers)
    with contextlib.closing(opened):
        found = measure(lambda: opened, row.batch, seconds)
    name = "tokens" if row.kind == "text" else "image"
    first = source.read(np.array([0]))[name].tobytes()
    return found | {"sha256": hashlib.sha256(first).hexdigest()}


class Peer:
    """The process of `input_peer.py`. Attributes: versions."""

    def __init__(self, python: str):
        command = [python, str(HERE / "input_peer.py")]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.versions = json.loads(self.process.stdout.readline())

    def ask(self, request: dict) -> dict:
        """Returns the answer to a request."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(row: Row, path: str, workers: int, rounds: int, seconds: float, peer: Peer | None):
    """Times jssl and the DataLoader in alternation: {side: {figure: [value of each round]}}."""
    request = row._asdict() | {"path": path, "workers": workers, "seconds": seconds}
    found: dict[str, dict[str, list]] = {}

    def keep(side: str, values: dict[str, Any]) -> None:
        for key, value in values.items():
            found.setdefault(side, {}).setdefault(key, []).append(value)

    for _ in range(rounds):
        keep("jssl", time_jssl(row, path, workers, seconds))
        if peer:
            keep("dataloader", peer.ask(request | {"batched": False}))
        if peer and row.kind in ("arrays", "text"):
            keep("dataloader_batched", peer.ask(request | {"batched": True}))
    sums = {value for side in found.values() for value in side.pop("sha256", [])}
    if len(sums) > 1:
        raise SystemExit(f"{row.kind}: both sides read other examples")
    return found


def write(path: str, rows: list[dict]) -> None:
    """Writes rows to a JSON file, in place of the rows of the same name and workers in it."""
    old = []
    with contextlib.suppress(FileNotFoundError):
        old = json.loads(pathlib.Path(path).read_text())["input"]
    new = {(row["row"], row["workers"]): row for row in [*old, *rows]}
    order = list(ROWS)
    found = sorted(new.values(), key=lambda row: (order.index(row["row"]), row["workers"]))
    pathlib.Path(path).write_text(json.dumps({"input": found}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="interpreter with torch; without it jssl is alone")
    parser.add_argument("--only", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timed part")
    parser.add_argument("--files", type=int, default=ROWS["files"].count)
    parser.add_argument("--tiny", action="store_true", help="small data, one short round")
    parser.add_argument("--out", help="a JSON file")
    args = parser.parse_args()
    rounds = 1 if args.tiny else args.rounds
    seconds = 0.2 if args.tiny else args.seconds
    peer = Peer(args.peer_python) if args.peer_python else None
    about = {"command": " ".join(["python benchmarks/input.py", *map(shown, sys.argv[1:])])}
    about |= {"date": str(datetime.date.today()), "cores": os.cpu_count()}
    about |= {"versions": run_folder.versions(), "peer": peer.versions if peer else {}}
    results = []
    for name in args.only:
        row = ROWS[name]
        row = row._replace(count=args.files) if row.kind == "files" else row
        row = row._replace(count=min(row.count, 2_000)) if args.tiny else row
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "data")
            make(row, path)
            for workers in row.workers:
                figures = compare(row, path, workers, rounds, seconds, peer)
                about_row = row._asdict() | {"row": name, "workers": workers, **figures}
                print(json.dumps(about_row), flush=True)
                results.append(about_row | about)
    if peer:
        peer.close()
    if args.out:
        write(args.out, results)


def shown(argument: str) -> str:
    """Returns an argument without the path of an interpreter, for the record."""
    return "--peer-python=PYTHON" if argument.startswith("--peer-python") else argument


if __name__ == "__main__":
    main()
