"""What the demo shows: one run, several seeds, and the range in which a run should fall."""

import json

from jssl import cli
from jssl.commands import demo


def run(seed, knn, linear):
    scores = {"knn": knn, "linear": linear}
    rows = ("raw pixels", "pretrained encoder")
    return {"seed": seed, "top1": {name: dict(scores) for name in rows}}


RUNS = [run(0, 0.70, 0.80), run(1, 0.72, 0.82), run(2, 0.74, 0.81)]


def test_one_run_has_no_deviation():
    assert "0.700 │        0.800" in demo.render(RUNS[:1])
    assert "±" not in demo.render(RUNS[:1])


def test_several_seeds_have_a_mean_and_a_deviation():
    shown = demo.render(RUNS)
    assert "0.720 ± 0.020" in shown
    assert "0.810 ± 0.010" in shown


def test_the_range_is_twice_the_deviation():
    line = demo.expectation({"demo": RUNS, "commit": "0123456789"})
    assert "kNN 0.68 to 0.76, linear probe 0.79 to 0.83" in line
    assert "3 seeds at commit 0123456" in line


def test_make_demo_shows_the_table_and_ends_with_json(tmp_path, capfd):
    words = ["--config=configs/simclr_digits.py:tiny", f"--workdir={tmp_path}/a", "--seed=3"]
    assert cli.main(["demo", *words]) == 0
    out, err = capfd.readouterr()
    assert "pretrained encoder" in out and "raw pixels" in out
    found = json.loads(out.splitlines()[-1])
    assert found["seed"] == 3 and set(found["top1"]["raw pixels"]) == {"knn", "linear"}


def test_make_demo_says_in_one_line_what_is_wrong(tmp_path, capfd):
    assert cli.main(["demo", "--config=no.py", f"--workdir={tmp_path}/a"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and "Traceback" not in err
    assert err.splitlines()[-1].startswith("jssl: --config='no.py': not a file")
