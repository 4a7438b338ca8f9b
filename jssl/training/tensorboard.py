"""What TensorBoard shows: scalars, pictures and hyper-parameters.

The events are written here and at once: tensorboardX would write them in a thread, which ends
silently when the disk is full.
"""

import math
import os
import pathlib
import socket
import stat
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

# The modules that protobuf generates have no static members.
from tensorboardX.proto.api_pb2 import Status  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.event_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.proto.plugin_hparams_pb2 import (
    HParamsPluginData,  # pyright: ignore[reportAttributeAccessIssue]
    SessionEndInfo,  # pyright: ignore[reportAttributeAccessIssue]
    SessionStartInfo,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.proto.summary_pb2 import (
    Summary,  # pyright: ignore[reportAttributeAccessIssue]
    SummaryMetadata,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.record_writer import masked_crc32c

from jssl.data import files
from jssl.training import panels
from jssl.training.appender import Appender
from jssl.training.groups import grouped

HPARAMS = "events.out.tfevents.0.hparams"  # TensorBoard reads each file with "tfevents" in its name


class TensorBoard:
    """A sink that writes files of events to <workdir>/tensorboard.

    Args:
      folder: where the files are made.
      config: the config of the run, {"optim.lr": 0.3, ...}.
      start: the step from which the run continues. TensorBoard hides later steps of an earlier
        process.
    """

    def __init__(
        self, folder: str | os.PathLike[str], config: Mapping[str, Any], start: int = 0
    ) -> None:
        folder = pathlib.Path(folder)
        folder.mkdir(exist_ok=True)
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise files.Damaged(folder, "it is a link")
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self.out = Appender(folder / name)
        self.out.write(framed(Event(file_version="brain.Event:2")))
        self.hparams = Hparams(folder / HPARAMS, config)
        if start:
            self.rewind(start)

    def __call__(self, step: int, values: dict[str, float]) -> None:
        scalars = [Summary.Value(tag=tag, simple_value=x) for tag, x in grouped(values).items()]
        self.out.write(framed(Event(step=step, summary=Summary(value=scalars))))

    def show(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Writes pictures, {name: uint8 [H, W, 3]}."""
        for name, picture in pictures.items():
            height, width, _ = picture.shape
            png = panels.to_png(picture)
            image = Summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=png
            )
            value = Summary.Value(tag=f"pictures/{name}", image=image)
            self.out.write(framed(Event(step=step, summary=Summary(value=[value]))))

    def rewind(self, step: int) -> None:
        """Tells TensorBoard to hide the values of later steps."""
        again = SessionLog(status=SessionLog.START)
        self.out.write(framed(Event(step=step + 1, session_log=again)))

    def end(self) -> None:
        """Marks the run as successful."""
        self.hparams.end()

    def close(self) -> None:
        """Closes the files."""
        self.out.close()
        self.hparams.close()


class Hparams:
    """The row of a run in the tab HPARAMS: its config, when it began, and whether it ended.

    Of several messages TensorBoard keeps the first. So they have a file of their own, and each
    start of the run replaces it: the config may have changed. TensorBoard itself finds the columns,
    and adds the newest value of every scalar of the run as a metric.

    Args:
      path: the file.
      config: {"optim.lr": 0.3, ...}. Values that are no numbers, bools or texts are written as
        texts; None is left out.
    """

    def __init__(self, path: pathlib.Path, config: Mapping[str, Any]) -> None:
        start = SessionStartInfo(start_time_secs=time.time())
        for key, value in config.items():
            if isinstance(value, bool):
                start.hparams[key].bool_value = value
            elif isinstance(value, int | float) and math.isfinite(value):
                start.hparams[key].number_value = value
            elif value is not None:
                start.hparams[key].string_value = str(value)
        first = framed(Event(file_version="brain.Event:2"))
        files.replace(path, first + self._message(session_start_info=start))
        self.out = Appender(path)

    def end(self) -> None:
        """Writes that the run ended with success."""
        end = SessionEndInfo(status=Status.Value("STATUS_SUCCESS"), end_time_secs=time.time())
        self.out.write(self._message(session_end_info=end))

    def close(self) -> None:
        """Closes the file."""
        self.out.close()

    @staticmethod
    def _message(**info: Any) -> bytes:
        """Formats an event that holds one message of the plugin, {name of its field: message}."""
        ((name, _),) = info.items()
        data = SummaryMetadata.PluginData(
            plugin_name="hparams", content=HParamsPluginData(**info).SerializeToString()
        )
        metadata = SummaryMetadata(plugin_data=data)
        value = Summary.Value(tag=f"_hparams_/{name}", metadata=metadata)
        return framed(Event(summary=Summary(value=[value])))


def framed(event: Event) -> bytes:
    """Formats an event of now as a record of a TFRecord file.

    A record is the length and the data, each with its masked CRC-32C.
    """
    event.wall_time = time.time()
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    sums = [struct.pack("<I", masked_crc32c(field)) for field in (length, data)]
    return length + sums[0] + data + sums[1]
