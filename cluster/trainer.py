"""Ray Train's trainer, without the processes that a run of ours has no use for.

Each of them costs seconds of a processor to import Ray: the manager of datasets (a run of ours has none), and on one
machine the coordinator that asks for more machines. Among several runs the controller, which watches the workers,
needs no process of its own either: the run's driver, which would only wait for it, does its work. Then nothing has to
pass its reports on. What a driver that is gone has held is freed by `leftovers`, not by a process that asks Ray's
dashboard.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


class Fixed(FixedScalingPolicy):
    """Asks nobody for more machines."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class Trainer(DataParallelTrainer):
    """Runs workers.

    Args:
        here: this process, an actor, is the controller.
        private: no machine can be added.
    """

    def __init__(self, *args: Any, here: bool, private: bool, **more: Any):
        super().__init__(*args, **more)
        self.here, self.private = here, private

    def _create_default_callbacks(self) -> list[Any]:
        unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [one for one in super()._create_default_callbacks() if not isinstance(one, unused)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        if self.private:
            arguments["scaling_policy"] = Fixed(self.scaling_config)  # type: ignore[arg-type]
        if not self.here:
            return super()._initialize_and_run_controller(**arguments)
        controller = TrainController(**arguments)
        try:
            asyncio.run(controller.run())
        finally:  # Tune ends a trial that it stops by an exception
            if group := controller.get_worker_group():
                group.abort()
        return controller.get_result()
