"""A small trained network of the digits, once a process for all tests that use one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dasgm.data import digits
from dasgm.jobs.evaluate import main
from dasgm.jobs.session import Hooks
from dasgm.recipes import EvaluateConfig
from dasgm.spaces.darts import KNOWN

CONFIG = EvaluateConfig(data=digits.Config(limit=200), cells=3, channels=4, epochs=1, batch_size=32, threads=1)
PDARTS = KNOWN["PDARTS"]  # with dilated convolutions and pools


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's folder."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    threads = torch.get_num_threads()
    main(PDARTS, CONFIG, folder, Hooks(say=lambda line: None))
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="session")
def digits_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 20 test pictures as CLASS/NUMBER.png."""
    data, root = CONFIG.data.load(None), tmp_path_factory.mktemp("digits")
    for i in range(20):
        path = root / data.classes[int(data.test_labels[i])] / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.ascontiguousarray(data.test_images[i].permute(1, 2, 0).numpy())).save(path)
    return root
