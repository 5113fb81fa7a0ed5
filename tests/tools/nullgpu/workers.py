"""python workers.py FOLDER: two workers with a GPU each, joined by NCCL and gloo as Ray Train's are, and a search."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import inside
import torch
import torch.distributed as dist
import torch.multiprocessing

from cluster.job import meet
from dasgm.distributed import average, barrier, broadcast, disagreeing, ready


def timeouts() -> list[float]:
    """Minutes after which a message of each backend fails."""
    group: Any = dist.distributed_c10d._get_default_group()
    backends = (group._get_backend(torch.device(kind)) for kind in ("cpu", "cuda"))
    return [backend.options._timeout.total_seconds() / 60 for backend in backends]


def work(rank: int, folder: str) -> None:
    torch.cuda.set_device(rank)
    meet(f"{folder}/meeting", rank, 2, "cpu:gloo,cuda:nccl")
    ready()
    barrier()
    found: dict[str, Any] = {"timeouts": timeouts()}
    average([torch.ones(1, device="cuda")])  # joins the GPUs
    before = inside.counters()["nccl"]
    average([torch.ones(5, device="cuda"), torch.ones(3, 2, device="cuda")])
    found["messages"] = inside.counters()["nccl"] - before
    average([torch.ones(5, dtype=torch.float64)])
    found["agree"] = disagreeing([torch.ones(3, device="cuda")])
    for synchronised, hypergradient in ((False, "difference"), (True, "difference"), (True, "exact")):
        search = inside.search(gan="biggan", sync_batch_norm=synchronised, hypergradient=hypergradient)
        search.load_state_dict(broadcast(search.state_dict()))
        search.iterate()
        search.accuracy(search.data.J2[:64])
    search.hessian()
    found["device"] = sorted({str(t.device) for player in search.players.values() for t in player.params.values()})
    found["launches"] = inside.count(search.iterate)["nccl"]
    dist.destroy_process_group()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    place = sys.argv[1]
    torch.multiprocessing.spawn(work, (place,), nprocs=2)
    print(json.dumps([json.loads(Path(place, f"{rank}.json").read_text()) for rank in (0, 1)]))
