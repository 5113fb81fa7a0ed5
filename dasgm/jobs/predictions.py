"""What a trained network says of each test picture: predictions.csv, metrics.json and the pictures that it mistakes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dasgm.distributed import average, gather, world_size
from dasgm.jobs.training import Batches, Training
from dasgm.measures.answers import COLUMNS, PREDICTIONS
from dasgm.measures.classification import (
    FEW,
    Outcomes,
    joined,
    no_better_than_one_answer,
    outcomes,
    summary,
    temperature,
    tempered,
)
from dasgm.measures.intervals import WIDE, enough, widest
from dasgm.options import option
from dasgm.store.files import printable, write_atomic

if TYPE_CHECKING:
    from dasgm.data._images import Data
    from dasgm.data._loader import Photographs

METRICS = "metrics.json"
NAMES = tuple(one.name for one in fields(Outcomes))
UNEQUAL = 2.0  # ratio of the largest to the smallest class from which on the option that balances them is named
MOST_MISTAKES = 24  # pictures that are kept, the most confident mistakes first


@dataclass(frozen=True)
class Found:
    """What was measured on the test pictures, each once.

    Attributes:
        index: int64 [n], ascending: which test pictures these are. Unreadable ones are left out.
        outcomes: of each of them, as NumPy arrays.
        temperature: what probabilities are tempered by; None: no pictures are held out.
        held: the number of held-out pictures that it was set on.
    """

    index: np.ndarray
    outcomes: Outcomes
    temperature: float | None = None
    held: int = 0


def sizes(classes: Sequence[str], train: Tensor, test: Tensor) -> list[str]:
    """Lines about the numbers of training and of test pictures of each class, and of classes too small to measure."""
    counts = list(zip(classes, train.tolist(), test.tolist(), strict=True))
    if len(classes) <= FEW:
        lines = ["pictures to train on + to measure: " + ", ".join(f"{name}: {n:,} + {m:,}" for name, n, m in counts)]
    else:
        ends = [sorted(counts, key=lambda one: one[part]) for part in (1, 2)]
        said = [
            f"{some[0][part]:,} ({some[0][0]}) to {some[-1][part]:,} ({some[-1][0]})"
            for part, some in enumerate(ends, 1)
        ]
        lines = [f"{len(classes):,} classes; pictures of a class to train on: {said[0]}; to measure: {said[1]}"]
    small = sorted(((m, name) for name, _, m in counts if m < enough()))
    if small:
        least = f"{small[0][1]} has {small[0][0]}, which gives ± {100 * widest(small[0][0]):.0f}"
        lines.append(
            f"{len(small):,} of {len(classes):,} classes are too small to measure their recall to ± {100 * WIDE:.0f} "
            f"points (95 %), for which {enough()} test pictures are needed: {least}"
        )
    return [printable(line) for line in lines]


def unequal(classes: Sequence[str], train: Tensor) -> list[str]:
    """A line about classes of unequal size in a training that does not balance them; [] where they are about equal."""
    most, least = int(train.argmax()), int(train.argmin())
    ratio = int(train[most]) / max(1, int(train[least]))
    if ratio < UNEQUAL:
        return []
    return [
        printable(
            f"classes of unequal size: {classes[most]} has {ratio:.1f} times as many pictures to train on as "
            f"{classes[least]}; {option('balance')} loss, or sampling, gives all classes the same weight"
        )
    ]


def measure(training: Training, source: Batches, held: Batches | None) -> Found:
    """Measure the test pictures with the network as it is; every worker calls it, and has what all workers found.

    Args:
        held: source whose `testing` gives pictures that are neither trained on nor measured; they set the temperature.
    """
    factor, number = _temperature(training, held) if held else (None, 0)
    places, start, indices, parts = source.tested(), 0, [], []
    for logits, y, mask in training.measured(source):
        keep = mask.cpu().numpy()
        found = outcomes(y, logits, factor or 1.0)
        columns = dict(zip(NAMES, (column.cpu().numpy()[keep] for column in found.arrays()), strict=True))
        for name in ("label", "predicted"):  # they become indices: what a faulty device answers is kept within bounds
            columns[name] = columns[name].clip(0, training.classes - 1)
        parts.append(Outcomes(**columns))
        indices.append(places[start : start + len(keep)][keep])
        start += len(keep)
    shares = gather((indices, parts))
    index = np.concatenate([some for share, _ in shares for some in share])
    order = index.argsort(kind="stable")
    whole = joined([part for _, share in shares for part in share])
    return Found(index[order], Outcomes(*(column[order] for column in whole.arrays())), factor, number)


def _temperature(training: Training, held: Batches) -> tuple[float, int]:
    """The temperature, and on how many pictures of all workers it was set."""
    parts = [(y[mask], logits[mask]) for logits, y, mask in training.measured(held)]
    labels, logits = (torch.cat(column) for column in zip(*parts, strict=True))

    def total(sums: Tensor) -> Tensor:
        average([sums])
        return sums * world_size()

    return temperature(labels, logits, total), sum(gather(len(labels)))


def write_results(folder: Path, data: Data | Photographs, found: Found, say: Callable[[str], None]) -> dict[str, float]:
    """Write predictions.csv, metrics.json and pictures/mistake-NN.png.

    Args:
        say: is told where the network is no better than one answer for all pictures.

    Returns:
        The figures of merit that the run's last row has as well.
    """
    rows = _rows(data, found)
    write_atomic(folder / PREDICTIONS, _csv(data.classes, rows, found.outcomes))
    value: dict[str, Any] = {"format": 1, "measured_on": "the test set"} | summary(found.outcomes, data.classes)
    for line in no_better_than_one_answer(data.classes, np.array(value["confusion"])):
        say(printable(line))
    for one, n in zip(value["classes"], data.class_counts()[0].tolist(), strict=True):
        one["train"] = n
    factor = found.temperature
    mend = f"{option('calibration')} 0.1 holds a tenth of the training pictures out"
    value["temperature"] = {"value": None, "why": f"not set: no held-out pictures; {mend}"}
    if factor is not None:
        value["temperature"] = tempered(found.outcomes, factor) | {"pictures": found.held}
    value["mistakes"] = _mistakes(folder, data, found, rows)
    write_metrics(folder, value)
    merits = {name: value[name] for name in ("balanced_accuracy", "nll")} | {"ece": value["ece"]["value"]}
    if factor is not None:
        merits |= {"temperature": factor, "ece_tempered": value["temperature"]["ece"]}
    return {f"result/{name}": merit for name, merit in merits.items() if merit is not None}


def write_metrics(folder: Path, value: dict[str, Any]) -> None:
    """metrics.json, an entry a line."""
    lines = (
        f"{json.dumps(key)}: {json.dumps(one, allow_nan=False, separators=(',', ':'))}" for key, one in value.items()
    )
    write_atomic(folder / METRICS, "{\n" + ",\n".join(lines) + "\n}\n")


def _rows(data: Data | Photographs, found: Found) -> list[tuple[str, str, str, float]]:
    """COLUMNS of each picture."""
    names, of = [data.test_name(i) for i in found.index.tolist()], found.outcomes
    columns = zip(names, of.label.tolist(), of.predicted.tolist(), of.probability.tolist(), strict=True)
    return [(name, data.classes[label], data.classes[said], p) for name, label, said, p in columns]


def _csv(classes: Sequence[str], rows: Sequence[tuple[str, str, str, float]], found: Outcomes) -> str:
    """With up to FEW classes each one's probability as well."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    several = found.probabilities.shape[1] > 0
    writer.writerow([*COLUMNS, *(f"p({name})" for name in (classes if several else ()))])
    for (*names, p), all_of_it in zip(rows, found.probabilities.tolist(), strict=True):
        writer.writerow([*names, *(f"{one:.6g}" for one in (p, *all_of_it))])
    return text.getvalue()


def _mistakes(
    folder: Path, data: Data | Photographs, found: Found, rows: Sequence[tuple[str, str, str, float]]
) -> list[dict[str, Any]]:
    """The most confident mistakes as pictures, and what metrics.json has of them."""
    of = found.outcomes
    wrong = np.flatnonzero(of.label != of.predicted)
    wrong = wrong[np.argsort(-of.probability[wrong], kind="stable")][:MOST_MISTAKES]
    pictures = [data.test_picture(int(i)) for i in found.index[wrong]]
    files = keep_pictures(folder, "mistake", pictures)
    return [
        dict(zip(COLUMNS, rows[i], strict=True)) | {"file": file} for i, file in zip(wrong.tolist(), files, strict=True)
    ]


def keep_pictures(folder: Path, kind: str, pictures: Sequence[Tensor]) -> list[str]:
    """Write uint8 [3, H, W] as pictures/<kind>-NN.png, in place of those that were there; their paths in the folder."""
    (folder / "pictures").mkdir(exist_ok=True)
    for old in (folder / "pictures").glob(f"{kind}-*.png"):
        old.unlink()
    names = [f"pictures/{kind}-{i:02d}.png" for i in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        buffer = BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
        write_atomic(folder / name, buffer.getvalue())
    return names
