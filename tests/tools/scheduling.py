"""pytest-xdist's `--dist loadfile`, but a test process that dies fails its test and nothing else.

In pytest-xdist 3.8 (https://github.com/pytest-dev/pytest-xdist/issues/1362 and 1323, pull request 1371) the dead one
stays among those that have collected, so that work is given to its successor before that has collected: a KeyError,
which ends the run without a word about which tests failed. The test that killed it is run again, and kills again; a
file whose tests are all done is handed out again, and waited for in vain.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling


class Scheduling(LoadFileScheduling):
    @property
    def collection_is_completed(self) -> bool:
        """Once it was, it stays so, whoever dies."""
        return self.collection is not None or super().collection_is_completed

    def remove_node(self, node: Any) -> str | None:
        """The test that the process died in; the others of its files, where they are not done, go to the next."""
        self.registered_collections.pop(node, None)
        units = self.assigned_work.pop(node)
        pending = [(file, test) for file, unit in units.items() for test, done in unit.items() if not done]
        for file, test in pending[:1]:
            units[file][test] = True
        for file in reversed({file: None for file, _ in pending[1:]}):
            self.workqueue[file] = units[file]
            self.workqueue.move_to_end(file, last=False)
        for other in self.nodes:
            self._reschedule(other)
        return pending[0][1] if pending else None

    def _assign_work_unit(self, node: Any) -> None:
        """One that has died cannot be told, and nobody has said yet that it has: `remove_node` hands its work on."""
        with suppress(OSError):
            super()._assign_work_unit(node)

    def _reschedule(self, node: Any) -> None:
        """More work, or the word that there is none: a process begins its last test only when it knows what follows."""
        if node not in self.registered_collections:
            return
        super()._reschedule(node)
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None
