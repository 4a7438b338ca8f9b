"""Random input: overrides of configs, and the JSON files of a workdir and of data sets. What is
wrong is a `UserError`; what is right goes on; nothing else is ever raised. (Images: test_data.py.)
"""

import json
import shutil
import warnings

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jssl import cli
from jssl.commands.bench import made_up
from jssl.config import Config, UserError, flatten, load, override, parse, resolve_key
from jssl.data import sampling
from jssl.data.sources import packed
from jssl.data.text import text_source, tokenizer
from jssl.training import loggers, rollback
from jssl.training.loop import train
from jssl.training.setup import check_batch, setup_run
from jssl.workdir import claim, run_folder

RECIPES = ("simclr_digits", "mae_imagenette", "bert_small_books", "deepcluster_cifar10")
KEYS = {
    name: sorted(key.removeprefix("config.") for key in flatten(load(f"configs/{name}.py:tiny")))
    for name in RECIPES
}
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 3, 7, 0.5, -0.5, 1.5, float("nan"), float("inf"), 10**9]),
    st.integers(-20, 200), st.floats(-2, 2),
)  # fmt: skip
VALUES = st.one_of(
    NUMBERS.map(str), st.text(max_size=8), st.lists(NUMBERS, max_size=3).map(str),
    st.sampled_from(["none", "true", "(('bias$', 0.1),)", "('x',)", "[", "1e999", "__import__"]),
)  # fmt: skip
OFTEN = hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
SELDOM = hypothesis.settings(max_examples=25, deadline=None, derandomize=True)


@OFTEN
@hypothesis.given(key=st.text(max_size=20), text=VALUES)
def test_names_of_keys(key, text):
    try:
        load("configs/simclr_digits.py:tiny", {key: text})
    except UserError as error:
        assert "config" in str(error)


@SELDOM
@hypothesis.given(name=st.sampled_from(RECIPES), data=st.data())
def test_values_of_keys(name, data):
    """A recipe with any two keys changed is a run, or is refused in one line."""
    tree = load(f"configs/{name}.py:tiny")
    for _ in range(2):
        key = data.draw(st.sampled_from(KEYS[name]))
        section, last = resolve_key(tree, key)
        try:
            section[last] = parse(f"config.{key}", data.draw(VALUES), section[last])
        except UserError:
            return
    config = Config(tree)
    hypothesis.assume(config.data.max_side <= 512 and config.data.seq_len <= 512)
    hypothesis.assume(config.batch_size <= 512)  # made-up data is really made
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_batch(setup_run(config, source=made_up(config)))
    except UserError as error:
        assert str(error)


EDITS = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), min_size=1, max_size=4)
TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def edited(content: bytes, edits) -> bytes:
    """`content` with some bytes replaced by others."""
    for where, new in edits:
        at = int(where * len(content))
        content = content[:at] + new + content[at + len(new) + 1 :]
    return content


def swapped(content: bytes, where: float, tree) -> bytes:
    """The JSON `content` with another value in one of its places."""
    whole, places = json.loads(content), []

    def visit(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                visit(node[key])

    visit(whole)
    node, key = places[min(int(where * len(places)), len(places) - 1)]
    node[key] = tree
    return json.dumps(whole).encode()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir that was trained for two steps."""
    folder = tmp_path_factory.mktemp("run") / "a"
    changes = {"steps": "2", "eval.every": "0", "checkpoint.every": "1", "log.every": "1"}
    train(load("configs/simclr_digits.py:tiny", changes), str(folder))
    rollback_file = folder / "skipped_data.json"
    rollback_file.write_text("[[1, 2], [5, 6]]")
    return folder


CHANGED = hypothesis.given(
    edits=EDITS, where=st.floats(0, 1), tree=TREES, whole=st.booleans(), other=st.booleans()
)


def damaged(content, edits, where, tree, whole, other):
    if other:
        return json.dumps(tree).encode()
    return swapped(content, where, tree) if whole else edited(content, edits)


@pytest.mark.parametrize(
    "name", ["config.json", "result.json", "skipped_data.json", "metrics.jsonl"]
)
def test_files_of_a_run(name, trained, tmp_path):
    folder = tmp_path / "b"
    shutil.copytree(trained, folder)
    content = (folder / name).read_bytes()
    tree = load("configs/simclr_digits.py:tiny", {"steps": "2"})

    @OFTEN
    @CHANGED
    def check(**change):
        change["whole"] &= name != "metrics.jsonl"
        (folder / name).write_bytes(damaged(content, **change))
        try:
            claim.TrainingFolder(folder).open(tree)
            run_folder.RunFolder(folder).known_info()
            config = run_folder.RunFolder(folder).config
            override(config, {"eval.knn_k": "5"})
            run_folder.RunFolder(folder).result()
            loggers.newest(folder, 10)
            sampling.data_offset(rollback.skipped_ranges(folder), 3)
        except UserError as error:
            assert str(folder) in str(error) or "config." in str(error)

    check()


def quiet(*given):
    pass


def checked(path, opening):
    content = path.read_bytes()

    @OFTEN
    @CHANGED
    def check(**change):
        path.write_bytes(damaged(content, **change))
        try:
            opening()
        except UserError as error:
            assert "data." in str(error)

    check()


def test_files_of_data_sets(tmp_path):
    images = packed.arrays(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4), "mine")
    packed.pack(images, str(tmp_path / "images"), quiet)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("one two three\n\nfour five")
    words = [f"--config.data.path={tmp_path}/text", "--config.data.source=text"]
    words += ["--config.data.split=train"]
    tiny = "--config=configs/bert_small_books.py:tiny"
    assert cli.main(["data", "pack", tiny, *words, f"--out={tmp_path}/tokens"]) == 0
    bpe = ["data", "tokenizer", tiny, *words, f"--out={tmp_path}/bpe.json", "--vocab=270"]
    assert cli.main(bpe) == 0
    opens = {
        "images/meta.json": lambda: packed.open_packed(str(tmp_path / "images"), "train"),
        "tokens/meta.json": lambda: text_source.open_tokens(
            str(tmp_path / "tokens"), "train", "", 8, True
        ),
        "bpe.json": lambda: tokenizer.load(str(tmp_path / "bpe.json")),
    }
    for name, opening in opens.items():
        checked(tmp_path / name, opening)
