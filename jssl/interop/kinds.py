"""The kinds of tensors in `jssl.interop.layouts`: the ends of their names, and how they convert."""

from collections.abc import Callable

import numpy as np

from jssl.config import UserError

Array = np.ndarray
ROBERTA_PADDING = 2  # rows of positions before the first: padding_idx + 1


def patch_in(w: Array, channels: int) -> Array:
    """[D, C, p, p] -> [p * p * C, D], pixels in order (row, column, channel)."""
    return w.transpose(2, 3, 1, 0).reshape(-1, len(w))


def patch_out(w: Array, channels: int) -> Array:
    """The inverse of `patch_in`: [p * p * C, D] -> [D, C, p, p]."""
    side = round((len(w) / channels) ** 0.5)
    if side * side * channels != len(w):
        raise UserError(f"channels={channels} do not make square patches of {len(w)} values")
    return w.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)


def same(w: Array, channels: int) -> Array:
    """The array without a change."""
    return w


def turned(w: Array, channels: int) -> Array:
    """The transposed array."""
    return w.T


def conv_in(w: Array, channels: int) -> Array:
    """[K, C, h, w] -> [h, w, C, K]."""
    return w.transpose(2, 3, 1, 0)


def conv_out(w: Array, channels: int) -> Array:
    """[h, w, C, K] -> [K, C, h, w]."""
    return w.transpose(3, 2, 0, 1)


def without_padding(w: Array, channels: int) -> Array:
    """RoBERTa's positions without the rows that it reserves for padding."""
    return w[ROBERTA_PADDING:]


def with_padding(w: Array, channels: int) -> Array:
    """The inverse of `without_padding`; the reserved rows are zero."""
    return np.pad(w, ((ROBERTA_PADDING, 0), (0, 0)))


def with_second_type(w: Array, channels: int) -> Array:
    """RoBERTa's one token type [1, D] -> [2, D]; the second, which nothing uses, is zero."""
    return np.pad(w, ((0, 2 - len(w)), (0, 0)))


def first_type(w: Array, channels: int) -> Array:
    """The inverse of `with_second_type`."""
    return w[:1]


def flattened(w: Array, channels: int) -> Array:
    """[1, D] or [1, 1, D] -> [D]."""
    return w.reshape(-1)


def as_row(w: Array, channels: int) -> Array:
    """[D] -> [1, D]."""
    return w.reshape(1, -1)


def as_token(w: Array, channels: int) -> Array:
    """[D] -> [1, 1, D]."""
    return w.reshape(1, 1, -1)


Convert = Callable[[Array, int], Array]  # (array, channels of the images) -> array
Kind = tuple[str, str, Convert, Convert]  # (end of our name, of theirs, import, export)
BIAS: Kind = ("/bias", ".bias", same, same)
NORM: list[Kind] = [("/scale", ".weight", same, same), BIAS]
STATISTICS: list[Kind] = [
    ("/mean", ".running_mean", same, same),
    ("/var", ".running_var", same, same),
]
KINDS: dict[str, list[Kind]] = {  # the tensors of a line of a table
    "array": [("", "", same, same)],
    "turned": [("", "", turned, turned)],
    "norm": NORM,
    "bn": NORM + STATISTICS,
    "dense": [("/kernel", ".weight", turned, turned), BIAS],  # PyTorch has [out, in]
    "conv1d": [("/kernel", ".weight", same, same), BIAS],  # GPT-2's, [in, out] as ours
    "conv": [("/kernel", ".weight", conv_in, conv_out)],
    "patch": [("/kernel", ".weight", patch_in, patch_out), BIAS],
    "row": [("", "", flattened, as_row)],
    "token": [("", "", flattened, as_token)],
    "after_padding": [("", "", without_padding, with_padding)],
    "one_type": [("", "", with_second_type, first_type)],
}
