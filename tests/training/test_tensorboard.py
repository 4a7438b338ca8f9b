"""What TensorBoard reads: scalars in groups, pictures, hyper-parameters, no steps twice."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.api_pb2 import Status
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.record_writer import masked_crc32c

from jssl.data import files
from jssl.training.groups import grouped
from jssl.training.tensorboard import HPARAMS, TensorBoard

CONFIG = {"optim.lr": 0.5, "steps": 7, "optim.name": "adamw", "model.scan": True, "a": (1, 2)}


def all_events(path):
    """The events of a file, after a check of their sums."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        record, data = data[: 16 + length], data[16 + length :]
        for field, total in ((record[:8], record[8:12]), (record[12:-4], record[-4:])):
            assert struct.unpack("<I", total)[0] == masked_crc32c(field)
        yield Event.FromString(record[12:-4])


def scalars(folder):
    """[(step, {tag: value} or "start")] of all files but that of hyper-parameters."""
    found = []
    for path in sorted(folder.iterdir()):
        for event in all_events(path) if path.name != HPARAMS else ():
            if event.HasField("session_log"):
                assert event.session_log.status == SessionLog.START
                found.append((event.step, "start"))
            elif event.HasField("summary"):
                values = {value.tag: value.simple_value for value in event.summary.value}
                found.append((event.step, values))
    return found


def hparams(folder):
    """{tag: message} of the hyper-parameters; of several messages TensorBoard keeps the first."""
    found = {}
    for path in sorted(folder.iterdir()):
        for event in all_events(path):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "hparams":
                    content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                    found.setdefault(value.tag.removeprefix("_hparams_/"), content)
    return found


def test_tensorboard_goes_through_no_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tensorboard").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(files.Damaged, match="link"):
        TensorBoard(tmp_path / "tensorboard", CONFIG)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_tensorboard_hides_steps_that_are_run_again(tmp_path):
    first = TensorBoard(tmp_path / "tensorboard", CONFIG)
    first(3, {"loss": 1.0, "knn_top1": 0.5, "mfu": 0.25})
    first.close()
    second = TensorBoard(tmp_path / "tensorboard", CONFIG, start=2)
    second.rewind(1)
    second.close()
    assert scalars(tmp_path / "tensorboard") == [
        (3, {"train/loss": 1.0, "eval/knn_top1": 0.5, "perf/mfu": 0.25}),
        (3, "start"),
        (2, "start"),
    ]


def test_the_name_of_a_metric_decides_its_group():
    names = {
        "train": ("loss", "lr", "contrastive_top1", "token_top1", "feature_std", "skipped"),
        "eval": ("knn_top1", "linear_top1"),
        "perf": (
            "examples_per_s", "flops_per_s", "mfu", "data_wait_fraction", "eval_seconds",
            "step_seconds", "peak_memory_gib",
        ),
    }  # fmt: skip
    for group, members in names.items():
        assert list(grouped(dict.fromkeys(members, 0.0))) == [f"{group}/{name}" for name in members]


def test_tensorboard_gets_the_config_and_the_end_of_the_run(tmp_path):
    sink = TensorBoard(tmp_path / "tensorboard", CONFIG | {"b": None, "c": float("inf")})
    sink.close()
    written = hparams(tmp_path / "tensorboard")
    assert list(written) == ["session_start_info"], "a run that was stopped has not ended"
    start = written["session_start_info"].session_start_info
    values = {key: getattr(x, x.WhichOneof("kind")) for key, x in start.hparams.items()}
    assert values == CONFIG | {"a": "(1, 2)", "c": "inf"}
    assert values["model.scan"] is True


def test_a_later_start_of_the_run_replaces_its_config(tmp_path):
    for steps in (7, 9):
        sink = TensorBoard(tmp_path / "tensorboard", {"steps": steps})
        sink.end()
        sink.close()
    written = hparams(tmp_path / "tensorboard")
    assert written["session_start_info"].session_start_info.hparams["steps"].number_value == 9
    end = written["session_end_info"].session_end_info
    assert end.status == Status.Value("STATUS_SUCCESS")
    start = written["session_start_info"].session_start_info
    assert start.start_time_secs <= end.end_time_secs


def test_tensorboard_gets_pictures_as_png(tmp_path):
    sink = TensorBoard(tmp_path / "tensorboard", CONFIG)
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    sink.show(4, {"views": picture})
    sink.close()
    (path,) = set((tmp_path / "tensorboard").iterdir()) - {tmp_path / "tensorboard" / HPARAMS}
    (value,) = [value for event in all_events(path) for value in event.summary.value]
    assert (value.tag, value.image.height, value.image.width) == ("pictures/views", 2, 3)
    stored = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
    np.testing.assert_array_equal(stored, picture)
