"""Room for workers: machines that come when they are asked for, and slots on those that are there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster import connection, job, room
from cluster.room import Workers


def nodes(*machines: dict[str, float]) -> list[dict[str, Any]]:
    """As Ray lists them, with one that is gone."""
    gone = {"Alive": False, "Resources": {"CPU": 999.0, "GPU": 999.0, "slot": 999.0}}
    return [gone, *({"Alive": True, "Resources": its} for its in machines)]


def test_machines_are_asked_for_and_the_request_is_withdrawn(monkeypatch):
    import ray.autoscaler.sdk

    seen: list[Any] = []
    head, machine = {"CPU": 0.0}, {"CPU": 192.0, "GPU": 8.0, "slot": 8.0}
    states = iter([nodes(), nodes(head), nodes(head, machine)])
    monkeypatch.setenv("DASGM_SLOTS", "16")
    monkeypatch.setattr(ray, "nodes", lambda: next(states))
    monkeypatch.setattr(ray.autoscaler.sdk, "request_resources", lambda bundles: seen.append(bundles))
    monkeypatch.setattr(room.time, "sleep", lambda seconds: None)
    wide = Workers(2, 1.0, private=False, wait=60)
    assert room.wait_for_room(wide, lambda line: None) == 8  # two machines with 8 GPUs may come
    assert seen == [[{"CPU": 1.0, "GPU": 1.0}] * 2] * 2 + [[]]
    seen.clear()
    monkeypatch.setattr(ray, "nodes", list)
    clock = iter([0.0, 1.0, 61.0])  # begun, asked, given up
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=clock.__next__, sleep=lambda seconds: None))
    with pytest.raises(ValueError, match="2 GPUs"):
        room.wait_for_room(wide, lambda line: None)
    assert seen == [[{"CPU": 1.0, "GPU": 1.0}] * 2, []]


@pytest.mark.parametrize(
    ("workers", "searches"),
    [
        (Workers(1, 1.0), 16),
        (Workers(2, 1.0), 8),
        (Workers(3, 1.0), 4),  # two drivers on each machine, though five searches have their GPUs
        (Workers(5, 1.0), 2),
        (Workers(12, 1.0), 1),  # wider than a machine
        (Workers(1, 0.5), 32),
        (Workers(1, 0.4), 32),  # a share lies on one GPU
        (Workers(1, 0.6), 16),
        (Workers(2, 1.0, cpus=64.0), 3),  # three workers on each machine
        (Workers(2, 1.0, cpus=100.0), 1),
    ],
)
def test_what_may_come_is_counted_machine_by_machine(workers, searches, monkeypatch):
    import ray

    monkeypatch.setenv("DASGM_SLOTS", "16")
    monkeypatch.setattr(
        ray, "nodes", lambda: nodes({"CPU": 0.0}, *[{"CPU": 192.0, "GPU": 8.0, "slot": 8.0}] * (1 + (searches == 1)))
    )
    assert room.wait_for_room(workers, lambda line: None) == searches


def test_actors_that_last_are_made_on_the_head_where_machines_come_and_go(monkeypatch):
    made: list[str] = []
    for place in ("cluster_autoscaler.get_or_create_autoscaling_coordinator", "stats.get_or_create_stats_actor"):
        monkeypatch.setattr(f"ray.data._internal.{place}", lambda place=place: made.append(place))
    monkeypatch.delenv("DASGM_SLOTS", raising=False)
    connection._lasting_actors_here()
    assert not made
    monkeypatch.setenv("DASGM_SLOTS", "16")
    connection._lasting_actors_here()
    assert len(made) == 2


@pytest.mark.parametrize(
    ("workers", "slots"),
    [(Workers(1, 1.0), 1.0), (Workers(2, 1.0), 2.0), (Workers(1, 0.5), 0.5), (Workers(3, 0.5), 2.0), (Workers(4), 4.0)],
)
def test_a_search_takes_a_slot_for_each_gpu_or_else_cpu(workers, slots, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "nodes", lambda: nodes({"CPU": 0.0}, {"slot": 8.0}))
    assert room.driver(workers) == {"slot": slots}
    assert room.driver(Workers(16, 1.0)) == {"slot": 8.0}  # wider than a machine
    monkeypatch.setattr(ray, "nodes", lambda: nodes({"CPU": 0.0}))
    assert room.driver(workers) == room.HOLDS_NOTHING


def test_a_cluster_says_how_many_gpus_a_worker_gets(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("DASGM_GPUS", "1")
    assert job.workers_for(4, None) == Workers(4, 1.0, private=False)
    assert job.workers_for(4, 8.0) == Workers(4, 2.0, private=False)
    with pytest.raises(ValueError, match="4 workers on 2 GPUs: NCCL cannot put two workers on one GPU"):
        job.workers_for(4, 2.0)
    monkeypatch.delenv("DASGM_GPUS")
    assert job.workers_for(4, None) == Workers(4, 0.0, private=False)
