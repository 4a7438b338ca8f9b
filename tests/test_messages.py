"""What a message says can be pasted: every key and flag that it names exists, and is written whole.

The strings are read from the source code, so that messages count that no other test provokes.
"""

import ast
import re

import pytest
from conftest import ROOT, recipes

from jssl import config
from jssl.commands import arguments
from jssl.config import reference

FILES = sorted((ROOT / "jssl").rglob("*.py"))
OTHERS = {"help", "version", "post", "shm-size"}  # flags of every command, and of other programs


@pytest.fixture(scope="module")
def keys():
    """The keys of all recipes, and those that their methods and networks take, as "optim.lr"."""
    found = {"model.name"}
    for recipe in recipes():
        for section, kinds in reference.section_kinds(config.load(recipe)).items():
            found |= {f"{section}.{key}" if section else key for key in kinds}
            found.add(section)
    return found


def strings(path):
    """(line, text) of all strings of a module but docstrings; "…" for what is filled in."""
    tree = ast.parse(path.read_text())
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body
        if isinstance(node.body[0], ast.Expr)
    }
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in docs and id(node) not in inside:
                yield node.lineno, node.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_keys_are_written_whole(path, keys):
    """Not "set data.workers=0", but "set --config.data.workers=0"."""
    for line, text in strings(path):
        for found in re.finditer(r"(?<![\w./…])(?:config\.)?(\w+\.\w+)=", text):
            if found[1] in keys and text != found[0]:
                written = text[: found.start()] + found[0].removesuffix(found[1] + "=")
                assert written.endswith("--config."), f"{path}:{line}: {text!r}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_keys_and_flags_of_messages_exist(path, keys):
    flags = {flag for command in arguments.COMMANDS.values() for flag in command.flags} | OTHERS
    for line, text in strings(path):
        for flag in re.findall(r"(?<![\w-])--([a-z][a-z-]*[a-z])(?![\w.])", text):
            assert flag in flags, f"{path}:{line}: {text!r}"
        for key in re.findall(r"--config\.((?:[a-z]\w*\.)?[a-z]\w*)(?![\w.…])", text):
            assert key in keys, f"{path}:{line}: {text!r}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_config_error_names_a_key_or_a_flag(path, keys):
    flags = {flag for command in arguments.COMMANDS.values() for flag in command.flags}
    for node in ast.walk(ast.parse(path.read_text())):
        named = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ConfigError"
        if named and isinstance(node.args[0], ast.Constant):
            key = node.args[0].value
            whole = key.removeprefix("config.")
            good = whole in keys if key.startswith("config.") else key in flags
            assert good, f"{path}:{node.lineno}: {key!r}"
