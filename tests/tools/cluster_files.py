"""The cluster files, filled in as a user would."""

from __future__ import annotations

from pathlib import Path

from commands import ROOT

from cluster import launcher

FILES = {name: ROOT / "cluster" / f"{name}.yaml" for name in ("gpu", "local")}
VALUES = {"<REGION>": "us-west-2", "<ZONES>": "us-west-2a", "<IMAGE>": "ami-0", "<SECURITY_GROUP>": "sg-0"}
VALUES |= {"<FILE_SYSTEM>": "fs-0", "<BUCKET>": "bucket", "<HEAD>": "10.0.0.1", "<WORKER>": "10.0.0.2"}
VALUES |= {"<USER>": "me", "<KEY_FILE>": "~/key", "<SHARED>": "/shared"}


def filled(name: str, path: Path, **changes: str) -> Path:
    """A file of ours with its placeholders filled in, and text replaced."""
    text = FILES[name].read_text()
    for old, new in (VALUES | changes).items():
        text = text.replace(old, new)
    path.write_text(text)
    return path


def failures(path: Path) -> list[str]:
    return [line for good, line in launcher.look_at_yaml(path) if good is False]
