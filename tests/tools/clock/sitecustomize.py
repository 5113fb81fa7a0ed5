"""On the path of a command of ours and of all its processes: their clock is so many seconds behind as $CLOCK says."""

import os
import time
from pathlib import Path

FILE, REAL = Path(os.environ.get("CLOCK", "/nowhere")), time.time


def behind() -> float:
    """The time, set back by what the file holds, if it is there."""
    try:
        return REAL() - float(FILE.read_text())
    except (OSError, ValueError):
        return REAL()


time.time = behind
