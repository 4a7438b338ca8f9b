"""The examples of README.md and of the pages in docs/ are true.

Python blocks run, at tiny sizes. Commands are parsed, and their keys exist. The generated pages
hold every method, recipe, command and key. The site itself is built by `make docs`, because the
packages for that are an extra which the tests do not have.
"""

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from typing import Any

import numpy as np
import pytest
from conftest import ALL, FAST, ROOT
from helpers.pages import FENCE, blocks, write_files
from PIL import Image

import jssl
from jssl import recipes
from jssl.commands import arguments
from jssl.config import flatten, load, resolve_key, schema, shipped

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
OTHERS = ("python3", "source", "make", "bash", ".venv/bin/pip")  # commands that are not of jssl


# -- Python ---------------------------------------------------------------------------------------


def tiny(name: str, **changes: Any) -> Any:
    """`jssl.recipe` of the variant `tiny`; large numbers of steps are left out."""
    steps = changes.pop("steps", None)
    changes |= {"steps": steps} if isinstance(steps, int) and steps <= 12 else {}
    fast = {"eval__every": 0, "eval__online_linear_epochs": 0, "checkpoint__every": 0}
    changes = fast | changes  # half of the time
    own = "." in changes.get("data__source", "") or "data__path" in changes
    if own:  # the slice of the digits that `tiny` has is none of them
        changes |= {"data__split": "train", "eval__split": "test"}
    if "data__path" in changes:
        changes = {"data__source": "folder", "data__on_device": False} | changes
    return REAL_RECIPE(f"{name}:tiny", **changes)


REAL_RECIPE = jssl.recipe


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder with the images and the text that the examples name."""
    rng = np.random.default_rng(0)
    (tmp_path / "my_images").mkdir()
    for image in [*"ab", *range(38)]:
        pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "my_images" / f"{image}.png")
    (tmp_path / "my_text").mkdir()
    for number in range(20):
        text = f"It was the best of times, number {number}. " * 40
        (tmp_path / "my_text" / f"{number}.txt").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(jssl, "recipe", tiny)
    yield tmp_path
    for module in [name for name in sys.modules if name.partition(".")[0] == "my_fork"]:
        del sys.modules[module]


WITH_PYTHON = [
    name
    for name in NAMES
    if any(block.language == "python" and not block.title for block in blocks(name))
]


# `make laws` runs the other pages. The method of a guide is trained below.
@pytest.mark.parametrize("name", WITH_PYTHON if ALL else ["README.md"])
def test_the_python_of_a_page_runs(name, workplace):
    write_files(name, workplace)
    space: dict[str, Any] = {"__name__": "page"}
    for block in blocks(name):
        if block.language == "python" and not block.title:
            exec(compile(block.code, name, "exec"), space)


def test_the_guides_method_trains_with_the_installed_command(tmp_path):
    """The current folder is not on Python's path, and the folder of the recipe is."""
    write_files("docs/guides/add_a_method.md", tmp_path)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": FAST}
    installed = "import sys; from jssl.cli import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", installed, "train", "--config=my_recipe.py:tiny"]
    command += [f"--workdir={tmp_path}/run", "--config.log.every=1"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["step"] == 6
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(row)["loss"] for row in rows]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_is_python_without_outputs(path):
    book = json.loads(path.read_text())
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] for cell in code)
    for cell in code:
        ast.parse("".join(cell["source"]))


# -- commands -------------------------------------------------------------------------------------


def commands(code: str) -> list[list[str]]:
    """Returns the words of each command in a block of shell."""
    joined = re.sub(r"\\\n\s*", "", code)
    lines = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [line for line in lines if line]


def words_of_jssl(line: list[str]) -> list[str]:
    """Returns the words after ``jssl`` of a command of jssl or of a script of launch/; else []."""
    for at, word in enumerate(line):
        if word.removeprefix(".venv/bin/") == "jssl":
            return line[at + 1 :]
        if word.startswith("launch/"):
            assert (ROOT / word).is_file(), word
            place = 2 if word.endswith("tpu_pod.sh") else 0  # NAME ZONE
            return ["train", *line[at + 1 + place :]]
    return []


def check_command(line: list[str]) -> None:
    """Parses a command, and looks for its recipe, its keys and its target."""
    words = words_of_jssl(line)
    if not words:
        assert line[0] in OTHERS, line
        if line[0] == "make":
            targets = [word for word in line[1:] if "=" not in word]
            assert all(f"\n{target}:" in (ROOT / "Makefile").read_text() for target in targets)
        extras = re.findall(r"\.\[(\w+)\]", " ".join(line))
        assert all(extra in known_extras() for extra in extras), line
    elif words != ["--version"]:
        command, given, overrides = arguments.arguments(words)
        of_run = command in ("eval", "report", "embed")
        if given.get("config") and not of_run:
            load(given["config"], overrides)
        for key in overrides:  # only the run knows the keys of its method
            resolve_key(recipes.recipe("", {}) if of_run else load(given["config"]), key)


def known_extras() -> dict[str, Any]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["optional-dependencies"]


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_a_page_are_accepted(name, workplace):
    write_files(name, workplace)
    for block in blocks(name):
        if block.language == "sh":
            for line in commands(block.code):
                check_command(line)
        elif block.language != "python":  # output
            assert not re.search(r"^(\S*/)?jssl [a-z]", block.code, re.MULTILINE), "mark it: ```sh"


def test_a_wrong_command_is_noticed(workplace):
    wrong = (
        "jssl train --config=simclr_cifar11 --workdir=a",
        "jssl train --config=simclr_cifar10 --config.data.canvas=32 --workdir=a",
        "jssl eval --workdir=a --config.eval.crop=1.0",
        "jssl bench --config=simclr_cifar10 --workdir=a",
        "launch/none.sh --config=simclr_cifar10",
        "make nothing",
        ".venv/bin/pip install -e '.[nothing]'",
    )
    for line in wrong:
        with pytest.raises((jssl.UserError, AssertionError)):
            check_command(shlex.split(line))


# -- words in the text ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known_keys():
    """All keys of all recipes, and of the defaults."""
    configs = [load(name) for name in shipped()]
    return {key.removeprefix("config.") for config in configs for key in flatten(config)}


@pytest.mark.parametrize("name", NAMES)
def test_the_keys_and_commands_in_the_text_exist(name, known_keys):
    sections = (*schema.SECTIONS, *schema.BOUND)
    text = FENCE.sub("", (ROOT / name).read_text())
    for span in re.findall(r"`([^`\n]+)`", text):
        key = re.fullmatch(r"(?:--config\.)?([a-z_]+\.[a-z_0-9]+)(?:=.*)?", span)
        if key and key[1].partition(".")[0] in sections:
            assert key[1] in known_keys, span
        if span.startswith("jssl "):
            words = span.split()[1:]
            flags = [word.lstrip("-").partition("=")[0] for word in words if word.startswith("--")]
            plain = [word for word in words if not word.startswith("-") and word != "COMMAND"]
            if plain:
                command, _ = arguments.split_command(plain)
                own = arguments.COMMANDS[command].flags
                assert all(flag in own or flag == "help" for flag in flags), span


# -- README and generated pages -------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages():
    """The module docs/pages.py."""
    spec = importlib.util.spec_from_file_location("pages", DOCS / "pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generated(pages):
    return pages.pages()


def test_the_readme_begins_with_a_screen(pages):
    text = (ROOT / "README.md").read_text()
    head = text.partition("## ")[0]
    assert len(head.splitlines()) <= 50
    for method in pages.methods():
        assert f"]({method.link})" in head, f"{method.title} is missing in the table of methods"


def test_links_between_files_lead_somewhere(pages, generated):
    for path in [*PAGES, *(ROOT / name for name in pages.INCLUDED)]:
        for target, _ in pages.LINK.findall(FENCE.sub("", path.read_text())):
            if "://" in target:
                continue
            there = (path.parent / target).resolve()
            address = os.path.relpath(there, DOCS)
            made = address in generated or there.with_suffix(".ipynb").is_file()
            assert there.exists() or (made and DOCS in path.parents), f"{path}: {target}"


def test_every_method_has_a_page(pages, generated):
    results = pages.measurements()
    index = generated["methods/index.md"]
    for method in pages.methods():
        page = generated[f"methods/{method.name}.md"]
        assert method.link and method.link in page and method.link in index
        assert method.recipes and method.text.splitlines()[-1] in page
        for recipe in method.recipes:
            assert recipe.command.startswith(f"jssl train --config=configs/{recipe.name}.py")
            assert recipe.command in page and recipe.code.rstrip().splitlines()[-1] in page
        own = [result for result in results if pages.method_of(result) == method.name]
        figures = [result for result in own if "plan" not in result]
        assert ("Not measured yet." in page) == (not figures and method.name != "simclr")
    assert "0.3340" in generated["methods/deepcluster_v2.md"]  # measured under its former name


def test_every_result_of_a_method_is_on_its_page(pages, generated):
    names = {method.name for method in pages.methods()}
    for result in pages.measurements():
        if pages.kind_of(result) and result.get("method") != "untrained":
            name = pages.method_of(result)
            assert name in names, result["command"]
            page = generated[f"methods/{name}.md"]
            assert result["commit"] in page and result["command"].split(" --")[0] in page


def test_every_command_and_flag_is_listed(generated):
    page = generated["reference/commands.md"]
    for name, command in arguments.COMMANDS.items():
        section = page.partition(f"## jssl {name}\n")[2].partition("\n## ")[0]
        assert command.help in section
        assert all(f"`--{flag}" in section for flag in command.flags)


def test_every_key_is_listed_with_its_meaning(generated, known_keys):
    rows = "\n".join(generated.values()).splitlines()
    for key in known_keys:
        own = [row for row in rows if row.startswith(f"| `{key}` |")]
        assert own and not any(row.endswith("|  |") for row in own), key


def test_every_exit_code_is_explained():
    from jssl import cli

    listed = re.findall(r"(?:codes: |; )(\d+) ", cli.__doc__ or "")
    page = (DOCS / "reference" / "exit_codes.md").read_text()
    assert len(listed) == 5 and all(f"| {code} |" in page for code in listed)
