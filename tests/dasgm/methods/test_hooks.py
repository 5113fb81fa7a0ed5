"""The hooks of the methods in a search: where Algorithm 1 calls them, what they change there, and what they leave."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dasgm.config import override
from dasgm.genotype import KNOWN
from dasgm.jobs.search import Hooks, main
from dasgm.methods import darts
from dasgm.store.records import read_lines
from dasgm.store.tensors import packed, unpacked
from dasgm.testing._plugins import small_search

TINY: dict[str, Any] = {"epochs": 2, "cells": 3, "channels": 4}


@dataclass(frozen=True)
class Noting(darts.Config):
    """Notes each epoch, weighs `none` by how many there were, stops after the second, and gives a known genotype."""

    def times(self, stage: Any, epoch: int, memory: Any) -> Any:
        return {"count": len(memory.get("epochs", ())), "row": [float(epoch), 1.0]}

    def after_epoch(self, view: Any, memory: Any) -> str:
        memory.setdefault("epochs", []).append((view.epoch, view.metrics["val/accuracy"]))
        assert len(view.relaxation.cells[0]) == view.space.edges and view.stage.index == 0
        return "enough was noted" if len(memory["epochs"]) == 2 else ""

    def genotype(self, space: Any, stage: Any, relaxation: Any, memory: Any = None) -> Any:
        return KNOWN["DARTS_V1" if len(memory.get("epochs", ())) < 2 else "DARTS_V2"]


def test_what_a_method_keeps_is_in_the_checkpoint(tmp_path: Any) -> None:
    search = small_search(method=Noting(**TINY))
    search.method.end_epoch(0, search.relaxation(), {"val/accuracy": 0.1})
    search.schedule()
    place = search.method.times["row"].data_ptr()
    search.left = 1
    search.schedule()
    assert search.method.times["row"].data_ptr() == place, "a CUDA graph reads there"
    (tmp_path / "state").write_bytes(packed(search.state_dict()))
    again = small_search(method=Noting(**TINY))
    again.load_state_dict(unpacked(tmp_path / "state"))
    for one in (search, again):
        assert one.method.memory == {"epochs": [[0, 0.1]]}
        assert {name: t.tolist() for name, t in one.method.times.items()} == {"count": 1.0, "row": [1.0, 1.0]}


def test_a_method_may_end_a_stage_and_choose_the_genotype(tmp_path: Any) -> None:
    config, said = small_search(method=replace(Noting(**TINY), epochs=4)).config, list[str]()
    config = override(config, {"proxy.epochs": 0, "data.limit": 80, "pictures_every": 9})
    row = main(config, tmp_path / "run", Hooks(say=said.append))
    assert "stopped early after epoch 2: enough was noted" in said and row["epoch"] == 2
    assert len(read_lines(tmp_path / "run" / "metrics.jsonl")) == 3
    assert (tmp_path / "run" / "genotype.json").read_text() == KNOWN["DARTS_V2"].to_json()
    assert main(config, tmp_path / "run", Hooks(say=said.append)) == row
