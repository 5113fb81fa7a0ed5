"""python matrix.py FOLDER PRESET GAN: a search of each order and hypergradient, through all stages, and its checkpoint
from the GPU to the CPU and back; what is on another device than it should be."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import inside
import torch

from dasgm.search import Search
from dasgm.store.tensors import packed, unpacked

CPU, GPU = {"device": "cpu"}, {}


def astray(search: Any, kind: str) -> list[str]:
    """Weights, buffers and moments of an optimiser that are on another kind of device; Adam's `step` may be."""
    found = []
    for name, player in search.players.items():
        tensors = {**player.params, **player.buffers}
        for number, state in enumerate(player.optimizer.state.values() if player.optimizer else ()):
            moments = {k: v for k, v in state.items() if isinstance(v, torch.Tensor) and k != "step"}
            tensors |= {f"{number}.{k}": v for k, v in moments.items()}
        found += [f"{name}.{key} on {t.device}" for key, t in tensors.items() if t.device.type != kind]
    return found


def iterated(search: Any) -> None:
    search.left = max(1, search.stage.epochs - search.stage.arch_start_epoch)
    search.schedule()
    search.iterate()


def moved(search: Any, images: Any, path: Path) -> Any:
    """The search of a checkpoint, on the device of these images."""
    path.write_bytes(packed(search.state_dict()))
    other = Search(search.config, images)
    other.load_state_dict(unpacked(path))
    return other


def main(folder: str, preset: str, gan: str) -> None:
    there, here, found = inside.data(), inside.data(**CPU), {}
    for order, hypergradient in product(("first", "second"), ("difference", "exact")):
        changes = {"gan": gan, "order": order, "hypergradient": hypergradient}
        channels = 16 if preset == "dasgm-pcdarts" else 8
        search = inside.search(there, preset, method__channels=channels, **changes)
        for stage in search.config.stages:
            search.enter(stage)
            iterated(search)
        wrong = astray(search, "cuda")
        graphed = inside.search(there, preset, method__channels=channels, cuda_graph="on", **changes)
        for _ in range(4):
            graphed.iterate()
        assert graphed.iterations.graphs and graphed.iteration == 4
        search.accuracy(there.J2[:64])
        search.genotype()
        if hypergradient == "exact":
            search.hessian(signed=preset == "dasgm-rdarts")
        # not iterated on the CPU: the numbers of the null GPU are none
        on_cpu = moved(search, here, Path(folder) / "state")
        back = moved(on_cpu, there, Path(folder) / "state")
        iterated(back)
        wrong += astray(on_cpu, "cpu") + astray(back, "cuda")
        found[f"{order}, {hypergradient}"] = wrong
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
