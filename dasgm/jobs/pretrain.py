"""Pre-training: a GAN alone on J_2 (Eq. 4 and 5), resumable like a search. Its result is what pretrained.py reads."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dasgm.adversary import Adversary, networks
from dasgm.bilevel import Point, Tensors, replay
from dasgm.config import PretrainConfig, SearchConfig
from dasgm.device import device_of
from dasgm.distributed import alone, broadcast, rank, world_size
from dasgm.jobs.memory import ensure_gan
from dasgm.jobs.search import Loop
from dasgm.jobs.session import Hooks, Interrupted, JobBody, Row, of_first, run_job
from dasgm.jobs.warmup import iterate
from dasgm.measures.fidelity import inception
from dasgm.measures.judge import collapse
from dasgm.pages.report import report as write_report
from dasgm.pretrained import ABOUT, WEIGHTS, at_average, read, state, write
from dasgm.search import Means, SearchFailed, batch
from dasgm.store.bucket import lies_at
from dasgm.store.files import exclusive, printable
from dasgm.store.replica import refresh
from dasgm.store.run import Run, ensure_writable, state_of

LEAST = 100  # iterations of an epoch: of small data several passes, or checkpoints would come one upon the other


def main(config: PretrainConfig, folder: Path, hooks: Hooks | None = None) -> Row:
    """Run or continue the pre-training of `folder`, which then has gan.safetensors and gan.json; returns the last row.

    Raises:
        ValueError, SearchFailed, Interrupted: as a search does (loop.main).
    """

    def prepare(data: Any) -> tuple[JobBody, dict[str, str]]:
        fits(config, data, world_size())
        return _Pretraining(config, data).go, {}

    hooks = hooks or Hooks()
    return run_job(config, folder, replace(hooks, about={"kind": "pretrain"} | hooks.about), prepare, _advice)


def fits(config: PretrainConfig, data: Any, workers: int) -> None:
    """ValueError where the GAN cannot be trained on these images: a batch too large, a size that it does not make."""
    steps = config.gan.pretrain_discriminator_steps
    n = config.batch_size * steps * workers
    if n > len(data.J2):
        times = f", {steps} times an iteration," if steps > 1 else ""
        raise ValueError(
            f"batch-size {config.batch_size}{times} on {workers} worker(s) needs {n} images in J_2, there are "
            f"{len(data.J2)}; choose a smaller --batch-size"
        )
    device = device_of(config.device)
    ensure_gan(config.gan, len(data.classes), data.image_size, config.search_discriminator, device)
    if config.inception_weights:
        inception(config.inception_weights)


def _advice(config: PretrainConfig, data: Any) -> str:
    return (
        f"out of memory: batch {config.batch_size} and gan.channels {config.gan.channels} do not fit; choose a smaller "
        "--batch-size or --gan.channels"
    )


def of_search(
    config: SearchConfig,
    storage: Path,
    run: Callable[[PretrainConfig, Path], None],
    say: Callable[[str], None] = print,
) -> SearchConfig:
    """`--pretrain`: the search's configuration with the file of its pre-training, which `run` runs or continues first.

    The run lies at <storage>/<its own name>, shared by all searches with the same GAN, data, split and settings; who
    comes second waits.

    Raises:
        ValueError: there is no GAN, or a file is named already.
    """
    wanted = wanted_by(config)
    folder = storage.absolute() / wanted.name
    ensure_writable(storage)
    refresh(folder)
    if Run(folder).busy:
        say(f"the pre-training {folder} is being run by another process: waiting for it")
    with exclusive(storage / "cache" / f"{wanted.name}.lock"):
        if state_of(folder) == "finished" and _whole(folder):
            say(f"pre-trained already: {folder}")
        else:
            say(f"pre-training first: {wanted.gan.pretraining_length} iterations on J_2, in {folder}")
            run(wanted, folder)
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
        raise ValueError(f"--pretrain with --gan-checkpoint {config.gan_checkpoint}: leave one of the two out")
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

    @property
    def batches(self) -> int:
        """Iterations of an epoch: whole passes over J_2, at least LEAST."""
        one = max(1, len(self.data.J2) // (self._images * world_size()))
        return one * -(-LEAST // one)

    @property
    def _images(self) -> int:
        """That this worker's iteration takes of J_2: a batch for each discriminator step, as the GANs' authors do."""
        return self.config.batch_size * self.config.gan.pretrain_discriminator_steps

    def iterate(self) -> Tensors:
        """Eq. 4 and 5 on this worker's next batches of J_2; the losses."""
        i, seed, n = self.iteration, self.config.seed, self.config.batch_size
        j = batch(self.data.J2, self._images, i, seed, "pre-training")
        self.iteration += 1
        return iterate(self.gan, self.data, j, n, "pre-training", seed, rank(), i)

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors."""
        players = zip("GEB", self.gan.players, strict=True)
        return {"iteration": self.iteration} | {name: player.state_dict() for name, player in players}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` was taken."""
        self.iteration = int(state["iteration"])
        for name, player in zip("GEB", self.gan.players, strict=True):
            player.load_state_dict(state[name])


class _Pretraining(Loop):
    """Shares with a search its checkpoints, resume, pictures and judge; what is looked at is the averaged generator."""

    search: Pretraining
    config: PretrainConfig

    def _go(self) -> Row:
        last = self._last()
        self.search = Pretraining(self.config, self.data)
        length = self.config.gan.pretraining_length
        if (old := first_half(self.search.gan.gan.average_decay, length)) > 0.5:
            self.hooks.say(
                f"the moving average is slow for {length} iterations: {old:.0%} of it will be what the first half "
                "left; name more --iterations or a smaller --gan.average-decay"
            )
        self._call_judge()
        if last:
            self._restore(last)
            if finished := self._finished():
                self.run_note(state="finished", reason="", ended=finished["time"])
                return finished
            self._go_on()
        else:
            of_first(lambda: self.run.cut(-1))
            self.search.load_state_dict(broadcast(self.search.state_dict()))  # one truth, whatever the machines
            self._look(0)
        self._call_fidelity()
        while self._left:
            self._epoch()
        return self._end()

    @property
    def _left(self) -> int:
        """Iterations from the beginning of this epoch to the end."""
        return max(0, self.config.gan.pretraining_length - self.search.iteration + self.means.iterations)

    def _finished(self) -> Row | None:
        found = None
        if rank() == 0 and not self._left and (self.run.folder / ABOUT).exists():
            rows = self.run.rows()
            written = self._written() == self.search.iteration
            found = rows[-1] if written and rows and rows[-1]["phase"] == "best" else None
        return broadcast(found)

    def _written(self) -> int:
        """Iterations of the GAN whose files lie in the folder; -1: they are torn, and written again."""
        try:
            return int(read(self.run.folder).about["iterations"])
        except ValueError as error:
            self.hooks.say(printable(f"{error}; it is written again"))
            return -1

    def _epoch(self) -> None:
        search, begun, before = self.search, time.monotonic(), self.means.iterations
        epoch, batches = self.epoch + 1, min(search.batches, self._left)
        epochs = self.epoch + -(-self._left // search.batches)
        for i in range(before, batches):
            self.hooks.watch(epoch, epochs, i, search.batches)
            self.means.add(search.iterate())
            if self.stop and i + 1 < batches:
                self.spent += time.monotonic() - begun
                self._save(False)
                raise Interrupted
        row: Row = {"epoch": epoch, "phase": "pretrain", "time": time.time(), "iteration": search.iteration}
        row |= self.means.close(epoch)
        if not all(p.isfinite().all() for player in search.gan.players for p in player.params.values()):
            raise SearchFailed(f"epoch {epoch}: the GAN's weights are not finite; lower --gan.generator-lr")
        seconds = self.spent + time.monotonic() - begun
        self.hours += seconds * world_size() / 3600
        images = batches * self.config.batch_size * world_size()
        row |= {"speed/images_per_s": images / seconds, "speed/seconds": seconds, "cost/gpu_hours": self.hours}
        self.epoch, self.means, self.spent = epoch, Means(), 0.0
        row |= self._look(epoch)
        if rank() == 0:
            self.run.log("metrics", row)
        if line := collapse(epoch, row["gan/diversity"]):
            raise SearchFailed(line)
        self._save(False)
        self.hooks.report(row)
        self._tell(row, epochs)
        if self.stop:
            raise Interrupted

    def _tell(self, row: Row, epochs: int) -> None:
        self.hooks.say(
            f"epoch {row['epoch']}/{epochs}  iteration {row['iteration']}  generator {row['loss/generator']:.3f}  "
            f"discriminator {row['loss/discriminator']:.3f}  synthetic {row['gan/synthetic_accuracy']:.3f}  "
            f"fd_proxy {row['gan/fd_proxy']:.2f}  {row['speed/seconds']:.1f} s"
        )

    def _shown(self) -> Point:
        return self.search.gan.G.averaged()

    def _look(self, epoch: int) -> Row:
        """Figures of merit of the generator at the end of an epoch (0: before the first step), and a picture."""
        samples = self._samples()
        assert samples is not None and self.judge is not None
        if rank() == 0 and (epoch % self.config.pictures_every == 0 or not self._left):
            self._draw_samples(samples[0], epoch)
        row = self.judge.measure(*samples, self.data) | (self.fidelity.measure(epoch) if self.fidelity else {})
        return broadcast(row)  # so that all workers end together or none

    def _end(self) -> Row:
        """The result: both files, and what they are worth."""
        row, workers = None, world_size()
        if rank() == 0:
            with alone():
                row = self._write(workers)
            self.run.log("metrics", row)
            self.run.note(state="finished", reason="", ended=time.time())
            write_report(self.run.folder)
        row = broadcast(row)
        assert row is not None
        return row

    def _write(self, workers: int) -> Row:
        gan, config = self.search.gan, self.config
        tensors = state("G", gan.gan.generator) | state("E", gan.gan.discriminator) | state("B", gan.gan.architecture)
        with at_average(gan, config.batch_size, config.seed, "settle"):
            tensors |= state("G_average", gan.gan.generator)
            samples = self._samples()
            assert samples is not None and self.judge is not None and self.fidelity is not None
            measured = self.judge.measure(*samples, self.data) | self.fidelity.proxy()
            measured |= self.fidelity.report(self._interrupt_check("what is measured at the end"))
        worth = {_leaf(name): value for name, value in measured.items()}
        protocols = {_leaf(name): words for name, words in self.fidelity.protocols.items() if name in measured}
        about = {"iterations": self.search.iteration, "workers": workers, "judge": self.judge.accuracy}
        write(self.run.folder, config, self.data, tensors, **about, protocols=protocols, **worth)
        row: Row = {"epoch": self.epoch, "phase": "best", "time": time.time(), "cost/gpu_hours": self.hours}
        return row | {f"best/{name}": value for name, value in worth.items()}


def _leaf(name: str) -> str:
    return name.rpartition("/")[2]
