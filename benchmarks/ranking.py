"""What rankings of cells are worth: Kendall's tau of each with the true accuracies of NAS-Bench-201.

Cells are drawn at random. Each gets the scores by which a search could rank it: the accuracy after a brief training, as
`best/proxy` is, with other sizes and from its learning curve; its accuracy in a supernet; and scores that need no
training. The table says how well each agrees with the true accuracy on CIFAR-10, and what it costs. A cell is a line of
the file; the same command goes on after the last one.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import nn
from torch.nn import functional as F

from dasgm.bilevel import replay
from dasgm.config import ProxyConfig, SearchConfig, override
from dasgm.data._images import Data
from dasgm.genotype import Genotype
from dasgm.jobs.proxy import Proxy
from dasgm.measures.counts import count, layer_costs
from dasgm.measures.naswot import naswot
from dasgm.measures.truth import Truth
from dasgm.networks.supernet import Mixture
from dasgm.presets import preset
from dasgm.search import Search
from dasgm.store.files import write_atomic

PRESET = "cifar10-smoke-nasbench201"
RESAMPLED = 2000
SEED = 0
VARIANTS: dict[str, dict[str, Any]] = {
    "as the preset": {},
    "rate 0.2": {"lr": 0.2},
    "16 channels, 4 epochs, rate 0.1": {"channels": 16, "epochs": 4, "lr": 0.1},
    "batch 16, 4 epochs": {"batch_size": 16, "epochs": 4},
}
"""Brief trainings: what differs from the preset's."""


class Watched(Proxy):
    """A brief training that keeps its learning curve."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.losses: list[float] = []  # the mean of each epoch
        self.accuracies: list[float] = []
        self.others: list[float] = []  # on J_2, which is larger
        self.sum = torch.zeros(())
        self.measuring = 0.0  # processor seconds

    def take(self, i: int, batch: Any) -> None:
        loss, _ = self.training.step(*batch, self.epoch, i)
        self.sum += loss

    def end_epoch(self) -> None:
        super().end_epoch()
        self.losses.append(self.sum.item() / self.length)
        self.sum.zero_()
        begun = time.process_time()
        self.accuracies.append(self.accuracy()[0])
        data, held_out = self.source.data, self.source.held_out
        self.source.held_out = data.J2
        self.others.append(self.accuracy()[0])
        self.source.held_out = held_out
        self.measuring += time.process_time() - begun


def trained(genotype: Genotype, data: Data, config: ProxyConfig) -> dict[str, Any]:
    """A brief training: its curve, and its processor time without that of measuring accuracies."""
    begun = time.process_time()
    run = Watched(genotype, data, config, SEED)
    if run.chance is not None:
        return {"loss": [math.log(len(data.classes))], "J_val": [run.chance], "J_2": [run.chance]}
    run.go_through()
    seconds = time.process_time() - begun - run.measuring
    return {"loss": run.losses, "J_val": run.accuracies, "J_2": run.others, "seconds": seconds}


# scores without a training


def untrained(genotype: Genotype, data: Data, config: ProxyConfig) -> dict[str, float]:
    """Scores of the network as it is initialised, on one batch. Larger is better.

    parameters, multiply_adds
    gradient_norm   Euclidean norm of the loss's gradient (Abdelfattah et al. 2021, arXiv 2101.08134)
    snip            sum of |weight * gradient| (Lee et al. 2019, arXiv 1810.02340)
    synflow         log of the sum of weight * gradient of an all-positive network's output (Tanaka et al. 2020, arXiv
                    2006.05467)
    naswot          dasgm.measures.naswot
    """

    def network() -> nn.Module:
        with replay(SEED, "untrained"):
            return genotype.build(config.channels, config.cells, len(data.classes))

    size = data.image_size
    found = {"parameters": float(count(network()))}
    costs = layer_costs(network(), torch.zeros(1, 3, size, size))
    found["multiply_adds"] = float(sum(cost.multiply_adds for cost in costs.values()))
    i = data.J1[: config.batch_size]
    x, y = data.to_classifier(data.raw(i)), data.labels[i]
    plain = network()
    gradient = torch.autograd.grad(F.cross_entropy(plain(x), y), list(plain.parameters()), allow_unused=True)
    pairs = [(p.detach(), g) for p, g in zip(plain.parameters(), gradient, strict=True) if g is not None]
    found["gradient_norm"] = torch.stack([g.square().sum() for _, g in pairs]).sum().sqrt().item()
    found["snip"] = sum((p * g).abs().sum().item() for p, g in pairs)
    found["synflow"] = synflow(network(), size)
    found["naswot"] = naswot(genotype, data, config.channels, config.cells)
    return found


def synflow(network: nn.Module, size: int) -> float:
    network = network.double().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.abs_()
    parameters = [p for p in network.parameters() if p.requires_grad]
    out = network(torch.ones(1, 3, size, size, dtype=torch.float64)).sum()
    gradient = torch.autograd.grad(out, parameters, allow_unused=True)
    total = sum((p * g).sum().item() for p, g in zip(parameters, gradient, strict=True) if g is not None)
    return float(np.log(total)) if total > 0 else -np.inf


# the supernet


def supernet_scores(config: SearchConfig, data: Data, cells: list[Genotype], epochs: int) -> list[float]:
    """Accuracy of each cell with the weights of a supernet that was trained with A as it begins, on all
    images that it did not learn from, by batch statistics."""
    size = {"gan": "none", "order": "first", "method.epochs": epochs, "method.arch_start_epoch": epochs}
    search = Search(override(config, size), data)
    while search.left:
        search.schedule()
        for _ in range(search.batches):
            search.iterate()
        search.left -= 1
    held_out = torch.cat([data.J2, data.Jval])
    return [_accuracy(search, cell, held_out) for cell in cells]


@torch.no_grad()
def _accuracy(search: Search, cell: Any, J: torch.Tensor) -> float:
    operations = search.config.space.operations
    weights = F.one_hot(torch.tensor([operations.index(name) for name in cell.operations]), len(operations)).float()
    right, data = 0, search.data
    for i in J.split(256):
        logits = search.W.module(data.to_classifier(data.raw(i)), Mixture((weights,)))
        right += int((logits.argmax(1) == data.labels[i]).sum())
    return right / len(J)


# the table


def scores(line: dict[str, Any], variants: Sequence[str]) -> dict[str, float]:
    """All scores of a cell, by name. Larger is better."""
    found = dict(line["untrained"]) | {"supernet": line["supernet"]}
    for name in variants:
        curve = line["trained"][name]
        loss = curve["loss"]
        found[f"{name}: J_val"] = curve["J_val"][-1]
        found[f"{name}: J_2"] = curve["J_2"][-1]
        found[f"{name}: mean training loss of all epochs"] = -statistics.fmean(loss)
        found[f"{name}: training loss, last epoch"] = -loss[-1]
    return found


def tau(score: np.ndarray, true: np.ndarray) -> tuple[float, float, float]:
    """Kendall's tau-b and its bootstrap interval of 95 %."""
    draws, n = np.random.default_rng(0), len(true)
    again = []
    for _ in range(RESAMPLED):
        i = draws.integers(0, n, n)
        again.append(kendalltau(score[i], true[i]).statistic)
    low, high = np.nanquantile(again, [0.025, 0.975])
    return float(kendalltau(score, true).statistic), float(low), float(high)


def table(lines: list[dict[str, Any]], variants: Sequence[str]) -> str:
    true = np.array([line["true"] for line in lines])
    upper = true >= np.median(true)
    found = [scores(line, variants) for line in lines]
    text = [
        "| score | tau (95 %) | tau among the better half (95 %) | true accuracy of its best cell, % |",
        "|---|---|---|---|",
    ]
    for name in found[0]:
        score = np.array([one[name] for one in found])
        cells = [f"{a:.2f} ({b:.2f} to {c:.2f})" for a, b, c in (tau(score, true), tau(score[upper], true[upper]))]
        text.append(f"| {name} | {' | '.join(cells)} | {true[score.argmax()]:.2f} |")
    for name in variants:
        seconds = [line["trained"][name]["seconds"] for line in lines if "seconds" in line["trained"][name]]
        text.append(f"\n{name}: {statistics.median(seconds):.1f} s of processor time a cell")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.ranking", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--truth", required=True, help="table of true accuracies, as dasgm lookup reads it")
    parser.add_argument("--data-dir", required=True, help="folder with CIFAR-10")
    parser.add_argument(
        "--file", type=Path, default=Path("ranking.jsonl"), help="where lines are kept (default: %(default)s)"
    )
    parser.add_argument("--cells", type=int, default=80, help="how many are drawn (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", default=["as the preset"], choices=list(VARIANTS))
    parser.add_argument("--supernet-epochs", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    config = override(preset(PRESET).config, {"data_dir": asked.data_dir})
    data, space = config.data.load(config.data_dir), config.space
    truth = Truth.load(asked.truth, space)
    cells = [space.random(seed) for seed in range(asked.cells)]
    lines = [json.loads(line) for line in asked.file.read_text().splitlines()] if asked.file.exists() else []
    by_cell = {line["cell"]: line for line in lines}
    if any(str(cell) not in by_cell for cell in cells):
        supernet = supernet_scores(config, data, cells, asked.supernet_epochs)
        for cell, accuracy in zip(cells, supernet, strict=True):
            line = by_cell.setdefault(str(cell), {"cell": str(cell), "trained": {}})
            line |= {"supernet": accuracy, "true": 100 * truth.of(cell)["cifar10"]}
            line["untrained"] = untrained(cell, data, config.proxy)
        keep(asked.file, by_cell)
    for name in asked.variants:
        for number, cell in enumerate(cells):
            line = by_cell[str(cell)]
            if name not in line["trained"]:
                line["trained"][name] = trained(cell, data, replace(config.proxy, **VARIANTS[name]))
                keep(asked.file, by_cell)
                print(f"{name}, cell {number + 1} of {len(cells)}", flush=True)
    print(table([by_cell[str(cell)] for cell in cells], asked.variants))


def keep(path: Path, by_cell: dict[str, Any]) -> None:
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in by_cell.values()))


if __name__ == "__main__":
    main()
