"""What came of a search, a training and a fit, read from their folders. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dasgm.genotype import Genotype
from dasgm.store.bucket import lies_at, local
from dasgm.store.records import read_json

if TYPE_CHECKING:
    from dasgm.model import Model
    from dasgm.pages.comparison import Comparison
    from dasgm.pages.view import RunView


@dataclass(frozen=True)
class Accuracy:
    """A share of pictures that a network gets right, from 0 to 1, with its 95 % interval."""

    value: float
    low: float
    """Lower end of the interval. NaN where it is not known: images do not reach the classifier of the network."""
    high: float
    """Upper end of the interval, as `low`."""

    @property
    def error(self) -> float:
        """The share that it gets wrong."""
        return 1 - self.value

    def __str__(self) -> str:
        return f"{self.value:.2%} ({self.low:.2%} to {self.high:.2%})"


@dataclass(frozen=True)
class Reported:
    """What lies in a folder with a result page."""

    folder: Path
    """Of a run or a sweep; of one in object storage its copy here."""

    @property
    def page(self) -> Path:
        """The result page, HTML."""
        return self.folder / "report.html"


@dataclass(frozen=True)
class SearchResult(Reported):
    """What a finished search found."""

    genotype: Genotype
    accuracy: Accuracy | None
    """Accuracy on J_val, or J_2 where no J_val is set aside, of the found network after the proxy's short training on
    J_1. The interval is the value plus and minus 1.96 standard errors. None: there was no proxy (`proxy.epochs` 0)."""
    naswot: float | None
    """NASWOT (arXiv 2006.04647) of the found network, untrained. None: there was no proxy."""
    supernet_accuracy: float | None
    """Accuracy of the supernet on the same images after the last epoch. None: no supernet was trained."""
    parameters: int | None
    """Parameters of the network that `evaluate` trains by default. None: a run of an older version."""
    multiply_adds: int | None
    """Multiply-adds of that network for one image."""
    epochs: int
    gpu_hours: float
    """Hours of all devices together, without the proxy."""
    metrics: Mapping[str, Any] = field(repr=False, compare=False)
    """The last row of metrics.jsonl."""

    @classmethod
    def read(cls, folder: str | Path) -> SearchResult:
        """What a finished search in `folder` found. ValueError: there is none."""
        from dasgm.measures.intervals import Z  # NumPy, which a command's help does not wait for

        run = _finished(folder, "search")
        if run.genotype is None:
            raise ValueError(f"run {lies_at(run.folder)}: genotype.json is missing or cannot be read")
        last = run.metrics[-1]
        value, error = last.get("best/proxy"), last.get("best/proxy_error", 0.0)
        accuracy = None
        if value is not None:
            accuracy = Accuracy(value, max(0.0, value - Z * error), min(1.0, value + Z * error))
        return cls(
            run.folder,
            run.genotype,
            accuracy,
            last.get("best/naswot"),
            run.last("val/accuracy"),
            last.get("best/parameters"),
            last.get("best/multiply_adds"),
            run.epochs,
            float(last.get("cost/gpu_hours", 0.0)),
            MappingProxyType(last),
        )

    @property
    def genotype_file(self) -> Path:
        """The genotype as JSON."""
        return self.folder / "genotype.json"


@dataclass(frozen=True)
class EvaluationResult(Reported):
    """What a finished training measured, after the last epoch."""

    accuracy: Accuracy
    """Accuracy on the test set, with Wilson's interval. Of `folds` it is that on all pictures, each measured once."""
    top5_error: float | None
    """Share of the test pictures whose class is not among the five most probable. None: there are at most 5."""
    parameters: int
    multiply_adds: int
    """Of one image."""
    epochs: int
    gpu_hours: float
    """Hours of all devices together."""
    folds: int
    """Number of networks that were trained, each measured on its part; 0: one network, and a test set."""
    metrics: Mapping[str, Any] = field(repr=False, compare=False)
    """The last row of metrics.jsonl. metrics.json in the folder has more: recall by class, calibration, mistakes."""

    @classmethod
    def read(cls, folder: str | Path) -> EvaluationResult:
        """What a finished training in `folder` measured. ValueError: there is none."""
        run = _finished(folder, "evaluation")
        last, measured = run.metrics[-1], read_json(run.folder / "metrics.json").get("accuracy", {})
        if missing := {"result/error", "result/parameters", "result/multiply_adds"} - last.keys():
            raise ValueError(f"run {lies_at(run.folder)}: the last line of metrics.jsonl has no {min(missing)}")
        return cls(
            run.folder,
            Accuracy(1 - last["result/error"], *(measured.get(end, math.nan) for end in ("low", "high"))),
            last.get("result/top5_error"),
            last["result/parameters"],
            last["result/multiply_adds"],
            run.epochs,
            float(last.get("cost/gpu_hours", 0.0)),
            int(last.get("result/folds", 0)),
            MappingProxyType(last),
        )

    @property
    def predictions(self) -> Path:
        """A CSV table: what each test picture was taken for."""
        return self.folder / "predictions.csv"

    def load(self, device: str = "cpu") -> Model:
        """The trained network, as `dasgm.load`. ValueError: there is none, as of `folds`."""
        import dasgm

        return dasgm.load(self.folder, device)


@dataclass(frozen=True)
class FitResult:
    """What came of a folder of pictures."""

    folder: Path
    search: SearchResult | None
    """None: a given genotype was trained."""
    training: EvaluationResult
    against: Mapping[str, EvaluationResult]
    """The known networks that were trained beside it, by name."""

    @property
    def accuracy(self) -> Accuracy:
        """That of the trained network on the test pictures."""
        return self.training.accuracy

    @property
    def comparison(self) -> Path | None:
        """A Markdown table of the networks. None: there is one alone."""
        return self.folder / "comparison.md" if self.against else None

    def compare(self) -> Comparison:
        """The networks on the same test pictures, the found one first. ValueError: there is one alone."""
        from dasgm.pages.comparison import compare

        return compare([one.folder for one in (self.training, *self.against.values())])

    def load(self, device: str = "cpu") -> Model:
        """The trained network, as `dasgm.load`."""
        return self.training.load(device)


def _finished(folder: str | Path, kind: str) -> RunView:
    """A finished run of this kind. ValueError: there is none."""
    from dasgm.pages.view import read_run

    run = read_run(local(folder))
    if not run.info:
        raise ValueError(f"run {lies_at(run.folder)}: expected the folder of a run, with run.json")
    if (found := run.info.get("kind") or "search") != kind:
        raise ValueError(f"run {lies_at(run.folder)}: it is of the kind {found}, expected {kind}")
    if run.state != "finished" or not run.metrics:
        raise ValueError(f"run {lies_at(run.folder)}: it is {run.state}, expected a finished one; continue it first")
    return run
