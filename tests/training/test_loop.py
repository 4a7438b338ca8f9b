"""What the loop costs and writes: transfers, metrics, pictures, the order of the data."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import image_info
from jax.sharding import PartitionSpec as P
from PIL import Image

from jssl import config, methods
from jssl.core import Panel
from jssl.data.loader import Feed
from jssl.parallel import mesh
from jssl.training import loggers, loop, panels, progress, setup
from jssl.training.setup import compile_step, setup_run
from jssl.transforms import pictures

QUIET = {"eval.every": "0", "checkpoint.every": "0", "log.tensorboard": "false"}


@pytest.fixture
def reads(monkeypatch):
    """Every crossing of an array from device to host by this process: a list of call sites."""
    array = type(jnp.zeros(()))
    value, sites = array._value, []

    def counted(self):
        sites.append(self.shape)
        return value.fget(self)

    monkeypatch.setattr(array, "_value", property(counted))
    return sites


def test_the_counter_of_transfers_counts(reads):
    """The guard of the test below: it must see what a careless loop would do."""
    for x in jnp.arange(3.0).reshape(3, 1):
        float(x[0])
    assert len(reads) == 3


def test_the_loop_does_not_wait_for_the_device_every_step(reads, tmp_path, monkeypatch):
    """30 steps, metrics every 10: three visits read the metrics, and nothing else is read; nothing
    but the feed's own explicit copies goes to the device."""
    marks, inner = [], loop.loop

    def guarded(*args, **kw):
        marks.append(len(reads))
        with jax.transfer_guard_host_to_device("disallow"):
            state = inner(*args, **kw)
        marks.append(len(reads))
        return state

    monkeypatch.setattr(loop, "loop", guarded)
    tree = config.load("configs/simclr_digits.py:tiny", QUIET | {"steps": "30", "log.every": "10"})
    loop.train(tree, str(tmp_path))
    in_loop = [shape for shape in reads[slice(*marks)] if shape == ()]
    metrics = 8  # loss, two norms, contrastive_top1, and four diagnostics
    visits = 3 + 1  # the last step is fetched at once, beside the visit before it
    once = 5  # the loss of the first step, for its line, and what the save at the end reads
    assert metrics * 3 <= len(in_loop) <= metrics * visits + once, in_loop


def test_every_step_has_its_own_random_key():
    """The same state and batch at another step number give other views, and so another loss."""
    run = setup_run(config.Config(config.load("configs/simclr_digits.py:tiny")))
    feed = Feed(run.data, 0, run.config.batch_size, run.mesh, 0)
    step, fed, losses = compile_step(run, feed), feed.next(), []
    for number in (0, 0, 1):
        state = run.init()
        state = state.replace(step=state.step + number)
        losses.append(float(step(state, feed.held, fed)[1]["loss"]))
    feed.close()
    assert losses[0] == losses[1] != losses[2]


def test_metrics_of_every_visit_are_written_and_the_step_is_traced_once(tmp_path, monkeypatch):
    traced, build = [], setup.build_method

    def counted(*given):
        method = build(*given)

        def train_step(*state):
            traced.append("step")
            return method.train_step(*state)

        return method._replace(train_step=train_step)

    monkeypatch.setattr(setup, "build_method", counted)
    tree = config.load("configs/simclr_digits.py:tiny", QUIET | {"steps": "7", "log.every": "3"})
    found = loop.train(tree, str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6, 7]
    assert traced == ["step"], "for the FLOP count, and for the program that runs"
    assert rows[-1]["loss"] == found["loss"]
    assert all(0 <= row["data_wait_fraction"] <= 1 and row["lr"] >= 0 for row in rows)


def test_a_line_that_was_cut_off_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for before, wanted in (
        ("{", '{\n{"step": 3, "loss": 1.0}\n'),
        (None, '{"step": 3, "loss": 1.0}\n'),
        ('{"step": 1}\n', '{"step": 1}\n{"step": 3, "loss": 1.0}\n'),
        ('{"step": 1}\n{"st', '{"step": 1}\n{"st\n{"step": 3, "loss": 1.0}\n'),
    ):
        path.unlink(missing_ok=True)
        if before:
            path.write_text(before)
        sink = loggers.Jsonl(path)
        sink(3, {"loss": 1.0})
        sink.close()
        assert path.read_text() == wanted


def test_pictures_are_written_and_look_right(tmp_path):
    words = {"eval.every": "0", "steps": "2", "log.render_every": "2", "mask_ratio": "0.5"}
    tree = config.load("configs/mae_imagenette.py:tiny", words)
    loop.train(tree, str(tmp_path))
    picture = np.asarray(Image.open(tmp_path / "pictures" / "masked-0000002.png"), np.int32)
    gap, side, top = panels.GAP, 3 * 32, 2 * panels.GAP + panels.FONT
    assert picture.shape == (top + 8 * (side + gap), gap + 3 * (side + gap), 3)
    columns = [picture[top:, gap + i * (side + gap) :][:, :side] for i in range(3)]
    original, masked, rebuilt = (
        column.reshape(8, side + gap, side, 3)[:, :side] for column in columns
    )
    np.testing.assert_array_equal(original[:, ::3, ::3], original[:, 2::3, 2::3], "whole factors")
    same = (masked == original).all(-1)
    assert 0.45 < same.mean() < 0.6, "half of the patches are hidden"
    np.testing.assert_array_equal(rebuilt[same], original[same])
    assert (rebuilt != masked).any()


def test_columns_of_several_sizes_have_gaps_and_captions():
    gray = np.full((2, 2, 2, 1), np.nan, np.float32)  # shown in black
    rgb = np.full((2, 100, 60, 3), 0.5, np.float32)
    picture = panels.compose(Panel((gray, rgb), ("two by two", "")))
    gap, top = panels.GAP, 2 * panels.GAP + panels.FONT
    assert picture.shape == (top + 2 * (100 + gap), 3 * gap + 96 + 60, 3)
    assert (picture[top + 2 : top + 98, gap : gap + 96] == 0).all(), "48 times as large, centered"
    assert (picture[top : top + 100, 2 * gap + 96 :][:, :60] == 128).all()
    for white in (picture[:gap], picture[:, :gap], picture[top + 100 :][:gap], picture[-gap:]):
        assert (white == 255).all(), "gaps"
    header = picture[:top]
    assert (header[:, gap : gap + 96] < 128).any(), "a caption"
    assert (header[:, gap + 96 :] == 255).all(), "no caption"
    alone = panels.compose(panels.as_panel(rgb))
    assert alone.shape == (gap + 2 * (100 + gap), 60 + 2 * gap, 3)


@pytest.mark.parametrize(
    ("recipe", "captions"),
    [
        ("simclr_digits", ("evaluation", "view 1", "view 2")),
        ("dino_imagenette", ("evaluation", "global 1", "global 2", "local 1")),
    ],
)
def test_views_of_joint_embedding_methods(recipe, captions):
    tree = config.load(f"configs/{recipe}.py:tiny", {"data.source": "digits", "data.name": ""})
    tree = config.Config(tree)
    objective = methods.load(tree, image_info(side=32))
    unread = tree.unread()
    rendered = pictures.add_views(objective, tree, image_info(side=32)).render
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    batch = {"image": images, "size": np.full((2, 2), 32, np.int32)}
    panel = jax.jit(lambda batch, key: rendered({}, {}, batch, key))(batch, jax.random.key(0))
    panel = panel["views"]
    assert panel.captions[: len(captions)] == captions
    if "local" in tree:
        assert len(panel.captions) == 3 + tree.local.count
    for column in panel.images:
        assert column.shape[0] == 2 and -0.01 <= float(column.min()) <= float(column.max()) <= 1.01
    np.testing.assert_allclose(panel.images[0], images / 255, atol=0.02)
    assert np.abs(np.asarray(panel.images[1]) - np.asarray(panel.images[2])).max() > 0.05
    assert set(tree.unread()) <= set(unread) and set(unread) <= set(tree.unread())


def test_progress_says_what_users_ask_for():
    values = {"loss": 1.5, "examples_per_s": 1234.4, "mfu": 0.31, "data_wait_fraction": 0.02}
    line = progress.describe(values | {"flops_per_s": 1e12}, 3725)
    assert line == "loss 1.5000  1,234 examples/s  MFU 31%  data wait 2%  ETA 1:02:05"


def test_mesh_rules_split_large_parameters_only():
    shapes = {
        "params": {
            "encoder": {
                "large": jax.ShapeDtypeStruct((512, 1024), jnp.float32),
                "odd": jax.ShapeDtypeStruct((511, 1023), jnp.float32),
                "small": jax.ShapeDtypeStruct((64, 64), jnp.float32),
            }
        },
        "buffers": {"encoder": jax.ShapeDtypeStruct((512, 1024), jnp.float32)},
    }
    placed = mesh.shardings(shapes, mesh.make_mesh(data=2, fsdp=4, tensor=1))
    assert placed["params"]["encoder"]["large"].spec == P(None, "fsdp")
    assert set(placed["params"]["encoder"]["odd"].spec) <= {None}
    assert placed["params"]["encoder"]["small"].spec == P()
    assert placed["buffers"]["encoder"].spec == P()
