"""`benchmarks/accelerator.py`: no row can lose the others, and the file is complete after each."""

import argparse
import json
import os
import sys
import time

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))  # the benchmarks are scripts and no package

import accelerator  # noqa: E402
import accelerator_rows as rows  # noqa: E402
import report_accelerator  # noqa: E402
import step  # noqa: E402


def options(**changes) -> argparse.Namespace:
    given = {
        "plan": "all",
        "tiny": False,
        "data": "",
        "commit": "abc",
        "peer_python": "",
        "out": "",
    }
    return argparse.Namespace(**(given | changes))


def code(text: str, name: str = "a", variant: str = "") -> rows.Row:
    return rows.Row("variants" if variant else "cifar", name, rows.python("-c", text), variant)


HANGS = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(60)
"""


def test_a_row_that_hangs_ends_with_what_it_started(tmp_path):
    row = rows.Row("cifar", "a", rows.python("-c", HANGS, str(tmp_path / "pid")))
    began = time.monotonic()
    assert accelerator.run(row, 2) == {"error": "not done after 2 s"}
    assert time.monotonic() - began < 20
    child = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # until init has read its exit code
            os.kill(child, 0)
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("print('a log'); print('{\"ms\": 1}')", {"ms": 1}),
        ("import json; print(json.dumps({'a': {'ms': 1}}, indent=1))", {"a": {"ms": 1}}),
        ("raise SystemExit(3)", {"error": "exit code 3"}),
        ("print('[1]')", {"error": "no JSON in its output"}),
        ("", {"error": "no JSON in its output"}),
    ],
)
def test_what_a_row_prints(text, result):
    assert accelerator.run(code(text), 60) == result


def test_flags_and_the_search_path_reach_the_row(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    monkeypatch.setenv("PYTHONPATH", "/site")
    text = "import json, os; print(json.dumps({k: os.environ.get(k) for k in "
    row = code(text + "('XLA_FLAGS', 'PYTHONPATH')}))")._replace(flags="--b=2")
    assert accelerator.run(row, 60) == {"XLA_FLAGS": "--a=1 --b=2", "PYTHONPATH": f"{ROOT}:/site"}
    other = row._replace(command=["/elsewhere/python"])
    assert "PYTHONPATH" not in rows.environment(other)


def test_the_file_is_complete_after_each_row(tmp_path):
    record = accelerator.Record(options(out=tmp_path, data="/my/data", plan="variants"))
    end = time.monotonic() + 60
    ceilings = code('print(\'{"device": "GPU X"}\')')._replace(group="ceilings", name="JAX")
    accelerator.measure(ceilings, record, end)
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("accelerator-variants-GPU_X-")
    for _ in range(2):
        accelerator.measure(code("'/my/data'; print('{\"ms\": 1}')", variant="b"), record, end)
    accelerator.measure(code("raise SystemExit(3)"), record, end)
    accelerator.measure(code("", "late"), record, time.monotonic())
    assert list(tmp_path.iterdir()) == [path]
    found = json.loads(path.read_text())
    assert found["device"] == "GPU X" and found["commit"] == "abc"
    assert [row["ms"] for row in found["accelerator"]["variants"]["a"]["b"]] == [1, 1]
    assert "DATA" in found["accelerator"]["variants"]["a"]["b"][0]["command"]
    assert found["accelerator"]["cifar"]["a"]["error"] == "exit code 3"
    assert found["left_out"] == ["cifar: late: no time left"]
    assert {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "python"} <= found[
        "versions"
    ].keys()


def test_a_group_that_failed_as_a_whole_is_told(tmp_path, monkeypatch, capsys):
    works = code("print('{\"ms\": 1}')")
    fails = code("raise SystemExit(3)")
    groups = {
        "steps": [works, fails._replace(name="b")],
        "cifar": [fails],
        "variants": [fails._replace(variant="x"), works._replace(variant="y")],
        "flags": [fails._replace(variant="x")] * 2,
    }
    planned = {name: [row._replace(group=name) for row in of] for name, of in groups.items()}
    ceilings = code('print(\'{"device": "GPU X"}\')').command
    monkeypatch.setattr(accelerator, "python", lambda *_: ceilings)
    monkeypatch.setattr(accelerator, "planned", lambda *_: planned)
    monkeypatch.setattr(sys, "argv", ["accelerator.py", f"--out={tmp_path}", "--commit=abc"])
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # `main` sets it
    monkeypatch.setattr(accelerator.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit, match="^all rows failed of: cifar, flags$"):
        accelerator.main()
    (path,) = tmp_path.iterdir()
    assert capsys.readouterr().out.strip() == str(path)


def test_plans():
    """A variant follows its baseline in each of two rounds; what cannot run is left out."""
    found = rows.planned(options(plan="steps"), True)["steps"]
    assert [row.name for row in found] == list(step.ROWS)
    found = rows.planned(options(plan="flags"), True)["flags"]
    assert found[0].variant == found[7].variant == "baseline" and found[1].flags == rows.FLAGS[0]
    assert rows.planned(options(plan="cifar"), True) == {"cifar": []}
    seeds = rows.planned(options(plan="cifar", data="/data"), True)["cifar"]
    assert [row.command[-1] for row in seeds] == [f"--config.seed={seed}" for seed in (0, 1, 2)]
    for missing in ("/no/python", "/bin/false"):
        assert rows.peers(options(peer_python=missing), True) == []
    for row in rows.variants(options()):
        assert ("deterministic" in row.variant) == bool(row.flags)


def test_xla_knows_the_flags():
    """It ends a program whose XLA_FLAGS has an unknown one."""
    text = "import jax; jax.devices(); print('{}')"
    row = code(text)._replace(flags=" ".join([rows.DETERMINISTIC, *rows.FLAGS]))
    assert accelerator.run(row, 120) == {}


STEP = {"ms_per_step": 10.0, "p99_ms": 11.0, "examples_per_s": 100.0, "mfu": 0.5, "compile_s": 9.0,
        "joules_per_example": 1.25, "peak_bytes": 2e9}  # fmt: skip
NO = {"error": "exit code 1"}


def test_report():
    train = {"train": {"examples_per_s": 9e3}, "wall_seconds": 60.0}
    groups = {
        "ceilings": {"JAX": {"tflops_bf16": 800.5, "copy_gb_s": 3000.0}},
        "steps": {"a": STEP, "b": NO},
        "peers": {"c": {"ms": 5.0, "items_per_s": 2e3, "torch": "2.11"}, "d": NO},
        "cifar": {
            f"seed {i}": {**train, "eval": {"knn": {"top1": 0.8 + i / 10}, "linear": {"top1": 0.9}}}
            for i in (0, 1)
        }
        | {"seed 2": NO},
        "flags": {"a": {"baseline": [STEP, STEP], "--f": [NO, {"ms_per_step": 9.0}], "--g": [NO]}},
    }
    run = {"accelerator": groups, "command": "python x", "device": "GPU X", "commit": "abc"}
    run |= {"date": "2026-01-01", "versions": {"jax": "0.11.2"}, "left_out": ["d: no time left"]}
    text = report_accelerator.accelerators([run])
    for line in (
        "`python x`, GPU X, commit abc, 2026-01-01, jax 0.11.2:",
        "Ceilings: 800.5 TFLOP/s of a bfloat16 matrix product, 3,000.0 GB/s of a pass over memory.",
        "| a | 10.0 | 11.0 | 100 | 50.0% | 1.25 | 9 | 2.0 |",
        "| b | exit code 1 | | | | | | |",
        "| c | 5.0 | 2,000 | 2.11 |",
        "| seed 1 | 0.9000 | 0.9000 | 60 | 9,000 |",
        "| d | exit code 1 | | |",
        "| seed 2 | exit code 1 | | | |",
        "| a | --g | - | - | - |",
        "| mean of 2 | 0.8500 ± 0.0707 | 0.9000 ± 0.0000 | | |",
        "| a | --f | -, 9.0 | 90.0% | - |",
        "Left out: d: no time left.",
    ):
        assert line in text.splitlines(), line
