"""A release: its version stands once, and what is built installs and runs in a fresh environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from commands import ROOT, TINY

import dasgm
from dasgm.cli.main import main

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CLASSIFIER = "Programming Language :: Python :: "


def test_the_version_stands_in_one_place_and_elsewhere_follows(capsys: pytest.CaptureFixture[str]) -> None:
    assert PROJECT["dynamic"] == ["version"]
    released = re.findall(r"^## (\d[\w.]*) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released[0] == dasgm.__version__ and f"version: {dasgm.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert main(["--version"]) == 0
    said = capsys.readouterr().out
    import torch

    assert said.startswith(f"dasgm {dasgm.__version__} (commit ")
    assert f", torch {torch.__version__.partition('+')[0]}, Python {sys.version.split()[0]}" in said
    if (ROOT / ".git").exists():
        head = subprocess.run(
            ["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout
        assert f"(commit {head[:12]}" in said


def test_the_metadata_name_the_pythons_that_are_tested() -> None:
    """Those of CONTRIBUTING.md's table, and this one is of them."""
    named = {one.removeprefix(CLASSIFIER) for one in PROJECT["classifiers"] if one.startswith(CLASSIFIER)}
    table = dict(re.findall(r"^\| (3\.\d+) \| (tested|untested) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.M))
    assert named == {python for python, state in table.items() if state == "tested"}
    assert f"3.{sys.version_info.minor}" in named


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist, and the wheel that is built of it, from a clone: nothing is left in the checkout."""
    place = tmp_path_factory.mktemp("built")
    subprocess.run(["git", "clone", "--quiet", ROOT, place / "source"], check=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", place, place / "source"],
        check=True,
        capture_output=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    return place


def head() -> str:
    """The commit of the checkout, as far as it is noted."""
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return done.stdout[:12]


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


@pytest.mark.slow
def test_both_forms_have_all_files_and_the_commit(built: Path) -> None:
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout.split()
    wanted = {name for name in tracked if name.split("/")[0] in ("dasgm", "cluster", "tuning")}
    with tarfile.open(one(built, "dasgm-*.tar.gz")) as sdist, zipfile.ZipFile(one(built, "*.whl")) as wheel:
        source = {name.partition("/")[2] for name in sdist.getnames()}
        installed = set(wheel.namelist())
        noted = wheel.read("dasgm/_commit.txt").decode()
    plain = {name for name in wanted if name.endswith((".py", ".typed", ".jinja", ".parquet"))}
    assert not plain - source and not plain - installed
    assert {"README.md", "LICENSE", "CHANGELOG.md", "constraints.txt"} <= source
    assert not [name for name in installed if name.startswith(("tests", "benchmarks"))]
    assert noted.strip() == head()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("form", "command"),
    [
        ("*.whl", ["dasgm-sweep", "--num-trials=1", "--max-concurrent=1"]),
        ("dasgm-*.tar.gz", ["dasgm", "search", "--gan=none"]),
    ],
)
def test_what_is_built_runs_in_a_fresh_environment(built: Path, form: str, command: list[str], tmp_path: Path) -> None:
    """The wheel makes a tiny sweep of the quickstart, the sdist a search of it, with the packages of this environment
    but for its dasgm."""
    python, scripts = fresh(tmp_path / "venv")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    isolated = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    isolated |= {"OMP_NUM_THREADS": "1", "PATH": f"{scripts}:{os.environ['PATH']}"}

    def run(*words: str | Path) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=isolated, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(*install, "--no-build-isolation", one(built, form))
    assert run(python, "-c", "import dasgm; print(dasgm.__file__)").startswith(str(tmp_path / "venv"))
    said = run(scripts / "dasgm", "--version")
    assert re.fullmatch(rf"dasgm {re.escape(dasgm.__version__)} \(commit [0-9a-f]{{12}}\), torch .*\n", said)
    run(scripts / command[0], *command[1:], *TINY)
    assert (one(tmp_path, "runs/quickstart-digits-s0") / "report.html").is_file()


def fresh(place: Path) -> tuple[Path, Path]:
    """(python, folder of scripts) of a new environment that sees the packages of this one, but no editable ones."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    scripts = place / "bin"
    own = subprocess.run(
        [scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    theirs = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (Path(own) / "ours.pth").write_text("".join(f"{path}\n" for path in theirs))
    return scripts / "python", scripts
