"""What is read from the bytes of a JPEG equals what a search of all bytes finds."""

import io

import numpy as np
from PIL import ExifTags, Image

from jssl.data import jpeg
from jssl.data.decode import decode


def encoded(exif=None):
    file = io.BytesIO()
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    image.save(file, "JPEG", exif=exif or b"")
    return file.getvalue()


def test_scans_are_counted_at_even_and_odd_places():
    rng = np.random.default_rng(0)
    for length in [*range(1, 9), 1001]:
        for _ in range(50):
            data = rng.choice(np.array([0xFF, 0xDA, 1], np.uint8), length).tobytes()
            assert jpeg.count_scans(data) == data.count(b"\xff\xda")


def test_exif_is_found_behind_a_segment_that_holds_the_marker_of_a_scan():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = encoded(exif)
    comment = b"\xff\xfe\x00\x06\xff\xda\xff\xda"
    assert not jpeg.may_have_exif(encoded())
    for data in (turned, turned[:2] + comment + turned[2:]):
        assert jpeg.may_have_exif(data)
        upright = decode(data, 3).swapaxes(0, 1)[:, ::-1]
        np.testing.assert_array_equal(decode(data, 3, exif=True), upright)


def test_exif_in_coded_data_is_none():
    data = encoded()
    assert not jpeg.may_have_exif(data[:-2] + b"Exif\0\0" + data[-2:])
    unusual = data[:2] + b"\xff" + data[2:-2] + b"Exif\0\0" + data[-2:]
    assert jpeg.may_have_exif(unusual)  # a fill byte: all is searched, as Pillow then decides
