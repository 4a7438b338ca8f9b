"""The pictures and texts that a run has written to <workdir>/pictures."""

import json
import logging
import pathlib
import re
import struct
from typing import Any

from jssl.data import files
from jssl.reports.thumbnails import png_uri

log = logging.getLogger("jssl")
NAME = re.compile(r"(.+)-(\d+)\.(png|txt)")
LARGEST = 4 * 2**20  # bytes of a file; a larger one is left out
EARLIER = 5  # steps shown beside the last one
LINES = 8  # of a text
PNG = b"\x89PNG\r\n\x1a\n"


def pictures(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Returns {"name", "shown": [{"step", "image" or "texts"}]} of each kind, the last step first.

    Files that cannot be read are logged and left out. No link is followed.
    """
    folder = workdir / "pictures"
    if folder.is_symlink() or not folder.is_dir():
        return []
    by_name: dict[str, list[tuple[int, pathlib.Path]]] = {}
    for path in folder.iterdir():
        if match := NAME.fullmatch(path.name):
            by_name.setdefault(match[1], []).append((int(match[2]), path))
    made = []
    for name, found in sorted(by_name.items()):
        found.sort(reverse=True)
        shown = [read(step, path) for step, path in [found[0], *spread(found[1:], EARLIER)]]
        if good := [entry for entry in shown if entry]:
            made.append({"name": name, "shown": good})
    return made


def spread(found: list[Any], count: int) -> list[Any]:
    """Returns at most `count` elements, evenly spaced, with the first and the last."""
    if len(found) <= count:
        return found
    return [found[round(i * (len(found) - 1) / (count - 1))] for i in range(count)]


def read(step: int, path: pathlib.Path) -> dict[str, Any] | None:
    """Reads a file; None if it cannot be read."""
    try:
        content = files.read_bytes(path, LARGEST)
        if path.suffix == ".txt":
            return {"step": step, "texts": texts(content.decode("utf-8", "replace"))}
        if not content.startswith(PNG) or len(content) < 24:
            raise files.Damaged(path, "it is no PNG")
    except (files.Damaged, files.Unreachable, OSError) as error:
        log.warning("%s is left out: %s", path, files.one_line(error))
        return None
    return {"step": step, "image": png_uri(content), "width": shown_width(content)}


def shown_width(content: bytes) -> int:
    """Returns the width in pixels at which a PNG is shown: small ones are enlarged."""
    width, height = struct.unpack(">II", content[16:24])  # the chunk IHDR
    zoom = min(360 // max(width, 1), 900 // max(height, 1), 4)
    return width * max(zoom, 1)


def texts(content: str) -> list[str]:
    """Returns the texts of a file: a JSON string in each line, or the line itself."""
    lines = []
    for line in content.splitlines()[:LINES]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = line
        lines.append(value if isinstance(value, str) else line)
    return lines
