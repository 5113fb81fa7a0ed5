"""What a function for Python refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def ensure_refused(mistake: Callable[[], Any], says: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By a ValueError of one line; nothing is printed, or written into the empty `folder` in which we are."""
    with pytest.raises(ValueError) as error:
        mistake()
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not list(folder.iterdir()) and capfd.readouterr() == ("", "")
