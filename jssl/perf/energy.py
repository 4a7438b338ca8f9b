"""The energy that NVIDIA GPUs have used, by NVML's own counter.

Source: NVML API reference, `nvmlDeviceGetTotalEnergyConsumption`: millijoules since the driver was
loaded, on Volta and later. The counter changes several times a second: time a second or more.
"""

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import jax

LIBRARY = "libnvidia-ml.so.1"


class Meter:
    """Reads the energy counters of devices.

    Args:
      devices: the devices; those of other processes are left out.
      library: NVML; None: the library of this machine, if it has one.
    """

    def __init__(self, devices: Sequence[Any], library: Any = None) -> None:
        self._handles: list[ctypes.c_void_p] = []
        self._library = library or _load()
        if self._library is None or self._library.nvmlInit_v2():
            return
        for device in devices:
            if device.platform == "gpu" and device.process_index == jax.process_index():
                self._handles.append(self._handle(device.local_hardware_id))

    def joules(self) -> float | None:
        """Returns the sum of the counters; None if there are none or one cannot be read."""
        total = 0
        for handle in self._handles:
            millijoules = ctypes.c_ulonglong()
            if self._library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)):
                return None
            total += millijoules.value
        return total / 1e3 if self._handles else None

    def _handle(self, number: int) -> ctypes.c_void_p:
        """Returns NVML's handle of a GPU; NVML does not know CUDA_VISIBLE_DEVICES."""
        handle = ctypes.c_void_p()
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        name = visible[number].strip() if number < len(visible) else str(number)
        if name.isdecimal():
            self._library.nvmlDeviceGetHandleByIndex_v2(int(name), ctypes.byref(handle))
        else:
            self._library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
        return handle


def _load() -> Any:
    """Opens NVML; returns None where there is none."""
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError:
        return None
