"""The line about the wait for data: once, and with the lever that helps."""

import math
import types

import pytest

from jssl.data import DataConfig
from jssl.data.source import image_fields
from jssl.training.data_wait import DataWaitAlarm, find_cure

LATE = {"data_wait_fraction": 0.3}
COUNT = 1000  # images of 3,084 bytes: 3 MB


class Images:
    name = "images"
    fields = image_fields((32, 32, 3), "uint8", labeled=False)

    def __len__(self):
        return COUNT


class Photos(Images):
    pixels = types.SimpleNamespace()  # a source with it decodes


def data(source, workers=0, on_device=False):
    return DataConfig(source, on_device, workers, 0.0)


def test_it_says_it_once_and_not_of_the_first_visit(caplog):
    alarm = DataWaitAlarm(data(Images()), lambda: 1e9)
    for step, values in enumerate([LATE, {"data_wait_fraction": 0.04}, {"loss": 1.0}], start=1):
        alarm(step, values)
    assert not caplog.records
    for step in (4, 5):
        alarm(step, LATE)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "step 4: 30 % of the time is wait for data; set --config.data.on_device=True: the data "
        "need 0.0031 GB"
    )


@pytest.mark.parametrize("free", [3e6, math.nan])
def test_the_lever_depends_on_the_data_and_on_the_machine(free):
    def cure(data, wait=0.3, cores=8):
        return find_cure(data, wait, free, cores)

    assert cure(data(Photos(), 4)).startswith("set --config.data.workers=6 (now 4; 8 cores")
    assert cure(data(Photos(), 0)).startswith("set --config.data.workers=2 ")
    assert "`jssl data pack`" in cure(data(Photos(), 0), wait=0.95)  # 20 cores would do
    assert "`jssl data pack`" in cure(data(Photos(), 8))
    assert cure(data(Images(), 0), wait=0.95).startswith("set --config.data.workers=8 ")
    assert cure(data(Images(), 8)) == ""
    assert cure(data(Photos(), 0, on_device=True)) == ""
