"""Decodes bytes to text: finds the encoding of a file, and yields its characters in bounded parts.

A byte order mark decides. Without one, a file with NULs is UTF-16 or UTF-32 if that gives
characters, and any other file is UTF-8. Bytes that cannot be text are refused, and are never read
in another encoding.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from jssl.config import ConfigError, suggest

if TYPE_CHECKING:
    from jssl.data.text.text_files import Tally

PART = 2**18  # bytes, or characters, that are processed at a time
SAMPLE = 2**16  # bytes from which the encoding is inferred
_MARKS = (  # the mark of UTF-32 begins with the mark of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)
_KNOWN = (
    "utf-8",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "latin-1",
    "iso-8859-15",
    "cp1252",
    "cp1251",
    "koi8-r",
    "shift_jis",
    "euc-jp",
    "euc-kr",
    "gb18030",
    "big5",
)
_UNFIT = ("idna", "punycode", "undefined", "unicode_escape", "raw-unicode-escape", "mbcs", "oem")
_FEW = 32  # odd characters of a part that are always tolerated


class Undecodable(ValueError):
    """A file is not text in an encoding; another encoding may fit."""


class Stream(Protocol):
    """A source of bytes."""

    def read(self, size: int, /) -> bytes:
        """Returns at most `size` bytes; b"" at the end."""
        ...


def codec(name: str) -> str:
    """Returns Python's name of an encoding; "" for "".

    Args:
      name: ``data.encoding``.

    Raises:
      UserError: `name` is not an encoding of text.
    """
    if not name:
        return ""
    wrong = ConfigError("config.data.encoding", name, "no encoding", suggest(name, _KNOWN))
    if not name.isascii() or not name.isprintable():
        raise wrong
    try:
        info = codecs.lookup(name)
    except (LookupError, ValueError):
        raise wrong from None
    if not info._is_text_encoding or info.name in _UNFIT or not info.incrementaldecoder:
        raise wrong
    return info.name


def detect(sample: bytes) -> str:
    """Returns the encoding of a file that begins with `sample`.

    Raises:
      ValueError: the sample has too many NULs for UTF-8, and is not valid in another encoding.
    """
    for mark, name in _MARKS:
        if sample.startswith(mark):
            return name
    if sample.count(0) * 50 < len(sample) or not sample:
        return "utf-8"
    scores = {name: _likeness(sample, name) for name in dict(_MARKS).values() if name != "utf-8"}
    best = max(scores, key=lambda name: scores[name])
    if scores[best] == 0:
        fraction = sample.count(0) / len(sample)
        raise ValueError(
            f"{fraction:.0%} of its bytes are NUL: it is no text, or of another encoding"
        )
    return best


def _likeness(sample: bytes, name: str) -> float:
    """Returns the fraction of European characters in `sample`, or 0 if it is not text in `name`.

    In the wrong byte order, the sample decodes to characters of other scripts.
    """
    try:
        text = codecs.getincrementaldecoder(name)().decode(sample)
    except UnicodeDecodeError:
        return 0
    if not text or "\0" in text:
        return 0
    strange = sum(not (char.isprintable() or char.isspace()) for char in text)
    if strange * 20 > len(text):
        return 0
    return sum(char < "\u0250" for char in text) / len(text)


def decoded(stream: Stream, encoding: str, tally: Tally) -> Iterator[str]:
    """Yields the characters of a file, about `PART` bytes at a time, without a byte order mark.

    Args:
      stream: the bytes of the file.
      encoding: as `codec` returns it; "": it is detected.
      tally: counts the sequences that were "replaced" because they are not valid in the encoding,
        and in `tally.encodings` the files of each encoding.

    Raises:
      Undecodable: too much has to be replaced.
      ValueError: too much is NUL.
    """
    raw = stream.read(SAMPLE)
    name = encoding or detect(raw)
    tally.encodings[name] += 1
    decoder = codecs.getincrementaldecoder(name)("replace")
    replacement = _replacement_bytes(name)
    tail = b""
    first = True
    while True:
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeError as error:  # "UTF-16 stream does not start with BOM"
            raise Undecodable(str(error)) from None
        genuine = (tail + raw).count(replacement) if replacement else 0
        tail = (tail + raw)[1 - len(replacement) :] if len(replacement) > 1 else b""
        replaced = max(0, text.count("\ufffd") - genuine)
        _judge(text, replaced, name)
        tally["replaced"] += replaced
        yield text.removeprefix("\ufeff") if first else text
        if not raw:
            return
        raw = stream.read(PART)
        first = False


def _replacement_bytes(name: str) -> bytes:
    """Returns the bytes of U+FFFD, which a file may contain itself; b"" if it cannot."""
    try:
        return "\ufffd".encode(name)
    except UnicodeEncodeError:
        return b""


def _judge(text: str, replaced: int, name: str) -> None:
    """Raises an error if too many characters are replaced or NUL."""
    nulls = text.count("\0")
    if replaced > _FEW and replaced * 10 > len(text):
        raise Undecodable(f"{replaced} of {len(text)} characters are no {name}")
    if nulls > _FEW and nulls * 8 > len(text):
        raise ValueError(f"{nulls} of {len(text)} characters are NUL")
