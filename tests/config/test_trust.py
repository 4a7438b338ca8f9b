"""What is read chooses no code: stored methods, the search path, and what a recipe may name."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT
from helpers import config_json, image_info

from jssl import cli, config, methods
from jssl.config import Config, UserError, load, trust
from jssl.workdir import run_folder

FORK = "from jssl.methods.simclr import build  # noqa: F401\n"
MARK = "import pathlib\npathlib.Path({!r}).write_text('it ran')\n"
RECIPE = "from jssl.config import load\ndef get_config(variant=''):\n    c = load({!r})\n"
RECIPE += "    with c.unlocked():\n        c.method = {!r}\n    return c\n"
DIGITS = str(ROOT / "configs" / "simclr_digits.py:tiny")


@pytest.fixture(autouse=True)
def search_path(monkeypatch):
    """Every test has its own search path and its own memory of what was named."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(trust, "_named", set())
    monkeypatch.setattr(trust, "_folders", [])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("my_fork", "evil", "inner"):
            del sys.modules[name]


def stored(folder, method) -> str:
    """A workdir whose run has this method."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = load(DIGITS)
    with tree.unlocked():
        tree.method = method
    (folder / "config.json").write_text(config_json(tree))
    return str(folder)


def package(folder, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").touch()
    (folder / name).write_text(text)


@pytest.mark.parametrize("method", ["evil.m", "unittest.__main__", "jssl.cli", "this.", "..evil"])
def test_a_stored_method_is_not_imported(method, tmp_path):
    folder = stored(tmp_path / "w", method)
    with pytest.raises(
        UserError, match=r"chooses no code; name the recipe .* --config=.* --method="
    ):
        assert run_folder.RunFolder(folder).config


def test_a_stored_method_that_the_users_recipe_names(tmp_path):
    """The cure of the message above; another method of the same fork stays unknown."""
    package(tmp_path / "my_fork", "mine.py", FORK)
    (tmp_path / "recipe.py").write_text(RECIPE.format(DIGITS, "my_fork.mine"))
    load(str(tmp_path / "recipe.py"))
    tree = run_folder.RunFolder(stored(tmp_path / "w", "my_fork.mine")).config
    assert methods.load(Config(tree), image_info()).loss
    with pytest.raises(UserError, match="chooses no code"):
        assert run_folder.RunFolder(stored(tmp_path / "v", "my_fork.other")).config


def test_eval_runs_the_recipe_that_it_is_given(tmp_path, capfd):
    package(tmp_path / "my_fork", "mine.py", FORK)
    (tmp_path / "recipe.py").write_text(RECIPE.format(DIGITS, "my_fork.mine"))
    words = ["eval", f"--workdir={stored(tmp_path / 'w', 'my_fork.mine')}"]
    assert cli.main(words) == 2
    assert "chooses no code" in capfd.readouterr().err
    assert cli.main([*words, f"--config={tmp_path}/recipe.py"]) == 2
    assert "holds no checkpoint yet" in capfd.readouterr().err, "its method was built"


@pytest.mark.parametrize("method", ["a/b", "../evil", "x-y.z", ".mine", "simclr2", "", "a b", "os"])
def test_a_method_that_is_none(method):
    with pytest.raises(UserError, match=r"config\.method=.*(no name of a module|unknown)"):
        methods.module(method)


def test_a_fork_with_faults_is_one_line(tmp_path):
    package(tmp_path / "my_fork", "lacks.py", "import no_such_package_anywhere\n")
    package(tmp_path / "my_fork", "broken.py", "def build(:\n")
    package(tmp_path / "my_fork", "empty.py", "")
    sys.path.append(str(tmp_path))
    for name, words in (
        ("lacks", "imports 'no_such_package_anywhere', which is not there"),
        ("broken", "line 1 is not Python"),
        ("empty", r"has no build\(config, data_info\)"),
        ("absent", "not found; put it beside the recipe"),
    ):
        with pytest.raises(UserError, match=words):
            methods.module(f"my_fork.{name}")


def test_the_folder_of_a_recipe_and_of_its_package(tmp_path):
    """A recipe beside its package, and one in the package."""
    package(tmp_path / "a" / "my_fork", "mine.py", FORK)
    (tmp_path / "a" / "my_fork" / "recipe.py").write_text(RECIPE.format(DIGITS, "my_fork.mine"))
    before = list(sys.path)
    tree = load(str(tmp_path / "a" / "my_fork" / "recipe.py"))
    assert methods.module(tree.method).build
    added = [str(tmp_path / "a" / "my_fork"), str(tmp_path / "a")]
    load(str(tmp_path / "a" / "my_fork" / "recipe.py"))
    assert sys.path[: len(before)] == before, "behind all else"
    new = [one for one in sys.path[len(before) :] if one != str(ROOT / "configs")]
    assert new == added, "and nothing twice"


def test_the_current_folder_is_not_searched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    sys.path[:0] = ["", ".", str(tmp_path), "relative"]
    trust.leave_current_folder()
    assert not {"", ".", str(tmp_path), "relative"} & set(sys.path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", "/elsewhere"]))
    sys.path.insert(0, str(tmp_path))  # as Python writes "."
    trust.leave_current_folder()
    assert str(tmp_path) not in sys.path
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # the user wrote this very folder
    sys.path.insert(0, str(tmp_path))
    trust.leave_current_folder()
    assert str(tmp_path) in sys.path


def test_the_folder_of_a_recipe_stays_and_so_does_that_of_jssl(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    trust.grant(tmp_path / "recipe.py")
    trust.leave_current_folder()
    assert str(tmp_path) in sys.path
    monkeypatch.chdir(trust.HERE)
    sys.path.insert(0, trust.HERE)
    trust.leave_current_folder()
    assert trust.HERE in sys.path


@pytest.mark.parametrize("way", ["module", "path", "recipe"])
def test_an_untrusted_workdir_executes_nothing(way, tmp_path):
    """The command in the folder of somebody else's run, which has a method of its own and modules
    that are named as those of libraries. A marker file would show that one of them ran."""
    work, marker = tmp_path / "w", tmp_path / "marker"
    stored(work, "evil.m")
    mark = MARK.format(str(marker))
    package(work / "evil", "m.py", mark + FORK)
    (work / "evil" / "__init__.py").write_text(mark)
    for name in ("argparse", "numpy", "tensorboardX", "my_fork"):
        (work / f"{name}.py").write_text(mark)
    start = {
        "module": ["-m", "jssl.cli"],
        "path": ["-P", "-c", "import sys, jssl.cli; sys.exit(jssl.cli.main())"],
        "recipe": ["-m", "jssl.cli"],
    }[way]
    words = ["eval", "--workdir=."]
    if way == "recipe":  # the user's own fork has the name of a module in the folder
        package(tmp_path / "mine" / "my_fork", "mine.py", FORK)
        (tmp_path / "mine" / "recipe.py").write_text(RECIPE.format(DIGITS, "my_fork.mine"))
        stored(work, "my_fork.mine")
        words.append(f"--config={tmp_path}/mine/recipe.py")
    env = {**os.environ, "PYTHONPATH": trust.HERE}
    if way == "path":
        env["PYTHONPATH"] = os.pathsep.join([trust.HERE, "."])
    done = subprocess.run([sys.executable, *start, *words], env=env, cwd=work, capture_output=True)
    said = done.stderr.decode()
    expected = "holds no checkpoint yet" if way == "recipe" else "chooses no code"
    assert done.returncode == 2 and expected in said, said[-2000:]
    assert not marker.exists()


def test_recipes_that_do_anything(tmp_path):
    """Whatever a recipe does is a config or one line."""
    for i, (text, words) in enumerate((
        ("def get_config():\n    return None\n", "returns NoneType and no ConfigDict"),
        ("def get_config():\n    return {'a': 1}\n", "returns dict and no ConfigDict"),
        ("def get_config(v):\n    x = 1\n    return {}['a']\n", "line 3: KeyError"),
        ("import no_such_package_anywhere\n", "line 1: ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "line 1: SystemExit: 3"),
        ("raise ValueError('two\\nlines')\n", "ValueError: two lines"),
        ("get_config = 3\n", "get_config is no function"),
        ("def get_config(a, b):\n    return 1\n", "TypeError"),
        ("x = '\0'\n", "null bytes|is not Python"),
        ("from jssl.recipes import recipe\ndef get_config(v):\n"
         "    return recipe(v, {1: 2})\n", "a key of its config is not a string"),
    )):  # fmt: skip
        path = tmp_path / f"r{i}.py"
        path.write_text(text)
        with pytest.raises(UserError, match=words) as error:
            load(str(path))
        assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_recipes_without_variants_and_odd_paths(tmp_path, monkeypatch):
    text = "from jssl.recipes import recipe\ndef get_config():\n    return recipe('', {})\n"
    (tmp_path / "a:b").mkdir()
    (tmp_path / "a:b" / "r.py").write_text(text)
    assert load(f"{tmp_path}/a:b/r.py").seed == 0
    with pytest.raises(UserError, match="has no variants"):
        load(f"{tmp_path}/a:b/r.py:tiny")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~/a:b/r.py").seed == 0
    with pytest.raises(UserError, match="not a file"):
        load("~nobody-of-this-name/r.py")
    (tmp_path / "helper.py").write_text("SEED = 7\n")
    (tmp_path / "s.py").write_text(
        "from helper import SEED\nfrom jssl.recipes import recipe\n"
        "def get_config(*given):\n    return recipe('', dict(seed=SEED))\n"
    )
    assert config.load(f"{tmp_path}/s.py").seed == 7, "a recipe may import what lies beside it"
