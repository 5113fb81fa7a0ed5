"""The proxy: a brief training from scratch by which a search ranks what it has found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dasgm.config import ProxyConfig
from dasgm.data._base import DataConfig
from dasgm.genotype import Genotype
from dasgm.jobs.epochs import Epochs
from dasgm.jobs.session import Interrupted
from dasgm.jobs.training import InMemory, Training
from dasgm.recipes import EvaluateConfig

if TYPE_CHECKING:
    from dasgm.data._images import Data


UNCONNECTED = "no path leads from the cell's input to its output, so accuracy is chance, and nothing is trained"


class Proxy(Epochs):
    """The discretised network, trained on J_1 by DARTS's recipe (SGD, cosine to 0, clip 5).

    Args:
        stop: filled when somebody asks to stop.
        save: called after every epoch, to keep `state`.
    """

    def __init__(
        self,
        genotype: Genotype,
        data: Data,
        config: ProxyConfig,
        seed: int,
        stop: Sequence[int] = (),
        save: Callable[[], None] = lambda: None,
    ):
        super().__init__(stop)
        self.epochs, self.save = config.epochs, save
        self.chance = None if genotype.connected else 1 / len(data.classes)
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
        self.source = InMemory(data, data.J1, config.batch_size, seed, "proxy", held_out=held_out)
        self.training = Training(genotype, brief, len(data.classes), data.images.device, seed, "proxy")

    @property
    def length(self) -> int:
        return self.source.iterations

    def more(self) -> bool:
        return self.epoch < self.epochs and self.chance is None

    def batches(self) -> Iterable[Any]:
        self.training.schedule(self.epoch)
        return self.source.training(self.epoch)

    def watch(self, i: int) -> None:
        """It is brief."""

    def take(self, i: int, batch: Any) -> None:
        x, y = batch
        self.training.step(x, y, self.epoch, i)

    def cut_short(self) -> None:
        raise Interrupted(f"epoch {self.epoch + 1} of the proxy")

    def end_epoch(self) -> None:
        self.epoch, self.done = self.epoch + 1, 0
        self.clock()
        self.save()

    def accuracy(self) -> tuple[float, float]:
        """On J_val, or on J_2 where no J_val is set aside; and its standard error, which is Agresti and Coull's: not 0
        where every image is right. Of a network that images do not reach it is chance, with no error."""
        if self.chance is not None:
            return self.chance, 0.0
        begun = time.monotonic()
        right, _, seen = self.training.counts(self.source)
        self.spent += time.monotonic() - begun
        n = seen + 4
        adjusted = (right + 2) / n
        return right / seen, math.sqrt(adjusted * (1 - adjusted) / n)

    def state(self) -> dict[str, Any]:
        """Plain data and tensors, after a whole epoch."""
        return {"W": self.training.W.state_dict(), "epoch": self.epoch, "seconds": self.spent}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.training.W.load_state_dict(state["W"])
        self.epoch, self.spent = int(state["epoch"]), float(state["seconds"])
