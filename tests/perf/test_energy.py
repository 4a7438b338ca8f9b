"""Energy from NVML's counters, with a library that is pretended."""

import ctypes
from types import SimpleNamespace

import pytest

from jssl.commands import bench
from jssl.perf import energy


class Nvml:
    """Two GPUs; each reading of a counter adds 1,500 mJ. `broken` names functions that fail."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.opened = []
        self.counters = [10_000, 20_000]

    def nvmlInit_v2(self):
        return self.broken == "init"

    def nvmlDeviceGetHandleByIndex_v2(self, number, handle):
        self.opened.append(number)
        handle._obj.value = number
        return 0

    def nvmlDeviceGetHandleByUUID(self, name, handle):
        self.opened.append(name)
        handle._obj.value = 1
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, out):
        number = handle.value or 0
        self.counters[number] += 1_500
        ctypes.cast(out, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.counters[number]
        return 3 if self.broken == "counter" else 0


def gpu(number: int, process: int = 0) -> SimpleNamespace:
    return SimpleNamespace(platform="gpu", process_index=process, local_hardware_id=number)


@pytest.fixture(autouse=True)
def all_visible(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_the_counters_of_the_devices_of_this_process_are_added():
    nvml = Nvml()
    meter = energy.Meter([gpu(0), gpu(1), gpu(0, process=1)], nvml)
    assert nvml.opened == [0, 1]
    assert meter.joules() == 10 + 20 + 2 * 1.5
    assert meter.joules() == 10 + 20 + 4 * 1.5


@pytest.mark.parametrize(("visible", "opened"), [("1, 0", [0]), ("GPU-aa,GPU-bb", [b"GPU-bb"])])
def test_a_gpu_is_found_among_the_visible_ones(monkeypatch, visible, opened):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvml = Nvml()
    energy.Meter([gpu(1)], nvml)
    assert nvml.opened == opened


@pytest.mark.parametrize("broken", ["init", "counter"])
def test_none_where_nothing_counts(broken):
    assert energy.Meter([gpu(0)], Nvml(broken)).joules() is None
    assert energy.Meter([SimpleNamespace(platform="cpu")], Nvml()).joules() is None


def test_none_without_nvml(monkeypatch):
    monkeypatch.setattr(energy, "LIBRARY", "libnvidia-ml-missing.so.1")
    assert energy.Meter([gpu(0)]).joules() is None


def test_joules_of_one_example():
    """Half of the devices are this process's, and so are half of the examples."""
    mesh = SimpleNamespace(local_devices=[0, 1], size=4)
    run = SimpleNamespace(mesh=mesh, config=SimpleNamespace(batch_size=32))
    assert bench.joules_per_example(run, 10, 100.0, 420.0) == 2.0
    assert bench.joules_per_example(run, 10, None, None) is None
