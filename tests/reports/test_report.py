"""`jssl report`: what the page shows, what it escapes, and that a browser draws it."""

import json
import re
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.runs import ROWS, trained
from PIL import Image

from jssl import cli
from jssl.commands.evaluate import open_workdir
from jssl.config import UserError, load
from jssl.nn import encoder
from jssl.reports import album, attention, charts, content, neighbors, page, projection, records

SCRIPT = "<script>alert(1)</script>"
NO_MODULES = {"config": "", "method": []}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def packages():
    """Skips where the extra `report` is not installed."""
    pytest.importorskip("jinja2", reason="the extra report is not installed")
    pytest.importorskip("vl_convert", reason="the extra report is not installed")


@pytest.fixture(scope="module")
def vit_content(vit_run):
    """The content of the page about a run with data, pictures and a ViT."""
    workdir, _ = vit_run
    return content.page_content(
        [str(workdir)], lambda path: open_workdir(NO_MODULES, path, {}), 100
    )


def test_a_page_holds_every_part_of_a_run(vit_content):
    (run,) = vit_content["runs"]
    assert run["status"] == "done" and run["step"] == 2 and not run["reason"]
    assert [shown["step"] for shown in run["pictures"][0]["shown"]] == [2, 1]
    assert len(run["neighbors"]) == 8 and len(run["neighbors"][0]["neighbors"]) == 8
    assert {row["query"]["label"] for row in run["neighbors"]} == {
        "<img src=x onerror=alert(1)>",
        "b&b",
    }
    assert [chart["title"] for chart in run["maps"]][:2] == ["PCA", "t-SNE"]
    assert len(run["attention"]) == 6 and len(run["attention"][0]["heads"]) == 2
    assert "loss" in [chart["metric"] for chart in vit_content["curves"]]
    assert set(vit_content["charts"]) >= {"curve-0", "map-0-0", "map-0-1"}
    first = vit_content["charts"]["map-0-0"]["data"]["values"]
    assert len(first) == 16 and {point["class"] for point in first} == {
        "<img src=x onerror=alert(1)>",
        "b&b",
    }


def with_script(values):
    """The same content, with a script as the first class, title, text and label."""
    text = json.dumps(values).replace("b&b", SCRIPT)
    values = json.loads(text)
    values["runs"][0]["label"] = SCRIPT
    values["title"] = SCRIPT
    values["runs"][0]["pictures"].append({"name": "t", "shown": [{"step": 1, "texts": [SCRIPT]}]})
    return values


def test_names_labels_and_texts_are_escaped(packages, vit_content):
    text = page.render(with_script(vit_content))
    assert SCRIPT not in text and "<img src=x" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "\\u003cscript\\u003ealert(1)" in text  # in the charts
    assert text.count("</script>") == 3


def test_a_run_without_data_and_checkpoint_has_curves_and_reasons(packages, tmp_path, capsys):
    folder = trained(tmp_path / "a", ROWS, **{"data.source": "folder", "data.path": "/none"})
    assert cli.main(["report", f"--workdir={folder}"]) == 0
    result = json.loads(capsys.readouterr().out)
    text = (folder / "report.html").read_text()
    assert result["out"] == str(folder / "report.html") and result["bytes"] > 100_000
    assert "not done" in text and "Nearest neighbors" in text and "Not shown: " in text
    assert "has written no pictures" in text and 'id="curve-0"' in text


def test_a_run_without_log_records(packages, tmp_path):
    folder = trained(tmp_path / "a", ())
    (folder / "metrics.jsonl").unlink()

    def refused(path):
        raise UserError("its method is unknown here")

    made = content.page_content([str(folder)], refused, 10)
    text = page.render(made)
    assert "There are no log records yet" in text and "its method is unknown here" in text


def test_several_runs_are_compared(packages, tmp_path):
    folders = [trained(tmp_path / "a"), trained(tmp_path / "b", ROWS[:2], **{"optim.lr": "0.5"})]

    def refused(path):
        raise UserError("no data")

    made = content.page_content([str(folder) for folder in folders], refused, 10)
    assert {"name": "optim.lr", "values": ["0.002", "0.5"]} in made["differences"]
    assert {"name": "loss", "values": ["3", "5"]} in made["figures"]
    values = made["charts"]["curve-0"]["data"]["values"]
    assert {"step": 2, "value": 5.0, "run": "b"} in values and len(values) == 3
    text = page.render(made)
    assert "Config keys that differ" in text and text.count("Nearest neighbors") == 2


def test_wrong_flags(packages, tmp_path, capsys):
    folder = trained(tmp_path / "a")
    cases = (
        ([], "--workdir is missing"),
        ([f"--workdir={tmp_path}/none"], "holds no run"),
        ([f"--workdir={folder}", f"--out={tmp_path}"], "a folder; name a file"),
        ([f"--workdir={folder}", "--examples=0"], "must be at least 1"),
    )
    for words, message in cases:
        assert cli.main(["report", *words]) == 2
        assert message in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(page.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"jssl report needs jinja2; install it with: .*report"):
        page.require_packages()


def test_odd_files_among_the_pictures_are_left_out(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for step in range(1, 12):
        Image.new("RGB", (6, 4)).save(folder / f"views-{step:07d}.png")
    (folder / "fake-0000001.png").write_text(SCRIPT)
    (folder / "other.html").write_text(SCRIPT)
    (folder / "link-0000001.png").symlink_to(folder / "views-0000001.png")
    (folder / "said-0000003.txt").write_text('"a\\nb"\nno json\n')
    made = {kind["name"]: kind["shown"] for kind in album.pictures(tmp_path)}
    assert set(made) == {"views", "said"}
    assert [shown["step"] for shown in made["views"]] == [11, 10, 8, 6, 3, 1]
    assert made["views"][0]["width"] == 24
    assert made["said"] == [{"step": 3, "texts": ["a\nb", "no json"]}]


def test_the_nearest_neighbors():
    bank = np.array([[1, 0], [0, 2], [3, 3], [-1, 0]], np.float32)
    found, cosines = neighbors.nearest(bank, np.array([[2, 0.1]], np.float32), 3)
    assert found.tolist() == [[0, 2, 1]]
    np.testing.assert_allclose(cosines[0, 1], (2 + 0.1) / np.sqrt(2 * 4.01), rtol=1e-5)


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    points = [(step, 0.5) for step in range(10_000)]
    thin = charts.thinned(points)
    assert len(thin) == charts.MOST_POINTS and (thin[0][0], thin[-1][0]) == (0, 9_999)


def test_few_or_equal_features_have_a_map():
    assert list(projection.maps(np.ones((2, 3), np.float32))) == ["PCA"]
    made = projection.maps(np.ones((9, 1), np.float32))
    assert made["PCA"].shape == (9, 2) and np.isfinite(made["PCA"]).all()


@pytest.mark.parametrize("changes", [{}, {"positions": "rotary"}, {"class_token": False}])
def test_the_attention_is_that_of_the_last_block(changes):
    """The weights of a block give its output from the values."""
    section = {**load("mae_imagenette:tiny").model.to_dict(), **changes, "dtype": "float32"}
    if not section["class_token"]:
        section["pool"] = "mean"
    net = encoder(section).clone(scan=False, attention="xla")
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    params = net.init(jax.random.key(1), images, train=False)["params"]
    scaled = jax.tree.map(lambda x: 4 * x, params)  # weights that are far from uniform
    maps = attention.weights(net, scaled, images)
    side = 32 // net.patch
    assert maps.shape == (2, net.heads, side, side)
    captured = []

    def keep(q, k, v, **options):
        captured.append(jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5))
        return jax.nn.dot_product_attention(q, k, v)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jssl.nn.transformer.attend", keep)
        net.apply({"params": scaled}, images, train=False)
    prefix = net.num_prefix
    expected = captured[-1][:, :, 0] if net.class_token else captured[-1].mean(axis=2)
    np.testing.assert_allclose(maps.reshape(2, net.heads, -1), expected[:, :, prefix:], atol=1e-5)
    assert maps.std() > 1e-4


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
def test_a_browser_draws_it_without_errors_and_without_network(packages, vit_content, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page.render(with_script(vit_content)), encoding="utf-8")
    dom, console, urls = browse(path, tmp_path)
    assert 'data-drawn="yes"' in dom and "alert(1)" in dom
    assert len(re.findall(r'<svg[^>]* class="marks"', dom)) == len(vit_content["charts"])
    assert not console and not urls


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
def test_the_browser_tells_errors_and_requests(tmp_path):
    """What the test above looks for is found where it is."""
    path = tmp_path / "page.html"
    path.write_text("<img src='http://127.0.0.1:9/x.png'><script>throw Error('odd')</script>")
    _, console, urls = browse(path, tmp_path)
    assert any("odd" in line for line in console) and urls == ["http://127.0.0.1:9/x.png"]


def browse(path, folder):
    """(document, console lines, URLs that the page requests) of a page in headless Chromium."""
    log = folder / "net.json"
    words = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update",
        f"--user-data-dir={folder}/profile", f"--log-net-log={log}", "--virtual-time-budget=20000",
        "--enable-logging=stderr", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    found = re.findall(r'"url":"(https?://[^"]+)"', log.read_text())
    own = re.compile(r"https?://[\w.-]*\.?(google|googleapis|gvt1)\.com/")  # of Chromium itself
    return done.stdout, console, sorted({url for url in found if not own.match(url)})


def test_the_figures_of_a_run_have_texts():
    assert records.text_of("train_seconds", 3_723.0) == "1:02:03"
    assert records.text_of("train_seconds", 63.0) == "1:03 min"
    assert records.text_of("loss", None) == "-"
