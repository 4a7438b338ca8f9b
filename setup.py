"""Puts the recipes of `configs/` into a wheel as the package ``jssl.configs``.

pyproject.toml has everything else. A mapping of `configs` there would change the form of an
editable install, see the note in that file.
"""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Copies the recipes beside the modules, but not for an editable install."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        target = pathlib.Path(self.build_lib) / "jssl" / "configs"
        target.mkdir(parents=True, exist_ok=True)
        (target / "__init__.py").write_text('"""The recipes of jssl."""\n')
        for recipe in sorted(pathlib.Path("configs").glob("*.py")):
            shutil.copy(recipe, target)


setup(cmdclass={"build_py": BuildWithRecipes})
