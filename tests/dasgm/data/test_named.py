"""What the name of a file, a folder or a pattern stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from dasgm.data._named import Unreadable, pictures

FILES = ("b.PNG", "a.jpg", "sub/c.webp", "sub/deep/d.gif", "sub/e.txt", ".git/f.png", "._g.jpg", "[x].png", "x.png")


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("")


def found(name: str | Path) -> tuple[list[str], list[str]]:
    lines: list[str] = []
    return [str(path) for path in pictures(name, lines.append)], lines


def test_a_file_stands_for_itself():
    for name in ("a.jpg", "sub/e.txt", "absent.png", "[x].png"):
        assert found(name) == ([name], [])


def test_a_folder_stands_for_the_pictures_below_it():
    names, lines = found(".")
    assert names == ["[x].png", "a.jpg", "b.PNG", "sub/c.webp", "sub/deep/d.gif", "x.png"]
    assert lines == [".: left out, as no pictures or as linked twice: 3"]
    Path("sub/link").symlink_to("deep")
    Path("sub/nowhere.png").symlink_to("absent.png")
    names = [one.path.name if isinstance(one, Unreadable) else one.name for one in pictures(Path("sub"))]
    assert names == ["c.webp", "d.gif", "nowhere.png"]  # a folder once, though a link leads to it


def test_wildcards_find_files_and_folders():
    assert found("*.jpg")[0] == ["a.jpg"]
    assert found("[ab].*")[0] == ["a.jpg", "b.PNG"]
    assert found("su?")[0] == ["sub/c.webp", "sub/deep/d.gif"]
    assert found("**/*.gif")[0] == ["sub/deep/d.gif"]
    assert found("sub/**")[0] == ["sub/c.webp", "sub/deep/d.gif", "sub/e.txt"]
    (none,) = pictures("*.tiff")
    assert isinstance(none, Unreadable) and "none that this pattern finds" in none.why


def test_an_empty_folder_is_named():
    Path("empty").mkdir()
    assert list(pictures("empty")) == [Unreadable(Path("empty"), "there are no pictures in this folder")]
