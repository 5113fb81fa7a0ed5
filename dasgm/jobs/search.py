"""A search from beginning to end: resume, epochs, metrics, pictures, checkpoints. One `main` alone and under Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dasgm.adversary import Adversary, sample
from dasgm.bilevel import NotFinite, Point, seed_of
from dasgm.config import SearchConfig
from dasgm.device import device_of, ensure_room
from dasgm.distributed import barrier, broadcast, disagreeing, rank, world_size
from dasgm.genotype import KNOWN
from dasgm.jobs.evaluate import proxy
from dasgm.jobs.memory import advice, ensure_gan
from dasgm.jobs.session import (
    Hooks,
    Interrupted,
    JobBody,
    Row,
    called_again,
    of_first,
    restoring,
    run_job,
    steady_threads,
    tell_of_workers,
)
from dasgm.jobs.warmup import warm_up
from dasgm.measures.fidelity import Fidelity, inception, quantised
from dasgm.measures.judge import Judge, collapse, judge
from dasgm.networks.network import Network, check_image_size
from dasgm.networks.supernet import Supernet
from dasgm.pages.figures import draw, nearest, nearest_grid, sample_grid
from dasgm.pages.report import report as write_report
from dasgm.pretrained import Pretrained, chosen
from dasgm.search import Means, Search, SearchFailed, architecture_metrics
from dasgm.store.records import FORMAT
from dasgm.store.run import Run


def main(config: SearchConfig, folder: Path, hooks: Hooks | None = None) -> Row:
    """Run or continue the search of `folder`; returns the last row, with `best/...`.

    Raises:
        ValueError: input that cannot be used, a folder in use, or one that began with other mathematics.
        SearchFailed: a loss is not finite or the generator has collapsed; the run is marked failed.
        Interrupted: stopped on request after saving.
    """

    def prepare(data: Any) -> tuple[JobBody, dict[str, str]]:
        fits(config, data, world_size())
        can_synchronise(config, data.images.device.type == "cuda")
        pretrained = chosen(config, data)
        digests = {"gan_checkpoint": pretrained.digest} if pretrained else {}
        return Loop(config, data, pretrained).go, digests

    return run_job(config, folder, hooks or Hooks(), prepare, advice)


def can_synchronise(config: SearchConfig, gpus: bool) -> None:
    """ValueError where batch norm is to be synchronised without GPUs: a message for each layer and pass."""
    if config.sync_batch_norm and not gpus:
        raise ValueError("sync-batch-norm: expected workers on GPUs; leave it out, and each takes its own batch's")


def fits(config: SearchConfig, data: Any, workers: int) -> None:
    """ValueError where the search cannot run on these images: batches too large, a width or size no network has."""
    n, smallest = config.batch_size * workers, min(len(data.J1), len(data.J2))
    if n > smallest:
        raise ValueError(
            f"batch-size {config.batch_size} on {workers} worker(s) needs {n} images in J_1 and in J_2, "
            f"there are {smallest}; choose a smaller --batch-size"
        )
    check_image_size("cifar", data.image_size)
    device = device_of(config.device)
    with torch.device("meta"):
        for stage in config.method.outline():
            supernet = Supernet(stage, len(data.classes))
            ensure_room("a supernet", sum(p.numel() for p in supernet.parameters()), device)
        if config.proxy.epochs:
            Network(KNOWN["DARTS_V2"], config.proxy.channels, config.proxy.cells, len(data.classes))
    if config.proxy.epochs and config.proxy.batch_size * workers > len(data.J1):
        raise ValueError(
            f"proxy.batch-size {config.proxy.batch_size} on {workers} worker(s) is more than the {len(data.J1)} images "
            "of J_1; choose a smaller --proxy.batch-size"
        )
    if config.gan is not None:
        ensure_gan(config.gan, len(data.classes), data.image_size, config.searches_discriminator, device)
        if config.inception_weights:
            inception(config.inception_weights)


class Loop:
    """A search, epoch by epoch; a pre-training is another (pretrain.py)."""

    search: Any  # Search, or what stands in for it
    run: Run
    hooks: Hooks
    stop: list[int]

    def __init__(self, config: Any, data: Any, pretrained: Pretrained | None = None):
        self.config, self.data, self.pretrained = config, data, pretrained
        self.epoch, self.best = 0, -1.0  # epochs over all stages
        self.means = Means()
        self.spent = 0.0  # device seconds of an epoch cut short
        self.hours = 0.0  # device hours of all workers so far
        self.warmup_seconds = 0.0
        self.judge: Judge | None = None
        self.fidelity: Fidelity | None = None  # of rank 0

    def go(self, run: Run, hooks: Hooks, stop: list[int]) -> Row:
        """Begin or continue in the run's folder; `stop` is filled when somebody asks for it. Returns the last row."""
        self.run, self.hooks, self.stop = run, hooks, stop
        self.cache = hooks.cache or run.folder.parent / "cache"
        return self._go()

    def _go(self) -> Row:
        state = self._last()
        search = self.search = Search(self.config, self.data, self.pretrained)
        if self.config.gan is not None:
            self._call_judge()
        if state:
            self._restore(state)
            if finished := self._finished():
                called_again(self.run, finished)
                return finished
            self._go_on()
        else:
            of_first(lambda: self.run.cut(-1))
            if self.pretrained is None:
                self.warmup_seconds = warm_up(
                    search, self.cache, self.hooks.say, self._interrupt_check("the GAN's warm-up")
                )
            search.load_state_dict(broadcast(search.state_dict()))  # one truth, whatever the workers' machines
            self._record(0)
        if self.judge:
            self._call_fidelity()
        self._tell_stage()
        while True:
            while search.left > 0:
                self._epoch()
            following = self.config.method.next(search.stage, search.relaxation())
            if following is None:
                return self._end()
            search.enter(following)
            self._tell_stage()

    def run_note(self, **changes: Any) -> None:
        if rank() == 0:
            self.run.note(**changes)

    def _last(self) -> Row | None:
        """The last checkpoint."""
        state: Row | None = of_first(lambda: self.run.load(self.hooks.say))
        steady_threads(self.run, self.config)
        return state

    def _call_judge(self) -> None:
        self.judge = judge(self.data, self.cache, self.hooks.say)
        self.run_note(judge={"accuracy": self.judge.accuracy, "measured_on": self.judge.measured_on})
        self.hooks.say(f"judge: accuracy {self.judge.accuracy:.3f} on {self.judge.measured_on}")

    def _call_fidelity(self) -> None:
        assert self.judge is not None
        if rank() == 0:
            self.fidelity = Fidelity(self.config, self.data, self.search.gan, self.judge, self.hooks.say)
            self.run.note(protocols=self.fidelity.protocols)

    def _restore(self, state: Row) -> None:
        with restoring(self.run):
            self.search.load_state_dict(state["search"])
            self.epoch, self.best, self.means = int(state["epoch"]), float(state["best"]), Means(state["means"])
            self.warmup_seconds, self.spent = float(state["warmup_seconds"]), float(state["spent"])
            self.hours, self.workers = float(state["hours"]), int(state["workers"])

    def _go_on(self) -> None:
        of_first(lambda: self.run.cut(self.epoch))
        where = f", iteration {self.means.iterations}" if self.means.iterations else ""
        self.hooks.say(f"going on after epoch {self.epoch}{where} of {self.run.folder}")
        tell_of_workers(self.workers, self.config.batch_size, self.hooks.say)

    def _interrupt_check(self, what: str) -> Callable[[], None]:
        """To be called between two steps of `what` is not checkpointed: it begins anew when the run goes on."""

        def give_way() -> None:
            if self.stop:
                raise Interrupted(what)

        return give_way

    def _finished(self) -> Row | None:
        rows = broadcast(self.run.rows() if rank() == 0 else None)
        assert isinstance(rows, list)
        over = self.search.left <= 0 and self.config.method.next(self.search.stage, self.search.relaxation()) is None
        return rows[-1] if over and rows and rows[-1].get("phase") == "best" else None

    def _epoch(self) -> None:
        search, begun, before = self.search, time.monotonic(), self.means.iterations
        search.schedule()
        epoch, epochs = self.epoch + 1, self.config.method.total_epochs
        for i in range(before, search.batches):
            self.hooks.watch(epoch, epochs, i, search.batches)
            try:
                self.means.add(search.iterate())
            except NotFinite as error:
                self._agree(epoch)  # of averaged numbers, so it is on every worker
                self.means.add(search.losses())
                self.means.close(epoch)  # names the stage, if a loss is not finite either
                raise SearchFailed(f"epoch {epoch}, stage 3 or 4 (mixed derivative): {error}") from None
            if self.stop and i + 1 < search.batches:
                self.spent += time.monotonic() - begun
                self._save(False)
                raise Interrupted
        row: Row = {"epoch": epoch, "phase": f"search {search.stage.index + 1}", "time": time.time()}
        row["arch/supernet_parameters"] = search.size
        self._agree(epoch)  # first: what else ends a search has to end it on every worker
        row |= self.means.close(epoch)
        if not all(p.isfinite().all() for p in search.A.params.values()):
            raise SearchFailed(f"epoch {epoch}, stage 3 (architecture): its parameters are not finite")
        row["val/accuracy"] = search.accuracy(self.data.Jval if len(self.data.Jval) else self.data.J2)
        row |= architecture_metrics(search.stage, search.relaxation())
        if self.config.hessian_every and epoch % self.config.hessian_every == 0:
            row["arch/hessian_eigenvalue"] = search.hessian()
        seconds = self.spent + time.monotonic() - begun
        images = search.batches * self.config.batch_size * world_size()
        self.hours += seconds * world_size() / 3600
        row |= {"speed/images_per_s": images / seconds, "speed/seconds": seconds, "cost/gpu_hours": self.hours}
        self.epoch, self.means, self.spent = epoch, Means(), 0.0
        collapsed = search.collapsed(row)
        search.left = 0 if collapsed else search.left - 1
        row |= self._record(epoch)
        better, self.best = row["val/accuracy"] > self.best, max(self.best, row["val/accuracy"])
        if rank() == 0:
            self.run.log("metrics", row)
        if "gan/diversity" in row and (line := collapse(epoch, row["gan/diversity"])):
            raise SearchFailed(line)
        self._save(better)
        self.hooks.report(row)
        self._tell(row, epochs)
        if collapsed:
            self.hooks.say(f"stopped early after epoch {epoch}: {collapsed}")
        if self.stop:
            raise Interrupted

    def _agree(self, epoch: int) -> None:
        """Every worker holds the same A and B: gradients are averaged, so anything else is a fault of a machine.

        RuntimeError, on every worker: the next try goes on from the checkpoint, in which all are alike.
        """
        for name, player in (("A", self.search.A), ("B", self.search.gan.B)):
            if odd := disagreeing(list(player.params.values())):
                who = ", ".join(map(str, odd))
                raise RuntimeError(f"epoch {epoch}: worker {who} holds another {name} than the others")

    def _tell_stage(self) -> None:
        search, stages = self.search, len(self.config.method.outline())
        if stages > 1:
            stage, operations = search.stage, len(search.stage.normal_operations[0])
            self.hooks.say(
                f"stage {stage.index + 1} of {stages}: {stage.cells} cells, {operations} operations an edge, "
                f"{search.size:,} weights in the supernet"
            )
        if search.stage.arch_start_epoch >= search.stage.epochs:
            self.hooks.say(
                f"no architecture step is taken: the first is in epoch {search.stage.arch_start_epoch + 1}, after the "
                f"last ({search.stage.epochs}), so the architecture stays random; lower --method.arch-start-epoch"
            )

    def _tell(self, row: Row, epochs: int) -> None:
        gan = f"  synthetic {row['gan/synthetic_accuracy']:.3f}" if "gan/synthetic_accuracy" in row else ""
        self.hooks.say(
            f"epoch {row['epoch']}/{epochs}  loss {row['loss/classifier']:.3f}  "
            f"{self.run.about.get('measured_on', 'val')} accuracy {row['val/accuracy']:.3f}{gan}  "
            f"{row['speed/seconds']:.1f} s"
        )

    def _record(self, epoch: int) -> Row:
        """Architecture, pictures and figures of merit at the end of an epoch (0: before the first step)."""
        search, out = self.search, {}
        relaxation, genotype = search.relaxation(), search.genotype()
        samples = self._samples()
        if samples is not None and self.judge:
            out = broadcast(self.judge.measure(*samples, self.data))  # so that all workers end together or none
            if epoch:
                out |= broadcast(self.fidelity.measure(epoch) if self.fidelity else None)
        if rank() == 0:
            last = search.left == 0
            operations = {"normal": search.stage.normal_operations, "reduce": search.stage.reduce_operations}
            self.run.log(
                "alphas",
                {"epoch": epoch, "normal": relaxation.normal, "reduce": relaxation.reduce, "operations": operations},
            )
            genotype.save(self.run.folder / "genotype.json")
            if epoch % self.config.pictures_every == 0 or last:
                draw(genotype, self.run.picture("cells", epoch), f"epoch {epoch}")
                if samples is not None:
                    self._draw_samples(samples[0], epoch)
        return out

    def _samples(self) -> tuple[Tensor, Tensor] | None:
        """The generator's images, classes in turn, from the same z at every epoch."""
        gan = self.search.gan
        if not isinstance(gan, Adversary):
            return None
        classes = len(self.data.classes)
        labels = torch.arange(classes).repeat_interleave(max(10, min(50, 500 // classes)))
        return sample(gan, self._shown(), labels, seed_of(self.config.seed, "samples")), labels.to(self.search.device)

    def _shown(self) -> Point:
        """Whose images are looked at: the live generator's, which a search learns from."""
        return self.search.gan.G.fixed

    def _draw_samples(self, images: Tensor, epoch: int) -> None:
        """A class a row; and beside them the training images that come nearest (the paper's Figure 4)."""
        data, classes = self.data, min(len(self.data.classes), 20)
        rows = quantised(images.view(len(data.classes), -1, *images.shape[1:])[:classes, :10].flatten(0, 1))
        sample_grid(rows, self.run.picture("samples", epoch), columns=10, scale=2)
        train = torch.cat([data.J1, data.J2, data.Jval])
        labels = torch.arange(classes, device=rows.device).repeat_interleave(10)
        found = nearest(rows, labels, data.images[train], data.labels[train])
        nearest_grid(rows, found, self.run.picture("nearest", epoch), columns=10, scale=2)

    def _save(self, better: bool) -> None:
        """Rank 0's state is the truth: gradients and floating buffers are averaged."""
        if rank() != 0:
            return
        state = {
            "format": FORMAT,
            "search": self.search.state_dict(),
            "epoch": self.epoch,
            "best": self.best,
            "means": self.means.plain(),
            "threads": torch.get_num_threads(),
            "warmup_seconds": self.warmup_seconds,
            "spent": self.spent,
            "hours": self.hours,
            "workers": world_size(),
        }
        self.run.save(state, self.search.iteration, self.config.checkpoints, better)

    def _end(self) -> Row:
        """The proxy, the costs, and the page."""
        config, genotype = self.config, self.search.genotype()
        row: Row = {"epoch": self.epoch, "phase": "best"}
        begun = time.monotonic()
        if config.proxy.epochs:
            self.hooks.say(f"proxy: training the found network from scratch, {config.proxy.epochs} epochs on J_1")
            row["best/proxy"], row["best/proxy_error"] = proxy(
                genotype, self.data, config.proxy, config.seed, self._interrupt_check("the proxy")
            )
        hours = world_size() / 3600
        row["cost/proxy_gpu_hours"] = (time.monotonic() - begun) * hours
        if self.judge:
            row |= broadcast(
                self.fidelity.report(self._interrupt_check("what is measured at the end")) if self.fidelity else None
            )
        row["cost/gpu_hours"] = self.hours
        row["cost/warmup_gpu_hours"] = self.warmup_seconds * hours
        row["time"] = time.time()
        if rank() == 0:
            self.run.log("metrics", row)
            self.run.note(state="finished", reason="", ended=time.time())
            write_report(self.run.folder)
        barrier()
        return row
