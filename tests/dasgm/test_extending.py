"""docs/howto/extending.md: its files, installed as the page says, pass the conformance suites and make a search."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from commands import ROOT

from dasgm import plugins
from dasgm.gans import biggan
from dasgm.store.records import read_json, read_lines

PAGE = (ROOT / "docs" / "howto" / "extending.md").read_text()
FILES = dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's package, and the record that pip would write of it."""
    folder = tmp_path_factory.mktemp("extending")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    record = folder / "my_plugins-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {module}\n" for key, module in found.items()) for group, found in groups
    ]
    (record / "entry_points.txt").write_text("\n".join(lines))
    return folder


def run(folder: Path, *words: str) -> str:
    path = os.pathsep.join((str(folder), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_the_page_has_a_plug_in_of_each_kind(installed: Path) -> None:
    assert len(FILES) == 6 and "```python" not in re.sub(r"^`[\w./]+`:\n\n```python", "", PAGE, flags=re.MULTILINE)
    said = run(installed, "dasgm", "search", "--help")
    assert all(key in said for key in ("lsgan", "halving", "stripes"))


def test_the_plug_ins_of_the_page_pass_the_suites(installed: Path) -> None:
    said = run(installed, "pytest", "-q", "-p", "no:cacheprovider", "test_plugins.py")
    assert re.search(r"^\d\d passed", said, re.MULTILINE), said


@pytest.mark.slow
def test_a_search_with_the_plug_ins_of_the_page(installed: Path) -> None:
    (command,) = re.findall(r"^dasgm (search .*)$", PAGE, re.MULTILINE)
    run(installed, "dasgm", *command.split(), "--name", "run")
    ran = read_json(installed / "runs" / "run" / "config.json")
    assert [ran[part]["key"] for part in ("data", "method", "gan")] == ["stripes", "halving", "lsgan"]
    assert [row["phase"] for row in read_lines(installed / "runs" / "run" / "metrics.jsonl")][:2] == [
        "search 1",
        "search 2",
    ]
    assert (installed / "runs" / "run" / "genotype.json").is_file()


def test_a_wrong_registration_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "odd-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Name: odd\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text("[dasgm.gans]\nodd = away.other\ngone = away.gone\nbiggan = away.biggan\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins._modules.cache_clear()
    try:
        assert {"odd", "gone", "biggan"} <= {*plugins.keys("gans")}
        assert plugins.plugin("gans", "biggan") is biggan.Config, "a file of dasgm is never replaced"
        for key, says in (("odd", "away.other: expected a module called odd"), ("gone", "No module named 'away'")):
            with pytest.raises(ValueError, match=rf"^GAN '{key}'[^\n]*{says}[^\n]*$"):
                plugins.plugin("gans", key)
    finally:
        plugins._modules.cache_clear()
