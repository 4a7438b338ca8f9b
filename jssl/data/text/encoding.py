"""From bytes to text: which encoding a file has, and its characters, a bounded part at a time.

A byte order mark decides; without one, a file with NULs is UTF-16 or UTF-32 if that gives
characters, and all else is UTF-8. What cannot be text is refused and never read as something else.
"""

import codecs
from collections.abc import Iterator
from typing import IO

from jssl.config import UserError, suggest

PART = 2**18  # bytes, or characters, that are handled at a time
SAMPLE = 2**16  # bytes that an encoding is told from
_MARKS = (  # the one of UTF-32 begins with the one of UTF-16
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
_FEW = 32  # odd characters of a part that are put up with, whatever share they are


class Undecodable(ValueError):
    """A file is no text of an encoding; another one may fit."""


def codec(name: str) -> str:
    """The name by which Python knows ``data.encoding``; "" stays so.

    Raises UserError for a name that is no encoding of text.
    """
    if not name:
        return ""
    wrong = UserError(f"data.encoding={name!r} is no encoding; {suggest(name, _KNOWN)}")
    if not name.isascii() or not name.isprintable():
        raise wrong
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        raise wrong from None
    if not found._is_text_encoding or found.name in _UNFIT or not found.incrementaldecoder:
        raise wrong
    return found.name


def detect(sample: bytes) -> str:
    """The encoding of a file that begins with `sample`.

    Raises ValueError if it has so many NULs that it is no UTF-8, and is nothing else either.
    """
    for mark, name in _MARKS:
        if sample.startswith(mark):
            return name
    if sample.count(0) * 50 < len(sample) or not sample:
        return "utf-8"
    scores = {name: _likeness(sample, name) for name in dict(_MARKS).values() if name != "utf-8"}
    best = max(scores, key=scores.get)
    if scores[best] == 0:
        share = sample.count(0) / len(sample)
        raise ValueError(f"{share:.0%} of its bytes are NUL: it is no text, or of another encoding")
    return best


def _likeness(sample, name):
    """Share of European characters in `sample` if it is text in that encoding, else 0. (Read with
    the wrong order of bytes, they are characters of other scripts.)"""
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


def decoded(stream: IO[bytes], encoding: str, tally) -> Iterator[str]:
    """The characters of a file, about `PART` bytes at a time, without a byte order mark.

    encoding  as `codec` gives it; "": detected
    tally     counts the sequences that were "replaced" because they are not of the encoding, and
              in `tally.encodings` the files of each encoding

    Raises Undecodable where too much has to be replaced, and ValueError where too much is NUL.
    """
    raw = stream.read(SAMPLE)
    name = encoding or detect(raw)
    tally.encodings[name] += 1
    decoder = codecs.getincrementaldecoder(name)("replace")
    spelled = _spelled(name)
    tail = b""
    first = True
    while True:
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeError as error:  # "UTF-16 stream does not start with BOM"
            raise Undecodable(str(error)) from None
        genuine = (tail + raw).count(spelled) if spelled else 0
        tail = (tail + raw)[1 - len(spelled) :] if len(spelled) > 1 else b""
        replaced = max(0, text.count("\ufffd") - genuine)
        _judge(text, replaced, name)
        tally["replaced"] += replaced
        yield text.removeprefix("\ufeff") if first else text
        if not raw:
            return
        raw = stream.read(PART)
        first = False


def _spelled(name):
    """The bytes of U+FFFD where a file may hold that character itself."""
    try:
        return "\ufffd".encode(name)
    except UnicodeEncodeError:
        return b""


def _judge(text, replaced, name):
    nulls = text.count("\0")
    if replaced > _FEW and replaced * 10 > len(text):
        raise Undecodable(f"{replaced} of {len(text)} characters are no {name}")
    if nulls > _FEW and nulls * 8 > len(text):
        raise ValueError(f"{nulls} of {len(text)} characters are NUL")
