"""Files of others: links, pipes, panics, read errors, atomic replacement."""

import errno
import os
import pickle

import pytest

from jssl.config import UserError
from jssl.data import files


class PanicException(BaseException):
    """As pyo3 names what a Rust library raises."""


PARSERS = [ValueError("x"), RecursionError(), MemoryError(), PanicException("boom"), KeyError("k")]


@pytest.mark.parametrize("error", PARSERS, ids=lambda e: type(e).__name__)
def test_what_a_parser_raises_is_damage(error):
    with pytest.raises(files.Damaged, match="name.bin is damaged"), files.foreign("name.bin"):
        raise error


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_read_error_is_no_damage(number):
    with pytest.raises(files.Unreachable, match="start again"), files.foreign("name.bin"):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), UserError("no")])
def test_what_ends_a_program_passes(error):
    with pytest.raises(type(error)), files.foreign("name.bin"):
        raise error


@pytest.mark.parametrize("mode", ["rb", "a"])
def test_a_link_is_not_followed(tmp_path, mode):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(victim)
    with pytest.raises(files.Damaged, match="link"):
        files.open_regular(link, mode)
    assert victim.read_text() == "precious"
    assert files.read_bytes(link, follow=True) == b"precious"


def test_only_regular_files_of_bounded_size(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    os.truncate(os.open(tmp_path / "huge", os.O_CREAT | os.O_RDWR), 2**40)
    for name in ("pipe", "folder", "huge"):
        with pytest.raises(files.Damaged):
            files.read_bytes(tmp_path / name, limit=2**20)
    with pytest.raises(files.Damaged):
        files.read_bytes("/dev/zero", limit=2**20)


def test_replace_writes_through_no_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "config.json").symlink_to(victim)
    files.write_json(tmp_path / "config.json", {"a": 1})
    assert victim.read_text() == "precious"
    assert files.read_json(tmp_path / "config.json") == {"a": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "victim"]


def test_a_write_that_fails_changes_nothing(tmp_path):
    files.write_json(tmp_path / "a.json", 1)
    with pytest.raises(UnicodeEncodeError):
        files.replace(tmp_path / "a.json", "\udcff")
    assert files.read_json(tmp_path / "a.json") == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", [files.Damaged, files.Unreachable])
def test_errors_come_out_of_a_worker_process_as_they_were(kind):
    made = pickle.loads(pickle.dumps(kind("a.png", "it is a link")))
    assert type(made) is kind and str(made) == str(kind("a.png", "it is a link"))
    assert (made.name, made.reason) == ("a.png", "it is a link")
