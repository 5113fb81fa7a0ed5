"""The proxy: a brief training from scratch by which a search ranks what it has found."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from dasgm.config import ProxyConfig
from dasgm.data._base import DataConfig
from dasgm.genotype import Genotype
from dasgm.jobs.training import InMemory, Training
from dasgm.recipes import EvaluateConfig

if TYPE_CHECKING:
    from dasgm.data._images import Data


def proxy(
    genotype: Genotype, data: Data, config: ProxyConfig, seed: int, give_way: Callable[[], None] = lambda: None
) -> tuple[float, float]:
    """Accuracy of the discretised network after a brief training on J_1, and its standard error.

    Measured on J_val; on J_2 where no J_val is set aside. The recipe is DARTS's (SGD, cosine to 0, clip 5). The error
    is Agresti and Coull's, which is not 0 where every image is right. `give_way` is called between steps.
    """
    brief = EvaluateConfig(
        data=DataConfig(),
        cells=config.cells,
        channels=config.channels,
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        auxiliary=0.0,
        drop_path=0.0,
        precision="float32",
        channels_last=False,
    )
    held_out = data.Jval if len(data.Jval) else data.J2
    batches = InMemory(data, data.J1, config.batch_size, seed, "proxy", held_out=held_out)
    training = Training(genotype, brief, len(data.classes), data.images.device, seed, "proxy")
    for epoch in range(config.epochs):
        training.schedule(epoch)
        for i, (x, y) in enumerate(batches.training(epoch)):
            give_way()
            training.step(x, y, epoch, i)
    right, _, seen = training.counts(batches)
    n = seen + 4
    adjusted = (right + 2) / n
    return right / seen, math.sqrt(adjusted * (1 - adjusted) / n)
