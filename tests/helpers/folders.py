"""Folders of small images."""

import io
import os
import pathlib

from PIL import Image

from jssl.data.sources.folder import open_folder


def picture(format="PNG", size=(6, 5)):
    out = io.BytesIO()
    Image.new("RGB", size, (200, 40, 40)).save(out, format)
    return out.getvalue()


PNG = picture()


def make(root, *names, content=PNG):
    for name in names:
        path = pathlib.Path(os.fsdecode(os.path.join(os.fsencode(root), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(root)


def opened(root, split="train"):
    return open_folder(str(root), split, 8, 3)


def names(source):
    return [os.path.relpath(source.describe(i), source.name) for i in range(len(source))]
