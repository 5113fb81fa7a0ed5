"""What a trained classifier is worth on measured pictures: functions of labels and logits, or of what they give.

Class numbers are int64 from 0. Probabilities are those of a softmax in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dasgm.measures.intervals import wilson

BINS = 15  # of the calibration error (Guo et al., ICML 2017)
FEW = 20  # classes up to which all probabilities of a picture are kept
TEMPERATURES = (0.05, 20.0)  # the range in which a temperature is looked for
CALIBRATION = (
    f"expected calibration error: {BINS} bins of equal width, of the most probable class's probability; each bin's "
    "|accuracy - mean probability|, weighted by its share of the pictures (Guo et al. 2017)"
)


@dataclass(frozen=True)
class Outcomes:
    """What a network says of n pictures, one entry a picture.

    Attributes:
        label, predicted: int64 [n], the true and the most probable class.
        probability: float32 [n], of the predicted class.
        loss: float32 [n], the negative logarithm of the true class's probability.
        tempered, tempered_loss: both once more, of the logits divided by a temperature.
        probabilities: float32 [n, classes]; [n, 0] where there are more than FEW classes.
    """

    label: Any
    predicted: Any
    probability: Any
    loss: Any
    tempered: Any
    tempered_loss: Any
    probabilities: Any

    def arrays(self) -> list[Any]:
        """The entries in the order of their names above."""
        return [getattr(self, one.name) for one in fields(self)]


def outcomes(labels: Tensor, logits: Tensor, temperature: float = 1.0) -> Outcomes:
    """Of labels int64 [n] and logits float [n, classes], as tensors on their device."""
    logs = logits.float().log_softmax(1)
    best, predicted = logs.max(1)
    logs_tempered = (logits.float() / temperature).log_softmax(1)

    def loss(of: Tensor) -> Tensor:
        return -of.gather(1, labels[:, None])[:, 0]

    kept = logs.exp() if logs.shape[1] <= FEW else logs[:, :0]
    tempered = logs_tempered.amax(1).exp()
    return Outcomes(labels, predicted, best.exp(), loss(logs), tempered, loss(logs_tempered), kept)


def joined(parts: Sequence[Outcomes]) -> Outcomes:
    """Those of several batches as one, as NumPy arrays."""
    columns = zip(*(part.arrays() for part in parts), strict=True)
    return Outcomes(*(np.concatenate([np.asarray(one) for one in column]) for column in columns))


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How many pictures of a class (row) were taken for a class (column): int64 [classes, classes]."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def no_better_than_one_answer(names: Sequence[str], matrix: np.ndarray) -> list[str]:
    """Sentences about a classifier that an answer without looking equals; [] where it is better than that.

    Args:
        matrix: as `confusion` gives it.
    """
    pictures, said, lines = int(matrix.sum()), np.flatnonzero(matrix.sum(0)), list[str]()
    if len(said) == 1:
        lines.append(
            f"It says {names[said[0]]} of all {pictures:,} pictures, so it tells no classes apart: train it for longer."
        )
    counts, right = matrix.sum(1), int(matrix.trace())
    if right <= counts.max():
        lines.append(
            f"Always saying {names[int(counts.argmax())]}, the class with the most pictures, would be right for "
            f"{counts.max() / pictures:.2%} of them, and the network is right for {right / pictures:.2%}."
        )
    return lines


def per_class(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision of each class, from the confusion matrix. NaN: no picture of it, or never predicted."""
    with np.errstate(invalid="ignore"):
        right = matrix.diagonal()
        return right / matrix.sum(1), right / matrix.sum(0)


def balanced_accuracy(matrix: np.ndarray) -> float:
    """The mean recall of the classes that were measured."""
    return float(np.nanmean(per_class(matrix)[0]))


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """For each of BINS bins (low, high]: count, and where there are pictures their mean confidence and accuracy."""
    place = np.clip(np.ceil(confidence.astype(float) * BINS).astype(int) - 1, 0, BINS - 1)
    count, sure, hits = (np.bincount(place, weight, BINS) for weight in (None, confidence, right))
    return [
        {"low": i / BINS, "high": (i + 1) / BINS, "count": int(n)}
        | ({"confidence": float(sure[i] / n), "accuracy": float(hits[i] / n)} if n else {})
        for i, n in enumerate(count)
    ]


def together(parts: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """The bins of several sets of pictures, each as `reliability` gives them, as those of all pictures."""
    found = []
    for some in zip(*parts, strict=True):
        n = sum(one["count"] for one in some)
        one = {key: some[0][key] for key in ("low", "high")} | {"count": n}
        for key in ("confidence", "accuracy") if n else ():
            one[key] = sum(each["count"] * each[key] for each in some if each["count"]) / n
        found.append(one)
    return found


def calibration_error(bins: Sequence[dict[str, float]]) -> float:
    """ECE of the bins of `reliability`; see CALIBRATION."""
    filled = [one for one in bins if one["count"]]
    seen = sum(one["count"] for one in filled)
    return sum(one["count"] * abs(one["accuracy"] - one["confidence"]) for one in filled) / seen


def temperature(labels: Tensor, logits: Tensor, total: Callable[[Tensor], Tensor] = lambda sums: sums) -> float:
    """The number by which logits are divided so that the mean loss is least (Guo et al. 2017, Section 4.2).

    The loss is convex in 1 / temperature. It is looked for in TEMPERATURES.

    Args:
        labels, logits: int64 [n] and float [n, classes], of pictures that are neither trained on nor measured.
        total: sums float64 [2] over the workers, each of which holds a share of the pictures.
    """
    from scipy.optimize import minimize_scalar

    def loss(logarithm: float) -> float:
        logs = (logits.float() / math.exp(logarithm)).log_softmax(1)
        of_all = -logs.gather(1, labels[:, None]).cpu().double().sum()
        summed, count = total(torch.stack([of_all, of_all.new_tensor(len(labels))])).tolist()
        return float(summed / count)

    bounds = [math.log(end) for end in TEMPERATURES]
    return math.exp(float(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5}).x))


def summary(found: Outcomes, classes: Sequence[str]) -> dict[str, Any]:
    """`figures` of joined outcomes."""
    right = found.label == found.predicted
    matrix = confusion(found.label, found.predicted, len(classes))
    return figures(classes, matrix, reliability(found.probability, right), float(found.loss.mean(dtype=float)))


def figures(
    classes: Sequence[str], matrix: np.ndarray, bins: Sequence[dict[str, float]], nll: float | None
) -> dict[str, Any]:
    """Figures of merit as plain data; a figure that there is not, or that is not finite, is None.

    pictures             number of pictures measured
    accuracy             {value, low, high}: with its 95 % Wilson interval
    balanced_accuracy    mean recall of the classes that were measured
    nll                  mean negative logarithm of the true class's probability, in nats
    ece                  {value, protocol, bins}: see `reliability`
    classes              a list of {name, count, predicted, recall, recall_low, recall_high, precision}
    confusion            rows are the true classes, columns the predicted ones

    Args:
        matrix, bins: as `confusion` and `reliability` give them.
    """
    n, right = int(matrix.sum()), int(matrix.trace())
    recall, precision = per_class(matrix)
    low, high = wilson(matrix.diagonal(), matrix.sum(1))
    columns = {"count": matrix.sum(1), "predicted": matrix.sum(0), "recall": recall, "recall_low": low}
    columns |= {"recall_high": high, "precision": precision}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    value = {
        "pictures": n,
        "accuracy": dict(zip(("value", "low", "high"), map(float, (right / n, *wilson(right, n))), strict=True)),
        "balanced_accuracy": balanced_accuracy(matrix),
        "nll": nll,
        "ece": {"value": calibration_error(bins), "protocol": CALIBRATION, "bins": list(bins)},
        "classes": [
            {"name": name} | dict(zip(columns, row, strict=True)) for name, row in zip(classes, rows, strict=True)
        ],
        "confusion": matrix.tolist(),
    }
    return dict(_finite(value))


def tempered(found: Outcomes, factor: float) -> dict[str, float | None]:
    """The temperature, and the calibration error and the mean loss after it."""
    bins = reliability(found.tempered, found.label == found.predicted)
    after = {"value": factor, "ece": calibration_error(bins), "nll": float(found.tempered_loss.mean(dtype=float))}
    return dict(_finite(after))


def _finite(value: Any) -> Any:
    """Plain data with None for each number that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
