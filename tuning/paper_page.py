"""The page of the paper's results, written anew while a reproduction runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from cluster.patience import say_now
from dasgm.pages.view import Trials
from dasgm.store.files import gist
from dasgm.store.records import ENDED

PAUSE = 5.0  # seconds between two pages


class PaperPage:
    """Writes the page of a storage whenever a search of a sweep has ended, in a thread that delays and stops nobody.

    `with PaperPage(sweep, write) as page:` in which `page.look` is called when something may have changed.

    Args:
        sweep: the folder of the sweep.
        write: writes the page.
    """

    def __init__(self, sweep: Path, write: Callable[[], object], pause: float = PAUSE):
        self.trials, self.write, self.pause = Trials(sweep), write, pause
        self.ended, self.failed = self._count(), False
        self._wake, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="paper", daemon=True)

    def __enter__(self) -> PaperPage:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._wake.set()
        self._thread.join()

    def look(self) -> None:
        """Tell that a search may have ended. It returns at once."""
        self._wake.set()

    def _count(self) -> int:
        return sum(run.state in ENDED for run in self.trials.look())

    def _run(self) -> None:
        while not self._over.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                if not self._over.is_set() and (ended := self._count()) != self.ended:
                    self.write()
                    self.ended = ended
            except Exception as error:  # no page is worth a search
                if not self.failed:
                    say_now(f"the page of the paper's results is not written: {gist(error)}")
                self.failed = True
            self._over.wait(self.pause)
