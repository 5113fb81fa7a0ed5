"""What the workers of a run held whose driver is gone. Ray's own way to free it needs the dashboard, ten processes."""

from __future__ import annotations

import time

import ray
from ray._raylet import ActorID, PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group

EVERY = 1.0  # seconds between two looks


class Leftovers:
    """Placement groups whose creators are dead."""

    def __init__(self) -> None:
        self.looked = 0.0

    def free(self) -> None:
        """To be called again and again; looks once a second."""
        if (now := time.monotonic()) - self.looked >= EVERY:
            self.looked = now
            for group in left_behind():
                remove_placement_group(group)


def left_behind() -> list[PlacementGroup]:
    """The placement groups whose creator, an actor of this job, is dead. Ray keeps them until the job ends."""
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]

    job = ray.get_runtime_context().get_job_id()
    rows = map(PlacementGroupTableData.FromString, state._connect_and_get_accessor().get_placement_group_table())
    return [
        PlacementGroup(PlacementGroupID(row.placement_group_id))
        for row in rows
        if row.creator_job_id.hex() == job
        and row.creator_actor_dead
        and not ActorID(row.creator_actor_id).is_nil()  # Tune's own are the sweep's
        and row.state != PlacementGroupTableData.REMOVED
    ]
