"""Pre-training: a GAN alone on J_2 (Eq. 4 and 5), resumable like a search. Its result is what pretrained.py reads."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dasgm import pretrained
from dasgm.adversary import Adversary, by_name, networks
from dasgm.bilevel import InProgress, Iterations, Player, Tensors, draw, replay
from dasgm.config import PretrainConfig, SearchConfig
from dasgm.device import device_of
from dasgm.distributed import alone, broadcast, rank, world_size
from dasgm.jobs.inspection import Inspection
from dasgm.jobs.loop import Loop
from dasgm.jobs.means import Means
from dasgm.jobs.memory import ensure_gan
from dasgm.jobs.session import Hooks, Row, Session, run_job
from dasgm.jobs.warmup import iterate
from dasgm.measures.fidelity import inception
from dasgm.options import option
from dasgm.pretrained import ABOUT, WEIGHTS, at_average, read
from dasgm.search import SearchFailed, batch
from dasgm.store.bucket import lies_at
from dasgm.store.files import exclusive, printable
from dasgm.store.run import Run, ensure_writable, state_of

LEAST = 100  # iterations of an epoch; it passes over small data several times, so that checkpoints stay rare


def main(config: PretrainConfig, folder: Path, hooks: Hooks | None = None) -> Row:
    """Run or continue the pre-training of `folder`, which then has gan.safetensors and gan.json; returns the last row.

    Raises:
        ValueError, SearchFailed, Interrupted: as `dasgm.jobs.search.main` does.
    """

    hooks = hooks or Hooks()
    return run_job(PretrainJob(config), folder, replace(hooks, about={"kind": "pretrain"} | hooks.about))


@dataclass
class PretrainJob:
    """A pre-training, for `run_job`."""

    config: PretrainConfig

    def load(self, device: str) -> Any:
        return self.config.data.load(self.config.data_dir, device)

    def check(self, data: Any) -> dict[str, str]:
        fits(self.config, data, world_size())
        return {}

    def advice(self, data: Any) -> str:
        config = self.config
        return (
            f"out of memory: batch {config.batch_size} and gan.channels {config.gan.channels} do not fit; choose a "
            f"smaller {option('batch_size')} or {option('gan.channels')}"
        )

    def run(self, data: Any, session: Session) -> Row:
        return PretrainLoop(session, self.config, data).go()


def fits(config: PretrainConfig, data: Any, workers: int) -> None:
    """ValueError where the GAN cannot be trained on these images: a batch too large, a size that it does not make."""
    steps = config.gan.pretrain_discriminator_steps
    n = config.batch_size * steps * workers
    if n > len(data.J2):
        times = f", {steps} times an iteration," if steps > 1 else ""
        raise ValueError(
            f"batch-size {config.batch_size}{times} on {workers} worker(s) needs {n} images in J_2, there are "
            f"{len(data.J2)}; choose a smaller {option('batch_size')}"
        )
    device = device_of(config.device)
    ensure_gan(config.gan, len(data.classes), data.image_size, config.search_discriminator, device)
    if config.inception_weights:
        inception(config.inception_weights)


def of_search(
    config: SearchConfig,
    storage: Path,
    run: Callable[[PretrainConfig, Path], None],
    say: Callable[[str], None] = print,
) -> SearchConfig:
    """`--pretrain`: the search's configuration with the file of its pre-training, which `run` runs or continues first.

    The run lies at <storage>/<its own name>, shared by all searches with the same GAN, data, split and settings; the
    second of two searches waits.

    Raises:
        ValueError: there is no GAN, or a file is named already.
    """
    wanted = wanted_by(config)
    folder = storage.absolute() / wanted.name
    ensure_writable(storage)
    if Run(folder).latest().busy:
        say(f"the pre-training {folder} is being run by another process: waiting for it")
    with exclusive(storage / "cache" / f"{wanted.name}.lock"):
        if state_of(folder) == "finished" and _whole(folder):
            say(f"pre-trained already: {folder}")
        else:
            say(f"pre-training first: {wanted.gan.pretraining_length} iterations on J_2, in {folder}")
            try:
                run(wanted, folder)
            except ValueError as error:
                if "--name" not in str(error):
                    raise
                # --name names the search; the pre-training's name follows from its settings
                raise ValueError(
                    f"{error} (for this pre-training: move its folder away, or name another --storage)"
                ) from None
    return replace(config, gan_checkpoint=lies_at(folder / WEIGHTS))


def _whole(folder: Path) -> bool:
    """Whether a pre-training's files are there and belong together."""
    try:
        read(folder)
    except ValueError:
        return False
    return True


def wanted_by(config: SearchConfig) -> PretrainConfig:
    """What `--pretrain` asks for. ValueError: there is no GAN, or a file is named already."""
    if config.gan_checkpoint:
        raise ValueError(
            f"--pretrain with {option('gan_checkpoint')} {config.gan_checkpoint}: leave one of the two out"
        )
    return PretrainConfig.of(config)


def first_half(average_decay: Callable[[int], float], length: int) -> float:
    """Share of a moving average of `length` steps that stems from the first half of them."""
    return math.prod(average_decay(step) for step in range(length // 2 + 1, length + 1))


class Pretraining:
    """The GAN: what a checkpoint holds and an iteration moves."""

    def __init__(self, config: PretrainConfig, data: Any):
        self.config, self.data, self.device = config, data, data.images.device
        with replay(config.seed, "gan"):
            gan = networks(config.gan, data, config.search_discriminator)
            self.gan = Adversary(gan, steps=config.gan.pretrain_discriminator_steps)
        self.iteration = 0
        self.iterations = Iterations(self._iterate, self.gan.players, self, self.device)

    @property
    def batches(self) -> int:
        """Iterations of an epoch: whole passes over J_2, at least LEAST."""
        one = max(1, len(self.data.J2) // (self._images * world_size()))
        return one * -(-LEAST // one)

    @property
    def _images(self) -> int:
        """Number of images of J_2 that one iteration of this worker takes: a batch for each discriminator step, as the
        GANs' authors do."""
        return self.config.batch_size * self.config.gan.pretrain_discriminator_steps

    def iterate(self) -> Tensors:
        """Eq. 4 and 5 on this worker's next batches of J_2; the losses."""
        return self.iterations(self.gan.phase)

    def _iterate(self) -> Tensors:
        seed, n = self.config.seed, self.config.batch_size
        j = draw(lambda: batch(self.data.J2, self._images, self.iteration, seed, "pre-training"), self.device)
        losses = iterate(self.gan, self.data, j, n, "pre-training", seed, rank(), InProgress(self))
        self.iteration += 1
        return losses

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors."""
        return {"iteration": self.iteration} | {k: player.state_dict() for k, player in by_name(self.gan).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` was taken."""
        self.iteration = int(state["iteration"])
        for name, player in by_name(self.gan).items():
            player.load_state_dict(state[name])


class PretrainLoop(Loop):
    """A pre-training, epoch by epoch; what is looked at is the averaged generator."""

    phase = "pretrain"

    def build(self) -> None:
        self.training = Pretraining(self.config, self.data)
        gan, length = self.training.gan, self.config.gan.pretraining_length
        if (old := first_half(gan.gan.average_decay, length)) > 0.5:
            self.hooks.say(
                f"the moving average is slow for {length} iterations: {old:.0%} of it will be what the first half "
                f"left; name more --iterations or a smaller {option('gan.average_decay')}"
            )
        self.inspection = Inspection(self.session, self.config, self.data, gan, lambda: gan.G.averaged())

    def start(self) -> None:
        self.training.load_state_dict(broadcast(self.training.state_dict()))  # one truth, whatever the machines
        self._look()

    def resume(self) -> None:
        self.inspection.ready()

    # an epoch

    @property
    def _left(self) -> int:
        """Iterations from the beginning of this epoch to the end."""
        return max(0, self.config.gan.pretraining_length - self.iteration + self.done)

    @property
    def epochs(self) -> int:
        return self.epoch + -(-self._left // self.training.batches)

    @property
    def length(self) -> int:
        return min(self.training.batches, self._left)

    @property
    def iteration(self) -> int:
        return self.training.iteration

    def more(self) -> bool:
        return self._left > 0

    def batches(self) -> range:
        return range(self.done, self.length)  # the training draws its own

    def iterate(self, i: int, batch: Any) -> Tensors:
        return self.training.iterate()

    def close(self, means: Means) -> Row:
        row: Row = {"iteration": self.iteration} | means.close(self.epoch)
        if not all(p.isfinite().all() for player in self.training.gan.players for p in player.params.values()):
            lower = f"lower {option('gan.generator_lr')}"
            raise SearchFailed(f"epoch {self.epoch}: the GAN's weights are not finite; {lower}")
        return row | self.took(means.iterations) | self._look()

    def _look(self) -> Row:
        """Figures of merit of the generator at the end of an epoch (0: before the first step), and a picture."""
        images, figures = self.inspection.look(self.epoch)
        if rank() == 0 and (self.epoch % self.config.pictures_every == 0 or not self._left):
            self.inspection.draw(images, self.epoch)
        return figures

    def tell(self, row: Row) -> None:
        self.hooks.say(
            f"epoch {row['epoch']}/{self.epochs}  iteration {row['iteration']}  generator {row['loss/generator']:.3f}  "
            f"discriminator {row['loss/discriminator']:.3f}  synthetic {row['gan/synthetic_accuracy']:.3f}  "
            f"fd_proxy {row['gan/fd_proxy']:.2f}  {row['speed/seconds']:.1f} s"
        )

    # a checkpoint, and the end

    @property
    def players(self) -> list[Player]:
        return list(self.training.gan.players)

    def state(self) -> Row:
        return {"search": self.training.state_dict()}

    def restore(self, state: Row) -> None:
        self.training.load_state_dict(state["search"])

    def complete(self) -> bool:
        return not self._left and bool(broadcast(rank() == 0 and self._written()))

    def _written(self) -> bool:
        """Whether this GAN's files lie in the folder; torn ones are written again."""
        if not (self.run.folder / ABOUT).exists():
            return False
        try:
            return int(read(self.run.folder).about["iterations"]) == self.iteration
        except ValueError as error:
            self.hooks.say(printable(f"{error}; it is written again"))
            return False

    def finish(self) -> Row:
        """The result: both files, and what they are worth."""
        row, workers = None, world_size()
        if rank() == 0:
            with alone():
                row = self._write(workers)
        row = broadcast(row)
        assert row is not None
        return row

    def _write(self, workers: int) -> Row:
        gan, config, inspection = self.training.gan, self.config, self.inspection
        parts = {"G": gan.gan.generator, "E": gan.gan.discriminator, "B": gan.gan.architecture}
        tensors = {k: t for name, module in parts.items() for k, t in pretrained.state(name, module).items()}
        with at_average(gan, config.batch_size, config.seed, "settle"):
            tensors |= pretrained.state("G_average", gan.gan.generator)
            assert inspection.fidelity is not None
            measured = inspection.judge.measure(*inspection.samples(), self.data) | inspection.fidelity.proxy()
            measured |= inspection.fidelity.report(inspection.interrupt_check)
        worth = {_leaf(name): value for name, value in measured.items()}
        protocols = {_leaf(name): words for name, words in inspection.fidelity.protocols.items() if name in measured}
        about = {"iterations": self.iteration, "workers": workers, "judge": inspection.judge.accuracy}
        pretrained.write(self.run.folder, config, self.data, tensors, **about, protocols=protocols, **worth)
        row: Row = {"epoch": self.epoch, "phase": "best", "time": time.time(), "cost/gpu_hours": self.hours}
        return row | {f"best/{name}": value for name, value in worth.items()}


def _leaf(name: str) -> str:
    return name.rpartition("/")[2]
