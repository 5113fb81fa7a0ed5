"""Spaces for the sweeps in tests: which trial is good, hopeless or broken is known beforehand."""

from __future__ import annotations

from typing import Any

from optuna.trial import BaseTrial

from dasgm.config import SearchConfig


def mixed(trial: BaseTrial, base: SearchConfig) -> dict[str, Any]:
    """t000 learns, t001's loss is infinite, t002 does not learn."""
    rate = {1: 1e30, 2: 1e-9}.get(trial.number, 0.1)
    changes: dict[str, Any] = {"classifier_lr": trial.suggest_float("classifier_lr", rate, rate), "gan": "none"}
    if trial.number == 1:
        changes["classifier_clip"] = 1e30
    return changes | {"classifier_lr_min": 0.0}


def wrong(trial: BaseTrial, base: SearchConfig) -> dict[str, Any]:
    """No configuration: a portion above 1."""
    return {"val_portion": trial.suggest_float("val_portion", 1.5, 2.0)}


def rates(trial: BaseTrial, base: SearchConfig) -> dict[str, Any]:
    """All learn, each at a rate of its own."""
    rate = 0.1 / (1 + trial.number)
    return {"classifier_lr": trial.suggest_float("classifier_lr", rate, rate), "gan": "none", "classifier_lr_min": 0.0}


def sizes(trial: BaseTrial, base: SearchConfig) -> dict[str, Any]:
    """The networks that are scored are not of one size, which the first proposal need not show."""
    return {"proxy.cells": trial.suggest_categorical("cells", [3, 3, 3, 4])}
