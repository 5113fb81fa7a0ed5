"""What an epoch shows of a generator: its figures of merit and its pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dasgm.adversary import Adversary, sample
from dasgm.bilevel import Point, seed_of
from dasgm.distributed import broadcast, rank
from dasgm.jobs.session import Interrupted, Row, Session
from dasgm.measures.fidelity import Fidelity, quantised
from dasgm.measures.judge import judge
from dasgm.pages.figures import nearest, nearest_grid, sample_grid


class Inspection:
    """The judge, the distances to real images, and the samples of one run's generator.

    Args:
        shown: the generator that is looked at, as it stands then.
    """

    def __init__(self, session: Session, config: Any, data: Any, gan: Adversary, shown: Callable[[], Point]):
        self.run, self.say, self.stop = session.run, session.hooks.say, session.stop
        self.config, self.data = config, data
        self.gan, self.shown = gan, shown
        self.fidelity: Fidelity | None = None  # of rank 0, once it is `ready`
        self.judge = judge(data, session.cache, self.say)
        if rank() == 0:
            self.run.note(judge={"accuracy": self.judge.accuracy, "measured_on": self.judge.measured_on})
        self.say(f"judge: accuracy {self.judge.accuracy:.3f} on {self.judge.measured_on}")

    def ready(self) -> None:
        """Before the first epoch: from now on `look` measures distances to real images too."""
        if rank() == 0:
            self.fidelity = Fidelity(self.config, self.data, self.gan, self.judge, self.say)
            self.run.note(protocols=self.fidelity.protocols)

    def samples(self) -> tuple[Tensor, Tensor]:
        """The generator's images, classes in turn, from the same z at every epoch; and their labels."""
        classes = len(self.data.classes)
        labels = torch.arange(classes).repeat_interleave(max(10, min(50, 500 // classes)))
        images = sample(self.gan, self.shown(), labels, seed_of(self.config.seed, "samples"))
        return images, labels.to(self.data.images.device)

    def look(self, epoch: int) -> tuple[Tensor, Row]:
        """Images at the end of an epoch (0: before the first step), and their figures: of rank 0, so that all workers
        end together or none."""
        images, labels = self.samples()
        figures = self.judge.measure(images, labels, self.data)
        figures |= self.fidelity.measure(epoch) if self.fidelity else {}
        return images, broadcast(figures)

    def draw(self, images: Tensor, epoch: int) -> None:
        """A class a row; and beside them the training images that come nearest (the paper's Figure 4)."""
        data, classes = self.data, min(len(self.data.classes), 20)
        rows = quantised(images.view(len(data.classes), -1, *images.shape[1:])[:classes, :10].flatten(0, 1))
        sample_grid(rows, self.run.picture("samples", epoch), columns=10, scale=2)
        train = torch.cat([data.J1, data.J2, data.Jval])
        labels = torch.arange(classes, device=rows.device).repeat_interleave(10)
        found = nearest(rows, labels, data.images[train], data.labels[train])
        nearest_grid(rows, found, self.run.picture("nearest", epoch), columns=10, scale=2)

    def interrupt_check(self) -> None:
        """To be called now and then while the figures to report are computed, which no checkpoint keeps."""
        if self.stop:
            raise Interrupted("what is measured at the end")
