"""`jssl doctor`: what is right passes, what is wrong is named, and the exit code says which."""

import json
import os

import numpy as np
import pytest
from helpers.checkpoints import flip, largest
from helpers.runs import TINY, begun

from jssl import cli
from jssl.commands import doctor
from jssl.config import Config, UserError, load

CONFIG = "--config=configs/simclr_digits.py:tiny"


def ask(capfd, *words):
    code = cli.main(["doctor", *words])
    out, err = capfd.readouterr()
    return code, json.loads(out.splitlines()[-1]), err


def test_a_healthy_machine(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "ROOM", 1e6)
    code, found, err = ask(capfd, CONFIG, f"--workdir={tmp_path}/new")
    assert code == 0 and found["ok"], err
    assert found["devices"]["count"] == found["collectives"]["devices"] == 8
    assert found["collectives"]["bytes_per_s"] > 0 and found["clocks"]["skew_s"] == 0
    assert found["data"]["examples"] > 0 and found["workdir"]["processes"] == 1
    assert os.listdir(tmp_path / "new") == [], "it leaves nothing behind"
    for name in (
        "versions",
        "devices",
        "collectives",
        "clocks",
        "workdir",
        "disk",
        "run",
        "shared memory",
        "data",
    ):
        assert name in err


@pytest.mark.parametrize(
    ("words", "check", "said"),
    [
        (
            [CONFIG, "--config.data.source=folder", "--config.data.path=/nowhere"],
            "data",
            "/nowhere",
        ),
        (["--workdir=/proc/no"], "workdir", "/proc/no"),
    ],
)
def test_what_is_wrong_is_named(capfd, words, check, said):
    code, found, err = ask(capfd, *words)
    assert code == 2 and not found["ok"]
    assert said in found[check]["failed"] and check in err


def test_little_room_and_skewed_clocks(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "ROOM", 1e18)
    with pytest.raises(RuntimeError, match="GB free; free some space"):
        doctor.disk(str(tmp_path))
    monkeypatch.setattr(doctor, "everywhere", lambda value: np.array([value, value + 60]))
    with pytest.raises(RuntimeError, match="clocks are 60.0 s apart"):
        doctor.clocks()


def test_the_run_in_a_workdir_is_looked_at(tmp_path):
    """A whole one, one with a damaged checkpoint, and one of another config."""
    stored = begun(tmp_path / "a")
    found = doctor.stored_run(str(tmp_path / "a"), load(TINY))
    assert found == {"run": stored["run"][:8], "checkpoints": [2, 4]}
    with pytest.raises(UserError, match="config.seed=0, not 3"):
        doctor.stored_run(str(tmp_path / "a"), load(TINY, {"seed": "3"}))
    flip(largest(tmp_path / "a" / "checkpoints" / "4" / "state"))
    with pytest.raises(ValueError, match="is not what was written"):
        doctor.stored_run(str(tmp_path / "a"), None)
    assert doctor.stored_run(str(tmp_path / "new"), None) == {"run": None, "checkpoints": []}


def test_a_small_shared_memory(monkeypatch, tmp_path):
    words = {"data.on_device": "false", "data.workers": "4", "batch_size": "4096"}
    usage = doctor.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor, "SHM", str(tmp_path))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    with pytest.raises(RuntimeError, match="larger --shm-size, or use fewer config.data.workers"):
        doctor.shared_memory(Config(load(TINY, words)))
    found = doctor.shared_memory(Config(load(TINY, words | {"data.workers": "0"})))
    assert found == {"free_bytes": 2**20, "needed_bytes": 0}
    monkeypatch.setattr(doctor, "SHM", str(tmp_path / "none"))
    assert doctor.shared_memory(Config(load(TINY, words))) == {"free_bytes": None}


def test_processes_that_see_other_data(monkeypatch):
    monkeypatch.setattr(doctor, "everywhere", lambda value: np.array([value, value + 1]))
    with pytest.raises(RuntimeError, match="processes see different examples"):
        doctor.data(Config(load("configs/simclr_digits.py:tiny")))
