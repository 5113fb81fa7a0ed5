"""Notes in what is built which commit it is of. Everything else is in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

version = runpy.run_path(str(Path(__file__).resolve().parent / "dasgm" / "_version.py"))


def note(package):
    if commit := version["commit"]():
        (Path(package) / version["NOTE"]).write_text(f"{commit}\n")


class Build(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:
            note(Path(self.build_lib) / "dasgm")


class Source(sdist):
    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        note(Path(base_dir) / "dasgm")


setup(cmdclass={"build_py": Build, "sdist": Source})
