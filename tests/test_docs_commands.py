"""The commands of the tutorial and of the how-to guides, run as they stand there, small.

Long: `pytest -m slow -n 0 tests/test_docs_commands.py -k gans`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, TINY, environment_with
from photographs import encoded
from PIL import Image
from trained import digits_run  # noqa: F401
from truths import rows, write_csv

from dasgm.store.records import read_lines

DOCS = ROOT / "docs"
LINE = re.compile(r"^(dasgm|python|find|mlflow|pip) ")
PAGES = ("tutorial/quickstart", *(f"howto/{name}" for name in ("data", "faults", "gans", "mlflow", "models", "sweeps")))
ELSEWHERE = {
    "howto/extending": "tests/dasgm/test_extending.py runs the page's files and its command",
    "howto/nasbench201": "test_a_comparison_with_a_table",
    "howto/paper": "full-size searches; tests/tuning runs the same commands small",
}
NOT_RUN = {
    "pip install": "it is what README's newcomer does",
    "python3 -m venv": "likewise",
    "mlflow ": "a server; tests/cluster/test_registry.py serves a model by the page's lines",
    "python -m cluster.tracking runs/mine --register": "likewise",
}
SMALL_TRAINING = ["--epochs=1", "--cells=3", "--channels=4", "--batch-size=16"]
SMALL = {
    "dasgm search": [*TINY, "--gan.warmup=3", "--gan.channels=4"],
    "dasgm pretrain": ["--gan.pretrain-iterations=4", "--gan.channels=4"],
    "dasgm evaluate torchvision:": ["--epochs=1", "--batch-size=16"],
    "dasgm evaluate": SMALL_TRAINING,
    "dasgm fit": [
        *("--search.method.epochs=1", "--search.batch-size=8", "--image-size=32", "--training.epochs=1"),
        *("--training.cells=3", "--training.channels=4", "--training.batch-size=16"),
    ],
    "python tuning/sweep.py": [*TINY, "--gan=none", "--num-trials=2"],
}
"""What makes a command that begins so small; the last of two values of an option counts."""


def blocks(page: str) -> list[str]:
    """The commands of a page: lines of blocks that are a shell's, or of no language."""
    text = (DOCS / f"{page}.md").read_text()
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", "").splitlines() if language in ("", "sh") else []
        found += [re.sub(r"\s+# .*$", "", line) for line in lines if LINE.match(line)]
    return found


def small(line: str) -> str:
    """The command with what makes it small, and without the brackets of what may be left out."""
    line = re.sub(r" \[.*?\]", "", line)
    key = next((key for key in SMALL if line.startswith(key)), "")
    return " ".join([line, *SMALL.get(key, [])])


def is_run(line: str) -> bool:
    return not line.startswith(tuple(NOT_RUN))


def test_every_page_is_accounted_for() -> None:
    found = {f"{page.parent.name}/{page.stem}" for part in ("tutorial", "howto") for page in (DOCS / part).glob("*.md")}
    assert found == {*PAGES, *ELSEWHERE}
    assert sum(is_run(line) for page in PAGES for line in blocks(page)) > 15


def digits(folder: Path, kind: str, counts: tuple[int, int]) -> None:
    """So many coloured pictures of 40 pixels for each of two classes."""
    for name, n, level in zip(("cat", "dog"), counts, (60, 200), strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            picture = Image.new("RGB", (40 + i % 3, 40), (level, 2 * i % 256, 255 - level))
            (folder / name / f"{i:03d}.{kind}").write_bytes(encoded(picture))


@pytest.fixture
def place(tmp_path: Path, digits_run: Path) -> Path:  # noqa: F811
    """A user's folder: the commands, what they name, and a trained network as runs/NAME."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "dasgm"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m dasgm "$@"\n')
    program.chmod(0o755)
    for name in ("tuning", "cluster"):
        (tmp_path / name).symlink_to(ROOT / name)
    digits(tmp_path / "PICTURES", "jpg", (40, 40))
    digits(tmp_path / "photographs", "jpg", (2, 1))
    digits(tmp_path / "holiday" / "may", "jpg", (1, 1))
    shutil.copy(tmp_path / "PICTURES" / "cat" / "000.jpg", tmp_path / "photograph.jpg")
    shutil.copytree(digits_run, tmp_path / "runs" / "NAME")
    write_csv(tmp_path / "FILE", rows())
    return tmp_path


def do(line: str, place: Path) -> None:
    path = os.pathsep.join((str(place / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-c", line], cwd=place, env=environment_with(PATH=path), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page(page: str, place: Path) -> None:
    for line in filter(is_run, blocks(page)):
        do(small(line), place)
    if page == "tutorial/quickstart":
        (code,) = re.findall(r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)
        subprocess.run([sys.executable, "-c", code], cwd=place, env=environment_with(), check=True)
    unexplained(place / "runs")


def unexplained(storage: Path) -> None:
    """Every metric and every file that the runs have is in the reference."""
    metrics, files = ((DOCS / "reference" / f"{name}.md").read_text() for name in ("metrics", "files"))
    runs = [path.parent for path in storage.rglob("run.json")]
    keys = {key for run in runs for row in read_lines(run / "metrics.jsonl") for key in row}
    assert runs and not {key for key in keys if f"`{key}`" not in metrics}
    patterns = [re.sub(r"[A-Z]{2,}", "*", word) for word in re.findall(r"`(\.?[\w./-]*\w)`", files)]
    patterns = [pattern for pattern in patterns if pattern[0] != "*"] + ["[0-9]*-*.safetensors"]
    odd = [
        path
        for run in runs
        for path in run.rglob("*")
        if path.is_file() and not any(path.match(pattern) for pattern in patterns)
    ]
    assert not odd


@pytest.mark.slow
def test_a_comparison_with_a_table(place: Path) -> None:
    """With --dry-run, as it stands on the page."""
    (line,) = blocks("howto/nasbench201")
    do(line, place)
