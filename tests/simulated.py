"""A Ray of several simulated machines with a job server, on loopback and ports of its own, for tests.

python tests/simulated.py FOLDER NODES      prints its address; every line on standard input is answered with the nodes
                                            that ran a search's workers; ends with its standard input.
"""

from __future__ import annotations

import json
import socket
import sys
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

    dashboard, *agents = free_ports(2 + nodes)
    place: dict[str, Any] = {"temp_dir": folder, "object_store_memory": 80_000_000}
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": dashboard}
    cluster = Cluster(initialize_head=True, head_node_args=head | place | {"dashboard_agent_listen_port": agents[0]})
    for port in agents[1:]:
        own = {"env_vars": {"DASGM_CACHE": f"{folder}/cache-{port}"}, "dashboard_agent_listen_port": port}
        cluster.add_node(num_cpus=1, resources={"slot": 1}, **own, **place)
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        actors = list_actors(f"http://127.0.0.1:{dashboard}", limit=1000, detail=True)
        found = [actor.node_id for actor in actors if "TrainWorker" in actor.class_name and actor.node_id]
        print(json.dumps(found), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
