"""The page of the paper's results while a reproduction runs."""

from __future__ import annotations

import threading
from pathlib import Path

from reproduced import searched

from tuning.paper_page import PaperPage


def test_it_is_written_when_a_search_has_ended_and_stops_nobody(tmp_path: Path, capsys) -> None:
    searched(tmp_path / "s" / "t000", "darts-1st", 0, 0.5)
    written, came = [], threading.Event()

    def write() -> None:
        written.append(len(list((tmp_path / "s").iterdir())))
        came.set()
        raise ValueError("no room")

    with PaperPage(tmp_path / "s", write, pause=0.0) as page:
        page.look()
        searched(tmp_path / "s" / "t001", "darts-1st", 1, None, state="waiting")
        page.look()
        assert not came.wait(0.3), "nothing has ended since"
        searched(tmp_path / "s" / "t001", "darts-1st", 1, 0.5)
        page.look()
        assert came.wait(60) and written[0] == 2
    assert capsys.readouterr().out.count("the page of the paper's results is not written: no room") == 1
