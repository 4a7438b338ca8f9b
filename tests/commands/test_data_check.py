"""`jssl data check`: what it finds in data of every kind, what it advises, that it only looks."""

import gzip
import json

import numpy as np
import pytest
from helpers.command import jssl, refused
from PIL import Image


def noise(seed, shape=(30, 40, 3), high=256, dtype: type = np.uint8):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


def check(capfd, *words):
    """(report, stderr) of the command, which must end with 0."""
    code, out, err = jssl(capfd, "data", "check", *words)
    assert code == 0, err
    return json.loads(out), err


def advice(report, *parts):
    """Whether one sentence of the advice has all of these parts."""
    return any(all(part in sentence for part in parts) for sentence in report["advice"])


def listed(root):
    return {path: path.lstat().st_mtime_ns for path in root.rglob("*")}


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """Splits with every fault that images have."""
    root = tmp_path_factory.mktemp("messy")
    for at in range(22):
        save(root / "train" / "cats" / f"{at:02}.png", noise(at))
    for at in range(2):
        save(root / "train" / "Cats" / f"{at}.png", noise(100 + at))
        save(root / "test" / "cats" / f"{at}.png", noise(200 + at))
        save(root / "test" / "dogs" / f"{at}.png", noise(300 + at))
        save(root / "val" / "cats" / f"{at}.png", noise(400 + at))
    save(root / "test" / "cats" / "leak.png", noise(3))
    cats = root / "train" / "cats"
    save(root / "train" / "Cats" / "same.bmp", noise(4))  # the pixels of cats/04.png
    (cats / "copy.png").write_bytes((cats / "05.png").read_bytes())
    exif = Image.Exif()
    exif[274] = 6
    save(cats / "turned.jpg", noise(50, (300, 900, 3)), exif=exif)
    save(cats / "black.png", np.zeros((20, 20), np.uint8))
    save(cats / "green.png", np.full((20, 20, 3), (9, 200, 9), np.uint8))
    save(cats / "alpha.png", noise(51, (20, 20, 4)))
    frames = [Image.fromarray(noise(60 + at, (20, 20))) for at in range(2)]
    save(cats / "film.gif", frames[0], save_all=True, append_images=frames[1:])
    (cats / "cut.JPG").write_bytes((cats / "turned.jpg").read_bytes()[:900])
    (cats / "gone.png").symlink_to("nowhere")
    for name in ("x.heic", "labels.csv", "y.npy"):
        (root / "train" / name).write_bytes(b"x")
    return root


@pytest.fixture(scope="module")
def messy_report(messy):
    from jssl.commands import data_check

    before = listed(messy)
    flags = {"config": "photos:tiny", "data": str(messy), "examples": "", "path": ()}
    keys = {"data.exif": "off", "augment.size": "24", "data.max_side": "200", "eval.split": "test"}
    report = data_check.run(flags, keys | {"data.split": "train"})
    assert listed(messy) == before  # nothing is written
    return report


def test_files_that_are_read_skipped_and_damaged(messy_report):
    train = messy_report["splits"]["train"]
    assert train["examples"] == train["looked_at"] == 33
    assert train["files"]["endings"] == {".png": 29, ".jpg": 2, ".bmp": 1, ".gif": 1}
    assert train["files"]["skipped"] == {".heic": 1, ".csv": 1, ".npy": 1}
    damaged = {one["name"]: one["reason"] for one in train["unreadable"]["first"]}
    assert damaged.keys() == {"cats/cut.JPG", "cats/gone.png"}
    assert "truncated" in damaged["cats/cut.JPG"]
    assert advice(messy_report, "2 of 33 images unreadable", "cats/cut.JPG")
    assert advice(messy_report, "1 .npy file skipped")
    assert advice(messy_report, "1 .heic image", "install")


def test_sizes_modes_and_orientation(messy_report):
    train = messy_report["splits"]["train"]
    assert train["sizes"]["height"] == [20, 30, 300] and train["sizes"]["width"] == [20, 40, 900]
    found = {key: train["sizes"][key] for key in ("below_crop", "above_max_side", "ends_cropped")}
    assert found == {"below_crop": 4, "above_max_side": 1, "ends_cropped": 1}
    pixels = train["pixels"]
    assert pixels["modes"] == {"RGB": 28, "L": 1, "RGBA": 1, "P": 1}
    assert pixels["formats"] == {"PNG": 28, "BMP": 1, "GIF": 1, "JPEG": 1}
    assert pixels["ranges"] == {"8-bit": [0, 255]} and pixels["white"] == 255
    assert pixels["black"] == {"count": 1, "first": ["cats/black.png"]}
    assert pixels["constant"] == {"count": 1, "first": ["cats/green.png"]}
    assert pixels["several_frames"] == 1 and advice(messy_report, "1 file with several frames")
    assert train["exif"] == {"turned": 1, "applied": False, "first": ["cats/turned.jpg"]}
    assert advice(messy_report, "1 image turned by EXIF", "--config.data.exif=on")
    assert advice(messy_report, "train: 4 of 31 images", "--config.augment.size=16")
    assert advice(messy_report, "alpha channel")


def test_duplicates_and_what_splits_share(messy_report):
    duplicates = messy_report["splits"]["train"]["duplicates"]
    assert duplicates["bytes"]["first"] == [["cats/05.png", "cats/copy.png"]]
    assert ["Cats/same.bmp", "cats/04.png"] in duplicates["pixels"]["first"]
    assert duplicates["pixels"]["extra"] == 2 and duplicates["pixels"]["other_labels"] == 1
    shared = messy_report["pairs"]["train, test"]
    assert shared["bytes"] == {"count": 1, "first": [["cats/03.png", "cats/leak.png"]]}
    assert shared["same_files"] == 0 and messy_report["pairs"]["train, val"]["pixels"]["count"] == 0
    assert advice(messy_report, "1 image of test in train too", "cats/leak.png is cats/03.png")
    assert advice(messy_report, "1 repeated image with several labels")


def test_labels_of_splits(messy_report):
    labels = messy_report["splits"]["train"]["labels"]
    assert labels["from"] == "folder names" and labels["classes"] == {"Cats": 3, "cats": 30}
    assert labels["imbalance"] == 10 and labels["alike"] == [["Cats", "cats"]]
    only_in = messy_report["pairs"]["train, test"]["only_in"]
    assert only_in == {"train": ["Cats"], "test": ["dogs"]}
    assert advice(messy_report, "1 class only in test (dogs)", "count as unlabeled")
    assert advice(messy_report, "10 times as many") and advice(messy_report, "Cats, cats differ")
    assert messy_report["splits"]["val"]["labels"] == {"from": "none", "single_folder": "cats"}


def test_a_folder_without_splits_and_labels_in_a_sample(tmp_path, capfd):
    for at in range(12):
        save(tmp_path / f"{at}.png", noise(at))
    save(tmp_path / "more" / "a.png", noise(20))
    (tmp_path / "labels.csv").write_text("x")
    report, err = check(capfd, f"--data={tmp_path}", "--examples=5")
    train = report["splits"]["train"]
    assert report["recipe"] == "photos" and list(report["splits"]) == ["train"]
    assert (train["examples"], train["looked_at"]) == (13, 5)
    assert advice(report, "5 of 13 images were looked at", "--examples=13")
    assert advice(report, "there are no labels", "12 files beside them")
    assert advice(report, ".csv files are skipped") and advice(report, "--config.eval.split='test'")
    assert "shorter side" in err and f"  - {report['advice'][0]}" in err.splitlines()


def test_slices_that_overlap(tmp_path, capfd):
    for at in range(8):
        save(tmp_path / f"{at}.png", noise(at))
    overlap = ("--config.data.split=train", "--config.eval.split=train[:50%]")
    report, _ = check(capfd, f"--data={tmp_path}", *overlap)
    assert report["pairs"]["train, train[:50%]"]["same_files"] == 4
    assert advice(report, "train and train[:50%] both read 4 files", "--config.data.split='train[:")
    slices = ("--config.data.split=train[:50%]", "--config.eval.split=train[50%:]")
    report, _ = check(capfd, f"--data={tmp_path}", *slices)
    assert report["pairs"]["train[:50%], train[50%:]"]["same_files"] == 0


def test_sixteen_bits_and_the_value_of_white(tmp_path, capfd):
    for at in range(4):
        save(tmp_path / f"{at}.png", noise(at, (30, 40), 2**12, np.uint16))
    save(tmp_path / "5.png", np.full((30, 40), 2**12 - 1, np.uint16))
    report, _ = check(capfd, f"--data={tmp_path}")
    pixels = report["splits"]["train"]["pixels"]
    assert pixels["depths"] == {"16-bit": 5} and pixels["ranges"]["16-bit"][1] == 4095
    assert pixels["white"] == 4095 and not advice(report, "max_value")
    assert advice(report, "all images are gray", "--config.data.channels=1")
    report, _ = check(capfd, f"--data={tmp_path}", "--config.data.max_value=65535")
    assert advice(report, "largest pixel value is 4095", "dark", "--config.data.max_value=4095")
    report, _ = check(capfd, f"--data={tmp_path}", "--config.data.max_value=1000")
    assert advice(report, "above white (1000) are clipped", "--config.data.max_value=4095")


def test_too_many_unreadable_images_would_stop_a_run(tmp_path, capfd):
    for at in range(2):
        save(tmp_path / f"{at}.png", noise(at))
        (tmp_path / f"bad {at}.png").write_bytes(b"x")
    (tmp_path / "bad.png").write_bytes(b"x")
    report, _ = check(capfd, f"--data={tmp_path}")
    assert advice(report, "a run stops", "--config.data.max_corrupt_fraction=0.61")


def test_nothing_that_can_be_read(tmp_path, capfd):
    assert "--data is missing" in refused(capfd, "data", "check")
    assert "no image lies below it" in refused(capfd, "data", "check", f"--data={tmp_path}")
    (tmp_path / "a.png").write_bytes(b"x")
    assert "none of its 1 examples" in refused(capfd, "data", "check", f"--data={tmp_path}")
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.txt").write_bytes(b"\xe9" * 99)
    assert "a.txt: cannot be read" in refused(capfd, "data", "check", f"--data={tmp_path}")


def test_arrays_have_no_bytes(capfd):
    report, _ = check(capfd, "--config=simclr_digits:tiny", "--examples=40")
    train, test = report["splits"].values()
    assert train["looked_at"] == 40 and list(train["duplicates"]) == ["pixels"]
    assert sum(test["labels"]["classes"].values()) == 40 and "files" not in train


def test_text(tmp_path, capfd):
    (tmp_path / "train").mkdir()
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "train" / "A.TXT").write_text("It was the best of times. " * 9)
    (tmp_path / "train" / "b.txt").write_bytes(b"\xe9" * 99)
    (tmp_path / "train" / "c.txt").write_bytes("wie geht es?".encode("utf-16-le"))
    (tmp_path / "train" / "d.txt").write_bytes(b"caf\xe9")
    (tmp_path / "train" / "e.txt.gz").write_bytes(b"no gzip")
    (tmp_path / "train" / "f.txt.gz").write_bytes(gzip.compress(b"packed"))
    lines = [{"text": "hello"}, None, {"text": " "}, {"text": "hello"}, {"text": "worlds"}]
    (tmp_path / "train" / "g.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "test.txt").write_text("hello")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "h.txt").write_text("hello")
    before = listed(tmp_path)
    report, err = check(capfd, f"--data={tmp_path}")
    assert listed(tmp_path) == before
    train = report["splits"]["train"]
    assert report["modality"] == "text" and train["examples"] == 7
    assert train["length"] == [5, 5, 6, 234, 234] and train["bytes"] == 234 + 12 + 6 + 6 + 16
    assert train["files"]["skipped"] == {".md": 1}
    assert {one["name"] for one in train["unreadable"]["first"]} == {
        "train/b.txt",
        "train/e.txt.gz",
    }
    assert train["encodings"]["utf-16-le"] == 1 and train["replaced"] == 1 and train["empty"] == 1
    assert train["duplicates"]["extra"] == 1 and train["lines"]["odd"] == 1
    assert report["pairs"]["train, test"]["documents"]["count"] == 1
    assert advice(report, "unreadable text", "train/b.txt", "--config.data.encoding=latin-1")
    assert advice(report, "1 byte sequence invalid", "--config.data.encoding")
    assert advice(report, "1 of 5 lines without a document", "g.jsonl:2")
    assert advice(report, "1 document of test in train too") and "bytes, median" in err
    report, _ = check(capfd, f"--data={tmp_path}", "--examples=2")
    assert advice(report, "only the first 2 documents")


def test_a_set_of_tfds(real_data, capfd):
    words = ["--config=photos", "--config.data.source=tfds", "--config.data.name=mednist_small"]
    report, _ = check(capfd, *words, f"--config.data.dir={real_data}", "--examples=60")
    train = report["splits"]["train"]
    assert (train["examples"], train["looked_at"]) == (1440, 60)
    assert train["pixels"]["modes"] == {"L": 60} and train["pixels"]["formats"] == {"JPEG": 60}
    assert sum(train["labels"]["classes"].values()) == 60
    words = ["--config=bert_small_books", "--config.data.name=sst2", "--examples=50"]
    words += ["--config.eval.split=validation", "--config.data.pack_documents=False"]
    report, _ = check(capfd, *words, f"--config.data.dir={real_data}")
    labels = report["splits"]["train"]["labels"]
    assert len(labels["classes"]) == 2 and sum(labels["classes"].values()) == 50
