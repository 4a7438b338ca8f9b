"""The weights of one encoder, wherever they come from."""

from typing import Any, NamedTuple

import numpy as np


class Weights(NamedTuple):
    """The weights of an encoder, and what is known about it.

    Attributes:
      path: where they were read.
      layout: a key of `jssl.interop.layouts.LAYOUTS`; "jssl" for a workdir.
      encoder: {our name: array}, parameters and BatchNorm statistics.
      heads: {our name below `params`: array} of other parts, such as MAE's decoder.
      model: the section `model` that fits the encoder.
      pixels: "mean" and "std" of each channel, if they are stated; {} else.
      unused: the names of the file's tensors that are not read.
      step: of the checkpoint of a workdir; 0 else.
      classes: of a classifier, whose last layer is "head/kernel" [D, classes] and "head/bias".
      head: the section `head` of a workdir whose method has prototypes; None else.
    """

    path: str
    layout: str
    encoder: dict[str, np.ndarray]
    heads: dict[str, np.ndarray]
    model: dict[str, Any]
    pixels: dict[str, tuple[float, ...]]
    unused: list[str]
    step: int = 0
    classes: tuple[str, ...] = ()
    head: dict[str, Any] | None = None
