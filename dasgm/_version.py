"""The version and the commit that it is of, for those whom `dasgm/__init__.py` imports."""

from __future__ import annotations

import subprocess
from pathlib import Path

__version__ = "0.2.0"

NOTE = "_commit.txt"
"""Written into the package when it is built (setup.py)."""


def commit() -> str:
    """The commit that this source is of: git's in a checkout, with -dirty where files differ, else that which was noted
    when the package was built. Empty where neither is known."""
    folder = Path(__file__).resolve().parent
    if (folder.parent / ".git").exists():
        command = ["git", "-C", str(folder.parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""
    note = folder / NOTE
    return note.read_text().strip() if note.is_file() else ""
