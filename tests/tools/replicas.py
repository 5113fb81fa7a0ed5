"""A bucket for tests, machines that share it, and what a search leaves behind in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from buckets import Server, serve

from dasgm.store.run import Run

server = pytest.fixture(scope="module")(serve)


@pytest.fixture
def machine(server: Server, tmp_path: Path, monkeypatch):
    """Makes this process one on a machine of that name: `machine("a")`."""

    def be(name: str, age: float = 60) -> None:
        for variable, value in server.machine(tmp_path / name, age).items():
            monkeypatch.setenv(variable, value)

    be("a")
    return be


def files(folder: Path) -> dict[str, bytes]:
    """What of a folder is to be alike everywhere."""
    found = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".") and "lock" not in p.name]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def work(run: Run, epochs: range) -> None:
    """What a search leaves behind."""
    for epoch in epochs:
        run.picture("cells", epoch).write_bytes(b"picture %d" % epoch)
        run.log("metrics", {"epoch": epoch, "phase": "search 1", "time": 1e9 + epoch})
        run.save({"epoch": epoch}, epoch, 2, best=epoch == 1)


SEARCH = ["search", "--gan=none", "--name=x", "--method.epochs=4", "--method.arch-start-epoch=3", "--method.channels=2"]
SEARCH += ["--batch-size=8", "--proxy.epochs=1", "--proxy.channels=4", "--data.limit=160", "--pictures-every=9"]
