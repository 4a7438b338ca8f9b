"""What is said of optional packages, and how the package is found once it is installed."""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

from jssl import errors


def test_the_command_fits_how_jssl_was_installed(monkeypatch, tmp_path):
    words = errors.install("plan")
    assert words.startswith(f"{sys.executable} -m pip install -e ")
    assert words.endswith(f"{ROOT.resolve()}[plan]'") or words.endswith(f"{ROOT.resolve()}[plan]")
    monkeypatch.setattr(errors, "ROOT", tmp_path)
    stored = type("D", (), {"read_text": lambda self, name: None})()
    monkeypatch.setattr(errors.metadata, "distribution", lambda name: stored)
    assert errors.install("wandb") == f"{sys.executable} -m pip install 'jssl[wandb]'"


def test_every_message_uses_it_and_every_extra_exists():
    known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.M)
    for path in (ROOT / "jssl").rglob("*.py"):
        text = path.read_text()
        if path.name != "errors.py":
            assert "pip install 'jssl[" not in text, path
        for extra in re.findall(r"errors\.install\(['\"](\w+)['\"]\)", text):
            assert extra in known, path


def test_an_editable_install_is_found_beside_the_clone(tmp_path):
    """The clone is named like the package, and the current folder, which holds it, comes first."""
    pytest.importorskip("setuptools", reason="builds the wheel of an editable install")
    pytest.importorskip("wheel", reason="older setuptools need it; newer ones bring it")
    clone = tmp_path / "jssl"
    clone.mkdir()
    shutil.copy(ROOT / "README.md", clone)
    text = (ROOT / "pyproject.toml").read_text()
    old = re.sub(r"(?m)^license = .*\n", "", text)  # setuptools before 77 refuse its new form
    (clone / "pyproject.toml").write_text(old)
    (clone / "jssl").mkdir()
    shutil.copy(ROOT / "jssl" / "__init__.py", clone / "jssl")
    code = "import sys; from setuptools.build_meta import build_editable as b; b(sys.argv[1])"
    made = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=clone, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    site = str(tmp_path / "site")
    code = f"import site; site.addsitedir({site!r}); import jssl; print(jssl.__file__)"
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(clone / "jssl" / "__init__.py"), done.stderr


@pytest.mark.parametrize("script", ["gpu_host.sh", "slurm.sbatch"])
def test_launchers_find_the_installation_of_the_checkout(tmp_path, script):
    for folder in ("launch", ".venv/bin", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "launch" / script, tmp_path / "launch")
    for name, text in (
        (".venv/bin/jssl", 'echo own "$@"'),
        ("bin/jssl", 'echo path "$@"'),
        ("bin/srun", 'shift; exec "$@"'),
    ):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path)}

    def run(**more):
        return subprocess.run(
            ["bash", tmp_path / "launch" / script, "--workdir=a"],
            env=env | {"SLURM_JOB_ID": "1"} | more, cwd="/", capture_output=True, text=True,
        ).stdout  # fmt: skip

    assert run() == "own train --workdir=a\n"
    assert run(JSSL=f"{tmp_path}/bin/jssl") == "path train --workdir=a\n"
    (tmp_path / ".venv/bin/jssl").unlink()
    assert run() == "path train --workdir=a\n"
