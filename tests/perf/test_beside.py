"""`benchmarks/beside.py` and `compare.py`: no side loses the other; a slower step is noticed."""

import json
import sys

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))  # the benchmarks are scripts and no package

import accelerator_rows as rows  # noqa: E402
import beside  # noqa: E402
import compare  # noqa: E402
import report_accelerator  # noqa: E402


def side(text: str) -> rows.Row:
    return rows.Row("", "work", rows.python("-c", text))


def test_a_round_keeps_the_times_of_a_side_when_the_other_fails():
    ours = side("""print('{"ms_per_step": 20.0, "device": "cpu"}')""")
    result = {}
    for peer in ("""print('{"ms": 30.0, "torch": "2"}')""", "raise SystemExit(3)"):
        beside.measure({"jssl": ours, "peer": side(peer)}, result, 60)
    assert result == {
        "jssl": [20.0, 20.0],
        "peer": [30.0],
        "peer_error": "exit code 3",
        "device": "cpu",
        "torch": "2",
    }
    about = {"command": "c", "commit": "abc", "date": "d", "versions": {"jax": "1"}}
    text = report_accelerator.besides([about | {"beside": {"work": result}}])
    assert "| work | 20.0, 20.0, 20.0 | 30.0, 30.0, 30.0 | 1.50 |" in text


@pytest.mark.parametrize(
    ("new", "lines"),
    [
        ({"jssl": [105.0, 108.0, 400.0]}, []),
        ({"jssl": [120.0, 130.0, 90.0]}, ["work / jssl: 100 -> 120, 20% worse"]),
        ({"examples_per_s": 40.0}, ["work / examples_per_s: 50 -> 40, 25% worse"]),
        ({"examples_per_s": 90.0}, []),
    ],
)
def test_what_is_worse_than_the_noise_is_named(tmp_path, monkeypatch, capsys, new, lines):
    old = {"jssl": [100.0, 90.0, 300.0], "examples_per_s": 50.0, "device": "cpu"}
    for name, row in (("old", old), ("new", old | new)):
        (tmp_path / name).write_text(json.dumps({"work": row}))
    words = [str(tmp_path / "old"), str(tmp_path / "new")]
    monkeypatch.setattr(sys, "argv", ["compare.py", *words])
    assert compare.main() == bool(lines)
    *found, last = capsys.readouterr().out.splitlines()
    assert found == lines
    assert last == f"2 figures, {len(lines)} worse by more than 10%"


def test_only_figures_of_one_device_are_compared(tmp_path, monkeypatch, capsys):
    for name in ("cpu", "gpu"):
        (tmp_path / name).write_text(json.dumps({"ms": 1.0, "device": name}))
    monkeypatch.setattr(sys, "argv", ["compare.py", str(tmp_path / "cpu"), str(tmp_path / "gpu")])
    with pytest.raises(SystemExit, match="2"):
        compare.main()
    assert "different devices: ['cpu'] and ['gpu']" in capsys.readouterr().err
