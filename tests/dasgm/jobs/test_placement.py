"""A search that goes on on another number of workers, and workers that do not agree."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from faults import config, outcome
from processes import begin, spawn
from warm import Warm

from cluster import job
from dasgm.config import override
from dasgm.jobs.search import main
from dasgm.jobs.session import Hooks
from dasgm.search import Search
from dasgm.store.records import read_lines
from dasgm.store.run import Run, state_of


def worker(rank: int, folder: str, workers: int, ends: int) -> None:
    """One of so many; all of them are gone, without a word, after epoch `ends`."""
    job.meet(f"{folder}/meet-{workers}-{ends}", rank, workers, "gloo")

    def report(row: dict[str, Any]) -> None:
        dist.barrier()
        if row["epoch"] == ends:
            os._exit(9)

    iterate, rates = Search.iterate, list[float]()

    def watched(self: Search) -> Any:
        rates[:] = self.W.lr, self.A.lr
        return iterate(self)

    Search.iterate = watched  # type: ignore[method-assign]
    run = Run(Path(folder) / "run")
    main(override(config(), {"threads": 1}), run.folder, Hooks(say=run.say, report=report))
    (Path(folder) / f"rates-{rank}.json").write_text(json.dumps(rates))


def odd_worker(rank: int, folder: str, workers: int, odd: int, value: float) -> None:
    """One of so many; in `odd`'s memory A becomes something else at the end of epoch 2."""
    job.meet(f"{folder}/meet-odd", rank, workers, "gloo")
    iterate = Search.iterate

    def moved(self: Search) -> Any:
        losses = iterate(self)
        if rank == odd and self.iteration == 2 * self.batches:
            next(iter(self.A.params.values())).data.fill_(value)
        return losses

    Search.iterate = moved  # type: ignore[method-assign]
    run = Run(Path(folder) / "run")
    with pytest.raises(RuntimeError, match=f"^epoch 2: worker {odd} holds another A than the others$"):
        main(override(config(), {"threads": 1}), run.folder, Hooks(say=run.say))


def on(warm: Warm, folder: Path, workers: int, ends: int = 0) -> None:
    if not ends:
        spawn(warm, worker, str(folder), workers, ends, nprocs=workers)
        return
    for process in begin(warm, worker, str(folder), workers, ends, nprocs=workers):
        assert process.wait() == 9, process.communicate()


@pytest.mark.faults
@pytest.mark.parametrize(("odd", "value"), [(0, math.nan), (2, 0.5)], ids=["NaN", "finite"])
def test_a_worker_that_holds_another_A_is_named_by_all_and_the_next_try_goes_on(
    tmp_path: Path, odd: int, value: float, warm: Warm
) -> None:
    (tmp_path / "run").mkdir()
    spawn(warm, odd_worker, str(tmp_path), 3, odd, value, nprocs=3)
    assert state_of(tmp_path / "run") == "interrupted"
    on(warm, tmp_path, 3)
    assert "going on after epoch 1" in (tmp_path / "run" / "log.txt").read_text()
    assert state_of(tmp_path / "run") == "finished"


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_search_on_two_workers_goes_on_on_one_and_on_four(tmp_path: Path, warm: Warm) -> None:
    for place in (tmp_path, tmp_path / "undisturbed"):
        (place / "run").mkdir(parents=True)
    on(warm, tmp_path / "undisturbed", 2)
    on(warm, tmp_path, 2, ends=1)
    first = read_lines(tmp_path / "run" / "metrics.jsonl")
    for workers in (1, 4, 2):
        folder = tmp_path / str(workers)
        shutil.copytree(tmp_path / "run", folder / "run")
        on(warm, folder, workers)
        rows, log = read_lines(folder / "run" / "metrics.jsonl"), (folder / "run" / "log.txt").read_text()
        assert [row["epoch"] for row in rows] == [1, 2, 3, 3] and rows[:1] == first
        assert "going on after epoch 1" in log and state_of(folder / "run") == "finished"
        line = f"it began on 2 worker(s) and goes on on {workers}: batches of 8 a worker"
        assert (line in log) == (workers != 2), log
        assert (outcome(folder / "run") == outcome(tmp_path / "undisturbed" / "run")) == (workers == 2)
        rates = json.loads((folder / "rates-0.json").read_text())
        low, high = config().classifier_lr_min, config().classifier_lr  # not rescaled: of the last of three epochs
        assert rates == pytest.approx([low + (high - low) * (1 + math.cos(math.pi * 2 / 3)) / 2, config().arch_lr])
        assert Run(folder / "run").about["mathematics"] == Run(tmp_path / "run").about["mathematics"]
