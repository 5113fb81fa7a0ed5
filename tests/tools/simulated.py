"""A Ray of several simulated machines with a job server, on loopback and ports of its own, for tests.

python tests/tools/simulated.py FOLDER NODES

Prints its address, and ends with its standard input, of which each line is answered with a line of JSON:
    nodes        those that ran a search's workers
    busy         those that run one now
    starting     all of them, while a search's worker starts
    add          a machine more, its number
    kill NODE    its processes, by SIGKILL
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def main(folder: str, nodes: int) -> None:
    """A head without CPUs and `nodes` machines with a CPU, a slot, and a place for mirrors of object storage each."""
    from ray.cluster_utils import Cluster
    from ray.util.state import list_actors

    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)  # Ray notes there which cluster is the latest
    dashboard, *agents = free_ports(2 + nodes)
    place: dict[str, Any] = {"temp_dir": folder, "object_store_memory": 80_000_000}
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": dashboard}
    cluster = Cluster(initialize_head=True, head_node_args=head | place | {"dashboard_agent_listen_port": agents[0]})
    machines: dict[str, Any] = {}

    def add(port: int) -> str:
        own = {"env_vars": {"DASGM_CACHE": f"{folder}/cache-{port}"}, "dashboard_agent_listen_port": port}
        added = cluster.add_node(num_cpus=1, resources={"slot": 1}, **own, **place)
        machines[added.node_id] = added
        return added.node_id

    def workers() -> list[Any]:
        actors = list_actors(f"http://127.0.0.1:{dashboard}", limit=1000, detail=True)
        return [actor for actor in actors if "TrainWorker" in actor.class_name]

    def used(states: Sequence[str] = ()) -> list[str]:
        placed = [actor for actor in workers() if actor.node_id]
        return [actor.node_id for actor in placed if not states or actor.state in states]

    def starting() -> list[str]:  # on which of them, Ray tells only later
        return (
            [*machines] if {actor.state for actor in workers()} & {"DEPENDENCIES_UNREADY", "PENDING_CREATION"} else []
        )

    def kill(node: str) -> None:
        cluster.remove_node(machines.pop(node), allow_graceful=False)

    for port in agents[1:]:
        add(port)
    print(cluster.address, flush=True)
    for line in sys.stdin:
        order, *node = line.split()
        busy = {"nodes": used, "busy": lambda: used(["ALIVE"]), "starting": starting}
        answers = busy | {"add": lambda: add(free_ports(1)[0])}
        print(json.dumps(kill(*node) if order == "kill" else answers[order]()), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
