"""Runs a command of ours in this process and writes down, as it runs, what can be seen from outside and of Ray.

python tests/tools/probed.py OUT sweep|search ARGUMENTS
"""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import psutil


def look() -> dict[str, Any]:
    """Our processes, where they listen, and of Ray the free CPUs and the placement groups that hold some."""
    me = psutil.Process()
    seen: dict[str, Any] = {"time": time.time(), "processes": [], "listening": [], "workers": [], "titles": []}
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.Error):
            name = " ".join(process.cmdline())
            connections = process.net_connections("inet")
            seen["processes"].append([process.pid, process.create_time()])
            seen["listening"] += [c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN]
            seen["titles"] += [name[:40]]
            seen["workers"] += [process.pid] if "ray::RayTrainWorker" in name else []
    if "ray.tune" in sys.modules or "ray.train" in sys.modules:
        with suppress(Exception):  # Ray is just coming or going
            import ray
            from ray.util import placement_group_table

            if not ray.is_initialized():  # looking would start one
                return seen
            groups = placement_group_table().items()
            held = {name: sum(bundle.get("CPU", 0) for bundle in g["bundles"].values()) for name, g in groups}
            seen["groups"] = [name for name, g in groups if g["state"] == "CREATED" and held[name]]
            seen["cpus"] = ray.cluster_resources()["CPU"]
            seen["free"] = ray.available_resources().get("CPU", 0.0)
    return seen


def watch(path: str) -> None:
    with open(path, "a") as file:
        while True:
            print(json.dumps(look()), file=file, flush=True)
            time.sleep(1)


if __name__ == "__main__":
    out, which, *words = sys.argv[1:]
    threading.Thread(target=watch, args=(out,), daemon=True).start()
    if which == "sweep":
        from tuning.sweep import main
    else:
        from cluster.search import main
    raise SystemExit(main(words))
