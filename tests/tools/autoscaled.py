"""Machines of cluster/gpu.yaml come from zero for a sweep, and go: run as root in namespaces of its own (apart.py).

python tests/tools/autoscaled.py FOLDER VENV      FOLDER is scratch; what Ray's state showed goes to FOLDER/result.json.

Ray's fake machines stand for EC2's: raylets on this host that have what the file declares, 8 GPUs too, which a search
holds and does not find, so that it runs on the CPU. The rest is the file's: what the head is told, its environment, the
autoscaler (version 2, as Ray's launcher has it).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from apart import left, run, settle
from commands import ROOT, TINY
from patience import now
from photographs import digit_pictures, write_folder

IDLE = 40
"""Seconds after which a machine goes."""
ASKED = 200
"""Seconds for which Ray Train asks for a search's machine, once the search was stopped."""
SMALL = 80_000_000
"""Bytes of a machine's object store."""


def fake(file: dict[str, Any]) -> dict[str, Any]:
    """gpu.yaml with Ray's fake machines for AWS's, and less patience with idle ones."""
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_TYPE

    kinds = {
        name: kind | {"node_config": {}, "resources": kind["resources"] | {"object_store_memory": SMALL}}
        for name, kind in file["available_node_types"].items()
    }
    kinds[FAKE_HEAD_NODE_TYPE] = kinds.pop(file["head_node_type"])
    return file | {
        "idle_timeout_minutes": IDLE / 60,
        "provider": {
            "type": "external",  # `fake_multinode` wants a file that Ray's package lacks
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "disable_node_updaters": True,
        },
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": kinds,
        "worker_setup_commands": [],
        "cluster_synced_files": [],
    }


def main(place: Path, venv: Path) -> None:
    settle(place, venv, "home")
    # before Ray is imported, which reads it
    os.environ.update(RAY_AUTH_MODE="token", RAY_enable_autoscaler_v2="1", AUTOSCALER_UPDATE_INTERVAL_S="1")
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    home = place / "home"
    file = yaml.safe_load((ROOT / "cluster" / "gpu.yaml").read_text())
    (home / "venv").symlink_to(venv)
    (home / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(fake(file)))
    (environment,) = (line for line in file["setup_commands"] if line.endswith("> ~/.dasgm.sh"))
    (start,) = (line for line in file["head_start_ray_commands"] if "ray start" in line)
    cpus = file["available_node_types"][file["head_node_type"]]["resources"]["CPU"]
    start = start.replace("ray start", f"ray start --num-cpus={cpus} --object-store-memory={SMALL}")
    run("ray", "get-auth-token", "--generate")
    run("bash", "-c", environment)
    run("bash", "-c", f". ~/.dasgm.sh; {start}", RAY_FAKE_CLUSTER="1", RAY_CLOUD_INSTANCE_ID=FAKE_HEAD_NODE_ID)
    try:
        result = watched(place)
    finally:
        run("ray", "stop")
    (place / "result.json").write_text(json.dumps(result | {"left": left()}))


def _words(place: Path) -> tuple[list[str], list[str]]:
    """What both commands are given, and the settings of a small evaluation."""
    made = digit_pictures((12, 13, 10))
    photographs = write_folder(place / "photographs", train=made, val=made)
    common = ["--storage", str(place / "runs")]
    small = ["--recipe=imagenet-small", "--data.image-size=32", "--epochs=1", "--lr-schedule=cosine", "--batch-size=8"]
    small += ["--cells=3", "--channels=2", "--threads=1", "--workers=1", "--data-dir", str(photographs)]
    return common, small


def watched(place: Path) -> dict[str, Any]:
    """What Ray's state shows before, during and after a sweep of two searches that fill a machine each, and an
    evaluation through Ray Data."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.util.state import list_actors

    ray.init("auto", log_to_driver=False)
    asked: list[dict[str, float]] = []
    machines: dict[str, dict[str, float]] = {}

    def alive() -> dict[str, dict[str, float]]:
        return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}

    def actors() -> list[Any]:
        return [actor for actor in list_actors(limit=1000, detail=True) if actor.node_id]

    def workers() -> list[str]:
        return sorted({actor.node_id for actor in actors() if "TrainWorker" in actor.class_name})

    def look() -> None:
        machines.update(alive())
        demands = get_cluster_status(ray.get_runtime_context().gcs_address).resource_demands
        for demand in (*demands.placement_group_demand, *demands.cluster_constraint_demand):
            asked.extend(part.bundle for part in demand.bundles_by_count if part.bundle not in asked)

    def run_watched(words: list[str]) -> int:
        with (place / "out").open("w") as out:
            shell = ["bash", "-c", '. ~/.dasgm.sh; exec python "$@"', "bash", str(ROOT / words[0])]
            command = subprocess.Popen([*shell, *words[1:]], stdout=out, stderr=out, cwd=place)
            while command.poll() is None:
                look()
                time.sleep(0.5)
        print((place / "out").read_text())
        return command.wait()

    before = alive()
    common, small = _words(place)
    codes, used = [], []
    for words in (
        ["tuning/sweep.py", *common, "--name=s", "--num-trials=2", "--gpus-per-trial=8", "--gan=none", *TINY],
        ["cluster/evaluate.py", "PDARTS", *common, "--name=e", "--dataset=imagenet", "--loader=ray", *small],
    ):
        codes.append(run_watched(words))
        used.append(workers())
    end = now() + ASKED + IDLE + 30
    while len(after := alive()) > 1 and now() < end:
        time.sleep(1)
    lasting = [actor.class_name for actor in actors() if actor.state == "ALIVE" and actor.node_id not in before]
    ray.shutdown()
    came = {name: its for name, its in machines.items() if name not in before}
    return dict(before=before, asked=asked, came=came, after=after, codes=codes, used=used, lasting=lasting)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
