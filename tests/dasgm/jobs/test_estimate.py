"""What `--dry-run` says against what a run really leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dasgm.config import SearchConfig, override
from dasgm.jobs.estimate import estimate
from dasgm.jobs.search import main
from dasgm.jobs.session import Hooks
from dasgm.presets import preset
from dasgm.store.run import Run

SMALL = {"method.epochs": 2, "method.channels": 2, "gan": "none", "threads": 1, "order": "first"}
SMALL |= {"data.limit": 100, "data.holdout": 0.2, "batch_size": 16, "pictures_every": 9, "checkpoints": 1}
PROXY = {"proxy.channels": 4, "proxy.cells": 3, "proxy.batch_size": 8}


def numbers(path: Path) -> int:
    """Bytes of a safetensors file after its header."""
    content = path.read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


@pytest.mark.parametrize(("epochs", "start"), [(0, 0), (2, 9)])
def test_disk_is_what_a_search_can_leave(tmp_path: Path, epochs: int, start: int) -> None:
    """The last checkpoint, the best, which may be another, and the proxy's: of the same network, as no architecture
    step is taken."""
    changes = SMALL | PROXY | {"proxy.epochs": epochs, "method.arch_start_epoch": start}
    config: SearchConfig = override(preset("quickstart").config, changes)
    threads = torch.get_num_threads()
    try:
        main(config, tmp_path / "run", Hooks(say=lambda line: None))
        said = estimate(config).disk
    finally:
        torch.set_num_threads(threads)
    found = Run(tmp_path / "run").checkpoints()
    of_proxy = [numbers(path) for path in found if path.name.endswith(".proxy.safetensors")]
    of_search = [numbers(path) for path in found if path.name.count(".") == 1]
    assert len(of_proxy) == bool(epochs) and len(set(of_search)) == 1
    assert said == 2 * of_search[0] + sum(of_proxy)
