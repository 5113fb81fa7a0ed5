"""What a run's folder says came out, without its times."""

from __future__ import annotations

from pathlib import Path

from dasgm.store.records import read_lines

TIMES = ("time", "speed/", "cost/")


def rows_of(folder: Path) -> list[dict[str, object]]:
    """The rows of metrics.jsonl, without what depends on the clock."""
    return [{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in read_lines(folder / "metrics.jsonl")]
