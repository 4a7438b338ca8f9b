"""A command starts again with huge pages, once, and only where that is of use."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from jssl import cli
from jssl.config import UserError
from jssl.perf import huge_pages

PROGRAM = """
import os, pathlib, sys
from jssl.perf import huge_pages
huge_pages.STATE = pathlib.Path(sys.argv[1])
print("start", flush=True)
huge_pages.restart()
print(os.getpid(), sys.argv[2:], os.environ["GLIBC_TUNABLES"])
"""


@pytest.fixture
def execs(tmp_path, monkeypatch):
    """The programs that were started, on a system that gives huge pages on request."""
    monkeypatch.setattr(huge_pages, "STATE", tmp_path / "enabled")
    huge_pages.STATE.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "_glibc", lambda: (2, 36))
    monkeypatch.setattr(os, "environ", {})
    found = []
    monkeypatch.setattr(os, "execv", lambda path, words: found.append([path, words]))
    return found


def test_it_starts_with_the_same_words(execs):
    huge_pages.restart()
    assert execs == [[sys.executable, [sys.executable, *sys.orig_argv[1:]]]]
    huge_pages.restart()
    assert len(execs) == 1, "once"


@pytest.mark.parametrize("state", ["[always] madvise never", "always madvise [never]", None])
def test_not_if_the_system_decides(execs, state):
    huge_pages.STATE.unlink() if state is None else huge_pages.STATE.write_text(state)
    huge_pages.restart()
    assert not execs


def test_not_with_another_library(execs, monkeypatch):
    for version in ((0,), (2, 34)):
        monkeypatch.setattr(huge_pages, "_glibc", lambda version=version: version)
        huge_pages.restart()
    assert not execs


@pytest.mark.skipif(huge_pages._glibc() < huge_pages.OLDEST, reason="needs glibc 2.35")
def test_the_process_and_its_words_stay(tmp_path):
    state = tmp_path / "enabled"
    state.write_text("always [madvise] never\n")
    env = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(state), "a b", "--c=d"],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    out, _ = process.communicate()
    assert out.splitlines() == [
        "start",
        "start",
        f"{process.pid} ['a b', '--c=d'] {huge_pages.SETTING}",
    ]


def test_the_command_of_a_process_starts_again_if_it_needs_a_device(monkeypatch, capsys):
    def restart():
        raise UserError("again")

    monkeypatch.setattr(huge_pages, "restart", restart)
    assert cli.run(["doctor"], restart=True) == (2, "again")
    assert cli.run(["--help"], restart=True) == (0, "")
    monkeypatch.setattr(sys, "argv", ["jssl", "doctor"])
    assert cli.main() == 2
    assert capsys.readouterr().err == "jssl: again\n"

    def setup(device):
        raise UserError("no restart")

    monkeypatch.setattr(cli, "setup", setup)
    assert cli.main(["doctor"]) == 2
    assert "no restart" in capsys.readouterr().err
