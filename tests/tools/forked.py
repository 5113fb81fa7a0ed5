"""Searches in processes of their own that begin at once: they are forked from one that has imported torch.

python forked.py      is that process; `Forked` asks it, by lines of JSON, to start one and to wait for one
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import dasgm


class Forked:
    """The process that the searches are forked from, as long as the block."""

    def __enter__(self) -> Forked:
        ours = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(Path(dasgm.__file__).parents[1])}
        self.process = subprocess.Popen(
            [sys.executable, __file__], env=os.environ | ours, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def start(self, overrides: dict[str, Any], folder: Path) -> int:
        """Begin or go on with the quickstart, changed, in a folder; the process's number. See `said`."""
        return self._ask({"overrides": overrides, "folder": str(folder)})

    def wait(self, pid: int) -> int:
        """Until a search ends: its exit code, 130 where it was stopped; -9 where it was killed."""
        return self._ask({"wait": pid})

    def _ask(self, request: dict[str, Any]) -> int:
        assert self.process.stdin and self.process.stdout
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


def said(folder: Path) -> list[str]:
    """What all searches in a folder said."""
    log = folder.with_suffix(".log")
    return log.read_text().splitlines() if log.exists() else []


def _search(config: Any, data: Any, folder: Path) -> int:
    from dasgm.jobs import warmup
    from dasgm.jobs.search import main
    from dasgm.jobs.session import Hooks, Interrupted
    from dasgm.measures import judge

    type(config.data).load = lambda *_: data  # decoded once
    judge.ITERATIONS = 20  # it is worth little
    warmup.EVERY, warmup.SHARE = 0.0, 1.0  # a checkpoint at almost every iteration
    with open(folder.with_suffix(".log"), "a", buffering=1) as log:
        hooks = Hooks(say=lambda line: print(line, file=log), stoppable=True)
        try:
            main(config, folder, hooks)
        except Interrupted as asked:
            print(f"stopped, {str(asked) or 'nothing'} begins anew", file=log)
            return 130
    return 0


def _serve() -> None:
    import matplotlib.pyplot  # noqa: F401  this and the next take long
    import torch._dynamo  # noqa: F401  by optimisers

    import dasgm.jobs.search  # noqa: F401
    from dasgm.config import override
    from dasgm.presets import preset

    loaded = cache(lambda data: data.load(None))
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
            continue
        config = override(preset("quickstart").config, asked["overrides"])
        data = loaded(config.data)
        if pid := os.fork():
            print(pid, flush=True)
            continue
        code = 1
        try:
            code = _search(config, data, Path(asked["folder"]))
        finally:
            os._exit(code)
    os._exit(0)  # without the seconds in which the interpreter takes torch apart


if __name__ == "__main__":
    _serve()
