"""The DataLoader side of input.py: PyTorch and torchvision on the same files. Needs no jssl.

It answers one request, a line of JSON, with one line of JSON. Its data sets do the work of jssl's
sources: the same pixels on the same canvas, the same rows of tokens and segments.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from input_timing import measure, memory
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler


def load_torchvision() -> Any:
    """Imports torchvision. Beside a CPU build of torch its operators may be missing.

    Their names are enough for its data sets.
    """
    try:
        import torchvision
    except RuntimeError:
        operators = torch.library.Library("torchvision", "DEF")
        operators.define("nms(Tensor d, Tensor s, float i) -> Tensor")
        operators.define("qnms(Tensor d, Tensor s, float i) -> Tensor")
        import torchvision
    return torchvision


torchvision = load_torchvision()


class Endless(Sampler):
    """Yields one random permutation after another, so that no epoch ends during a measurement."""

    def __init__(self, count: int):
        self.count = count

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(self.count).tolist()


class Arrays(Dataset):
    """The memory maps of a packed folder of images; an index may be a list of a whole batch."""

    def __init__(self, path: str):
        # Mode "c" gives writable views, which PyTorch takes without a copy.
        self.images = np.load(os.path.join(path, "image.npy"), mmap_mode="c")
        self.labels = np.load(os.path.join(path, "label.npy"))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> tuple[torch.Tensor, Any]:
        return torch.from_numpy(self.images[index]), torch.as_tensor(self.labels[index])


class Rows(Dataset):
    """Rows of joined documents, with the number of the document of each token."""

    def __init__(self, path: str, length: int):
        self.flat = np.load(os.path.join(path, "tokens.npy"), mmap_mode="r")
        self.stops = np.load(os.path.join(path, "offsets.npy"), mmap_mode="r")[1:]
        self.length = length

    def __len__(self) -> int:
        return len(self.flat) // self.length

    def __getitem__(self, index: Any) -> tuple[torch.Tensor, torch.Tensor]:
        positions = np.asarray(index)[..., None] * self.length + np.arange(self.length)
        document = np.searchsorted(self.stops, positions, side="right")
        tokens = self.flat[positions].astype(np.int32)
        segment = (document - document[..., :1] + 1).astype(np.int32)
        return torch.from_numpy(tokens), torch.from_numpy(segment)


class ToCanvas:
    """Resizes an image so that its shorter side is `side`, and puts it on a canvas."""

    def __init__(self, side: int):
        self.resize = torchvision.transforms.Resize(side)
        self.shape = (side, side * 3 // 2, 3)

    def __call__(self, image: Any) -> torch.Tensor:
        pixels = np.asarray(self.resize(image))
        canvas = np.zeros(self.shape, np.uint8)
        canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
        return torch.from_numpy(canvas)


def open_dataset(request: dict) -> Dataset:
    """Opens the data set of a request."""
    if request["kind"] == "arrays":
        return Arrays(request["path"])
    if request["kind"] == "text":
        return Rows(request["path"], request["side"])
    return torchvision.datasets.ImageFolder(request["path"], ToCanvas(request["side"]))


def loader(dataset: Dataset, request: dict) -> Iterator[Any]:
    """Returns the batches of a DataLoader; "batched" gives the data set whole lists of indices."""
    sampler = Endless(len(dataset))
    if request["batched"]:
        sampler = BatchSampler(sampler, request["batch"], drop_last=True)
    batch_size = None if request["batched"] else request["batch"]
    workers = request["workers"]
    return iter(DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers))


def listing(request: dict) -> dict[str, float]:
    """Returns the seconds to list a folder, those to the first batch, and a worker's memory."""
    import multiprocessing

    began = time.perf_counter()
    dataset = open_dataset(request)
    listed = time.perf_counter()
    batches = loader(dataset, request)
    next(batches)
    found = {"list_s": listed - began, "first_s": time.perf_counter() - began}
    return found | memory([process.pid for process in multiprocessing.active_children()])


def answer(request: dict) -> dict:
    """Returns the result of a request."""
    if request["kind"] == "files":
        return listing(request)
    dataset = open_dataset(request)
    first = np.ascontiguousarray(dataset[0][0]).tobytes()
    found = measure(lambda: loader(dataset, request), request["batch"], request["seconds"])
    return found | {"sha256": hashlib.sha256(first).hexdigest()}


def main() -> None:
    torch.set_num_threads(1)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    print(json.dumps(versions | {"numpy": np.__version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
