"""Figures of merit of a classifier, against scikit-learn, torchmetrics and scipy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn import metrics
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from dasgm.measures.classification import (
    calibration_error,
    joined,
    no_better_than_one_answer,
    outcomes,
    reliability,
    summary,
    temperature,
    tempered,
)
from dasgm.measures.intervals import enough, widest, wilson


def said(n: int = 500, classes: int = 5, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels, of which the last class has none, and logits that are often right."""
    generator = torch.Generator().manual_seed(n)
    labels = torch.randint(classes - 1, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator)
    logits[torch.arange(n), labels] += 1.0
    return labels, logits * scale


def test_a_network_that_one_answer_equals_is_told():
    """The newcomer's two: 333 airplanes of 509, and "animal" of all 167."""
    names = ["animal", "other"]
    alone, always = no_better_than_one_answer(names, np.array([[66, 0], [101, 0]]))
    assert alone == "It says animal of all 167 pictures, so it tells no classes apart: train it for longer."
    assert "Always saying other" in always and "right for 60.48% of them" in always and "39.52%" in always
    (always,) = no_better_than_one_answer(names, np.array([[194, 139], [100, 76]]))
    assert "Always saying animal" in always and "65.42%" in always and "53.05%" in always
    assert not no_better_than_one_answer(names, np.array([[60, 6], [10, 91]]))


@pytest.mark.parametrize(("right", "n"), [(0, 7), (7, 7), (33, 40), (9_123, 10_000)])
def test_wilson_is_scipys(right, n):
    interval = binomtest(right, n).proportion_ci(0.95, "wilson")
    assert wilson(right, n) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_how_many_pictures_are_enough_by_scipys_interval():
    def half(n: int) -> float:
        low, high = binomtest(n // 2, n).proportion_ci(0.95, "wilson")
        return float(high - low) / 2

    assert widest(40) == pytest.approx(half(40))
    assert enough() == 93 and half(94) < 0.1 < half(92)
    assert np.isnan(wilson(0, 0)).all()


def test_summary_is_what_scikit_learn_finds():
    labels, logits = said()
    halves = [outcomes(labels[part], logits[part]) for part in (slice(0, 300), slice(300, None))]
    found = summary(joined(halves), [*"abcde"])
    predicted, p = logits.argmax(1), logits.softmax(1)
    names = range(5)
    assert found["pictures"] == 500 and found["confusion"] == metrics.confusion_matrix(labels, predicted).tolist()
    assert found["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert found["balanced_accuracy"] == pytest.approx(
        metrics.recall_score(labels, predicted, average=None, labels=range(4)).mean()
    )
    assert found["nll"] == pytest.approx(metrics.log_loss(labels, logits.double().softmax(1), labels=names), rel=1e-5)
    precision, recall, _, count = metrics.precision_recall_fscore_support(
        labels, predicted, labels=names, zero_division=0
    )
    rows = found["classes"]
    assert [row["name"] for row in rows] == [*"abcde"] and [row["count"] for row in rows] == count.tolist()
    assert [row["recall"] for row in rows[:4]] == pytest.approx(recall[:4])
    assert [row["precision"] for row in rows] == pytest.approx(precision)
    assert rows[4]["count"] == 0 and rows[4]["recall"] is None and rows[4]["recall_low"] is None
    ece = multiclass_calibration_error(logits.softmax(1), labels, 5, n_bins=15)
    assert found["ece"]["value"] == pytest.approx(float(ece), abs=1e-6)
    accuracies, confidences = calibration_curve(labels == predicted, p.amax(1), n_bins=15)
    filled = [one for one in found["ece"]["bins"] if one["count"]]
    assert [one["accuracy"] for one in filled] == pytest.approx(accuracies)
    assert [one["confidence"] for one in filled] == pytest.approx(confidences)
    json.dumps(found, allow_nan=False)


def test_bins_are_closed_above():
    bins = reliability(np.array([1 / 15, 0.5, 1.0, 0.0]), np.array([True, False, True, False]))
    assert [i for i, one in enumerate(bins) if one["count"]] == [0, 7, 14] and bins[0]["count"] == 2
    assert calibration_error(bins) == pytest.approx((2 * abs(0.5 - 1 / 30) + 0.5 + 0) / 4)


def test_temperature_undoes_a_factor_and_is_the_least_of_a_grid():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]  # calibrated: its temperature is 1
    assert temperature(labels, logits) == pytest.approx(1.0, abs=0.05)
    factor = temperature(labels, 3 * logits)
    assert factor == pytest.approx(3 * temperature(labels, logits), rel=1e-3)
    grid = [math.exp(x / 50) for x in range(-100, 150)]
    losses = [metrics.log_loss(labels, (3 * logits.double() / t).softmax(1)) for t in grid]
    assert factor == pytest.approx(grid[int(np.argmin(losses))], rel=0.011)
    one = joined([outcomes(labels, 3 * logits, factor)])
    after = tempered(one, factor)
    assert after["nll"] == pytest.approx(min(losses), rel=1e-4)
    ece = multiclass_calibration_error((3 * logits / factor).softmax(1), labels, 4, n_bins=15)
    assert (
        after["ece"] == pytest.approx(float(ece), abs=1e-6) and after["ece"] < summary(one, [*"abcd"])["ece"]["value"]
    )


def test_all_probabilities_are_kept_of_few_classes_only():
    labels, logits = said(8, 20)
    assert torch.allclose(outcomes(labels, logits).probabilities, logits.softmax(1))
    assert outcomes(*said(8, 21)).probabilities.shape == (8, 0)
