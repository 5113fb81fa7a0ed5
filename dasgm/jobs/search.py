"""A search from beginning to end: its epochs, metrics, pictures and checkpoints. One `main` alone and under Ray."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dasgm.adversary import Adversary
from dasgm.bilevel import Player, Tensors, ensure_graph
from dasgm.config import SearchConfig
from dasgm.device import device_of, ensure_room, hardware
from dasgm.distributed import broadcast, disagreeing, rank, world_size
from dasgm.jobs.inspection import Inspection
from dasgm.jobs.loop import Loop, restoring
from dasgm.jobs.means import Means
from dasgm.jobs.memory import advice, ensure_gan
from dasgm.jobs.proxy import UNCONNECTED, Proxy
from dasgm.jobs.session import Hooks, Row, Session, of_first, run_job
from dasgm.jobs.warmup import warm_up
from dasgm.measures.costs import costs_of, derived_size, ensure_costs, measured, whole_latency
from dasgm.measures.counts import measure_genotype
from dasgm.measures.fidelity import inception
from dasgm.measures.naswot import naswot
from dasgm.measures.truth import DATASETS, Truth
from dasgm.methods._cost import Costs
from dasgm.methods._hooks import architecture_metrics
from dasgm.networks.network import check_image_size
from dasgm.options import option
from dasgm.pages.figures import draw
from dasgm.pretrained import Pretrained, chosen
from dasgm.search import Search, SearchFailed
from dasgm.store.files import counted, write_atomic
from dasgm.store.records import read_json


def main(config: SearchConfig, folder: Path, hooks: Hooks | None = None) -> Row:
    """Run or continue the search of `folder`; returns the last row, with `best/...`.

    Raises:
        ValueError: input that cannot be used, a folder in use, or one that began with other mathematics.
        SearchFailed: a loss is not finite or the generator has collapsed; the run is marked failed.
        Interrupted: stopped on request after saving.
    """

    return run_job(SearchJob(config), folder, hooks or Hooks())


@dataclass
class SearchJob:
    """A search, for `run_job`."""

    config: SearchConfig
    pretrained: Pretrained | None = None
    """The GAN that it begins with, once `check` has read it; None: a fresh one."""
    truth: Truth | None = None
    """The table of true accuracies, once `check` has read it, on rank 0; None: none is given."""

    def load(self, device: str) -> Any:
        return self.config.data.load(self.config.data_dir, device)

    def check(self, data: Any) -> dict[str, str]:
        fits(self.config, data, world_size())
        can_synchronise(self.config, data.images.device.type == "cuda")
        ensure_graph(self.config.cuda_graph, data.images.device.type, world_size())
        self.pretrained = chosen(self.config, data)
        self.truth = truth_of(self.config) if rank() == 0 else None
        return {"gan_checkpoint": self.pretrained.digest} if self.pretrained else {}

    def advice(self, data: Any) -> str:
        return advice(self.config, data)

    def run(self, data: Any, session: Session) -> Row:
        return SearchLoop(session, self.config, data, self.pretrained, self.truth).go()


def truth_of(config: SearchConfig) -> Truth | None:
    """The table of true accuracies that a search is given, if any. ValueError: see `Truth.load`."""
    return Truth.load(config.truth, config.space) if config.truth else None


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
            f"there are {smallest}; choose a smaller {option('batch_size')}"
        )
    check_image_size("cifar", data.image_size)
    ensure_costs(config, data.image_size)
    device = device_of(config.device)
    with torch.device("meta"):
        for stage in config.stages:
            supernet = config.space.supernet(stage, len(data.classes))
            ensure_room("a supernet", sum(p.numel() for p in supernet.parameters()), device)
        if config.proxy.epochs:
            config.space.random(0).build(config.proxy.channels, config.proxy.cells, len(data.classes))
    if config.proxy.epochs and config.proxy.batch_size * workers > len(data.J1):
        raise ValueError(
            f"proxy.batch-size {config.proxy.batch_size} on {workers} worker(s) is more than the {len(data.J1)} images "
            f"of J_1; choose a smaller {option('proxy.batch_size')}"
        )
    if config.gan is not None:
        ensure_gan(config.gan, len(data.classes), data.image_size, config.searches_discriminator, device)
        if config.inception_weights:
            inception(config.inception_weights)


class SearchLoop(Loop):
    """A search, epoch by epoch, over all stages of its method."""

    def __init__(
        self,
        session: Session,
        config: SearchConfig,
        data: Any,
        pretrained: Pretrained | None = None,
        truth: Truth | None = None,
    ):
        super().__init__(session, config, data)
        self.pretrained, self.truth = pretrained, truth
        self.highest = -1.0  # accuracy of an epoch so far
        self.early = ""  # why the stage has just ended before its time
        self.warmup_seconds = 0.0
        self.proxy: Proxy | None = None
        self.proxy_state: Row = {}  # of a checkpoint that was written within the proxy

    def build(self) -> None:
        costs = self._costs() if self.config.cost.kind == "latency" else None
        self.search = Search(self.config, self.data, self.pretrained, self.hooks.say, costs)
        gan, self.inspection = self.search.gan, None
        if isinstance(gan, Adversary):  # what is looked at is the live generator, which a search learns from
            self.inspection = Inspection(self.session, self.config, self.data, gan, lambda: gan.G.fixed)

    def _costs(self) -> Costs | None:
        """Latencies are measured once a run, by rank 0, and kept in its folder: a search that goes on has the same."""
        config, size, device = self.config, self.data.image_size, self.data.images.device
        path = self.run.folder / "latency.json"

        def known() -> Row:
            if not (found := read_json(path).get("ms", {})):
                found = measured(config, size, device)
                write_atomic(path, json.dumps({"device": hardware(str(device)), "ms": found}, indent=1))
            return found

        return costs_of(config, size, device, of_first(known))

    def start(self) -> None:
        if self.pretrained is None:
            self.warmup_seconds = warm_up(self.search, self.session.cache, self.hooks.say, self.stop)
        self.search.load_state_dict(broadcast(self.search.state_dict()))  # one truth, whatever the workers' machines
        self._record()

    def resume(self) -> None:
        if self.inspection:
            self.inspection.ready()
        if self.truth:
            self.run.note(truth=str(self.truth))
        self._tell_stage()

    # an epoch

    @property
    def phase(self) -> str:
        return f"search {self.search.stage.index + 1}"

    @property
    def epochs(self) -> int:
        return self.config.total_epochs

    @property
    def length(self) -> int:
        return self.search.batches

    @property
    def iteration(self) -> int:
        return self.search.iteration

    def more(self) -> bool:
        """Whether there is another epoch; where a stage is over, the next one is entered."""
        while self.search.left <= 0:
            following = self._following()
            if following is None:
                return False
            self.search.enter(following)
            self._tell_stage()
        return True

    def _following(self) -> Any:
        """The stage after this one; None: it is the last."""
        return self.config.method.next(self.config.space, self.search.stage, self.search.relaxation())

    def batches(self) -> range:
        self.search.schedule()
        return range(self.done, self.length)  # the search draws its own

    def iterate(self, i: int, batch: Any) -> Tensors:
        return self.search.iterate()

    def close(self, means: Means) -> Row:
        search = self.search
        row: Row = {"arch/supernet_parameters": search.size}
        self._agree(self.epoch)  # first: what else ends a search has to end it on every worker
        row |= means.close(self.epoch)
        if not all(p.isfinite().all() for p in search.A.params.values()):
            raise SearchFailed(f"epoch {self.epoch}, stage 3 (architecture): its parameters are not finite")
        row |= self._measure()
        row |= self.took(search.batches)

        def eigenvalue() -> float:
            row["arch/largest_eigenvalue"] = search.hessian(signed=True)
            return row["arch/largest_eigenvalue"]

        why = search.method.end_epoch(search.epoch, search.relaxation(), row, eigenvalue)
        self.early = search.collapsed(row) or why
        search.left, search.ended = (0, True) if self.early else (search.left - 1, False)
        return row | self._record()

    def _agree(self, epoch: int) -> None:
        """Every worker holds the same A and B: gradients are averaged, so anything else is a fault of a machine.

        RuntimeError, on every worker: the next try goes on from the checkpoint, in which all are alike.
        """
        for name, player in (("A", self.search.A), ("B", self.search.gan.B)):
            if odd := disagreeing(list(player.params.values())):
                who = ", ".join(map(str, odd))
                raise RuntimeError(f"epoch {epoch}: worker {who} holds another {name} than the others")

    def _measure(self) -> Row:
        """The supernet's accuracy, and what the architecture looks like."""
        search, data = self.search, self.data
        row: Row = {"val/accuracy": search.accuracy(data.Jval if len(data.Jval) else data.J2)}
        relaxation, costs = search.relaxation(), search.method.costs
        row |= architecture_metrics(self.config.space, search.stage, relaxation)
        row |= costs.metrics(search.stage, relaxation, search.genotype()) if costs else {}
        if self.config.hessian_every and self.epoch % self.config.hessian_every == 0:
            row["arch/hessian_eigenvalue"] = search.hessian()
        return row

    def _record(self) -> Row:
        """Architecture, pictures and figures of merit at the end of an epoch (0: before the first step)."""
        search, epoch = self.search, self.epoch
        relaxation, genotype = search.relaxation(), search.genotype()
        images, figures = self.inspection.look(epoch) if self.inspection else (None, {})
        if rank() == 0:
            types = self.config.space.cell_types
            weights = dict(zip(types, relaxation.cells, strict=True))
            operations = dict(zip(types, search.stage.operations, strict=True))
            self.run.log("alphas", {"epoch": epoch} | weights | {"operations": operations})
            genotype.save(self.run.folder / "genotype.json")
            if epoch % self.config.pictures_every == 0 or search.left == 0:
                draw(genotype, self.run.picture("cells", epoch), f"epoch {epoch}")
                if self.inspection and images is not None:
                    self.inspection.draw(images, epoch)
        return figures

    def best(self, row: Row) -> bool:
        better, self.highest = row["val/accuracy"] > self.highest, max(self.highest, row["val/accuracy"])
        return better

    def aside(self) -> Row:
        """How accurate the genotype truly is, by the table that the search was given."""
        found = self.truth.of(self.search.genotype()) if self.truth else {}
        return {f"truth/{name}": value for name, value in found.items()}

    def tell(self, row: Row) -> None:
        gan = f"  synthetic {row['gan/synthetic_accuracy']:.3f}" if "gan/synthetic_accuracy" in row else ""
        first = f"truth/{next(iter(DATASETS))}"
        true = f"  true {row[first]:.3f}" if first in row else ""
        self.hooks.say(
            f"epoch {row['epoch']}/{self.epochs}  loss {row['loss/classifier']:.3f}  "
            f"{self.run.about.get('measured_on', 'val')} accuracy {row['val/accuracy']:.3f}{gan}{true}  "
            f"{row['speed/seconds']:.1f} s"
        )
        if self.early:
            self.hooks.say(f"stopped early after epoch {self.epoch}: {self.early}")

    def _tell_stage(self) -> None:
        search, stages = self.search, len(self.config.stages)
        if stages > 1:
            stage, operations = search.stage, len(search.stage.operations[0][0])
            self.hooks.say(
                f"stage {stage.index + 1} of {stages}: {stage.cells} cells, {operations} operations an edge, "
                f"{search.size:,} weights in the supernet"
            )
        if 0 < search.stage.epochs <= search.stage.arch_start_epoch:
            self.hooks.say(
                f"no architecture step is taken: the first is in epoch {search.stage.arch_start_epoch + 1}, after the "
                f"last ({search.stage.epochs}), so the architecture stays random; lower "
                f"{option('method.arch_start_epoch')}"
            )
        if too_short := self.config.method.too_short(self.config.space, search.stage):
            self.hooks.say(too_short)

    # a checkpoint, and the end

    @property
    def players(self) -> list[Player]:
        return [*self.search.players.values(), *([self.proxy.training.W] if self.proxy else [])]

    def state(self) -> Row:
        own = {"best": self.highest, "warmup_seconds": self.warmup_seconds}
        return {"search": self.search.state_dict()} | own | ({"proxy": self.proxy.state()} if self.proxy else {})

    def restore(self, state: Row) -> None:
        self.search.load_state_dict(state["search"])
        if self.search.ended and self.search.stage.epochs > int(state["search"]["stage"]["epochs"]):
            self.hooks.say("this search was stopped early, and more epochs do not continue it; use another --name")
        self.highest, self.warmup_seconds = float(state["best"]), float(state["warmup_seconds"])
        if self.complete():  # else more epochs are asked for, and the proxy was of what the search had found by then
            self.proxy_state = state.get("proxy", {})

    def complete(self) -> bool:
        return self.search.left <= 0 and self._following() is None

    def finish(self) -> Row:
        """The proxy and the costs."""
        hours = world_size() / 3600
        row: Row = {"epoch": self.epoch, "phase": "best"}
        row |= self._proxy() if self.config.proxy.epochs else {"cost/proxy_gpu_hours": 0.0}
        if self.inspection:
            fidelity = self.inspection.fidelity
            row |= broadcast(fidelity.report(self.inspection.interrupt_check) if fidelity else None)
        row |= self._size()
        row["cost/gpu_hours"] = self.hours
        row["cost/warmup_gpu_hours"] = self.warmup_seconds * hours
        return row | {"time": time.time()}

    def _size(self) -> Row:
        """The size of the network that `dasgm evaluate` trains by default, and its latency where that is asked for."""
        config, data, genotype = self.config, self.data, self.search.genotype()
        cells, channels = derived_size(config)
        size: Row = {"channels": channels, "cells": cells, "classes": len(data.classes)}
        counts = measure_genotype(genotype, **size, image_size=data.image_size)
        row = {f"best/{kind}": counts[kind] for kind in ("parameters", "multiply_adds")}
        if config.cost.kind != "latency":
            return row
        return row | {
            "best/latency": of_first(lambda: whole_latency(genotype, size, data.image_size, data.images.device))
        }

    def _proxy(self) -> Row:
        """What the found network is worth: by a brief training, with its cost, and by a score without one."""
        config, genotype = self.config.proxy, self.search.genotype()
        proxy = Proxy(genotype, self.data, config, self.config.seed, self.stop, lambda: self.save(False, "proxy"))
        if self.proxy_state:
            with restoring(self.run):
                proxy.restore(self.proxy_state)
            self.hooks.say(f"proxy: going on after epoch {proxy.epoch} of {config.epochs}")
        elif not genotype.connected:
            self.hooks.say(f"proxy: {UNCONNECTED}; NASWOT is 0, the least")
        else:
            self.hooks.say(f"proxy: training the found network from scratch, {counted(config.epochs, 'epoch')} on J_1")
        self.proxy = proxy
        proxy.go_through()
        accuracy, error = proxy.accuracy()
        cost = proxy.spent * world_size() / 3600
        score = broadcast(naswot(genotype, self.data, config.channels, config.cells))
        row = {"best/proxy": accuracy, "best/proxy_error": error, "best/naswot": score}
        return row | {"cost/proxy_gpu_hours": cost}
