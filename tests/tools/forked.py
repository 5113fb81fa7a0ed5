"""Small searches that begin at once, and are to be killed: warm.py's commands.

python forked.py OVERRIDES FOLDER      begins or goes on with the quickstart, changed by OVERRIDES (JSON), in FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from warm import Command, Warm


def begin(warm: Warm, overrides: dict[str, Any], folder: Path) -> Command:
    """See `said` for what it says; its exit code is 130 where it was stopped."""
    return warm.start(__file__, json.dumps(overrides), str(folder))


def said(folder: Path) -> list[str]:
    """What all searches in a folder said."""
    log = folder.with_suffix(".log")
    return log.read_text().splitlines() if log.exists() else []


def _search(overrides: dict[str, Any], folder: Path) -> int:
    from dasgm.config import override
    from dasgm.jobs import warmup
    from dasgm.jobs.search import main
    from dasgm.jobs.session import Hooks, Interrupted
    from dasgm.measures import judge
    from dasgm.presets import preset

    judge.ITERATIONS = 20  # it is worth little
    warmup.EVERY, warmup.SHARE = 0.0, 1.0  # a checkpoint at almost every iteration
    with open(folder.with_suffix(".log"), "a", buffering=1) as log:
        hooks = Hooks(say=lambda line: print(line, file=log), stoppable=True)
        try:
            main(override(preset("quickstart").config, overrides), folder, hooks)
        except Interrupted as asked:
            print(f"stopped, {str(asked) or 'nothing'} begins anew", file=log)
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(_search(json.loads(sys.argv[1]), Path(sys.argv[2])))
