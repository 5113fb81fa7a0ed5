"""What a sweep varies: define-by-run functions suggest(trial) -> overrides of the base configuration.

A user's own is named by --space module:function; the function gets an Optuna trial and the base configuration.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dasgm.config import SearchConfig, key_of, keys, settings
from dasgm.presets import with_gan

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Space = Callable[["BaseTrial", SearchConfig], dict[str, Any]]


def default(trial: BaseTrial, base: SearchConfig) -> dict[str, Any]:
    """Classifier, architecture and generator rates (log-uniform around the preset's), validation portion, GAN type.

    The generator's rate and the portion exist only under a GAN, the rate only where it is trained.
    """

    def around(name: str, middle: float, factor: float) -> float:
        return trial.suggest_float(name, middle / factor, middle * factor, log=True)

    changes: dict[str, Any] = {
        "classifier_lr": around("classifier_lr", base.classifier_lr, 4),
        "arch_lr": around("arch_lr", base.arch_lr, 4),
    }
    offered = ["none", key_of(base.gan)] if base.gan else ["none"]
    gan = changes["gan"] = trial.suggest_categorical("gan", offered)
    if gan == "none":
        changes |= {"freeze_gan": False, "gan_checkpoint": None} if base.gan_checkpoint else {}
    else:
        assert base.gan is not None
        if not base.freeze_gan:
            changes["gan.generator_lr"] = around("generator_lr", base.gan.generator_lr, 4)
        changes["val_portion"] = trial.suggest_categorical("val_portion", [0.0, 0.3, 0.5, 0.7])
    return changes


def gans(trial: BaseTrial, base: SearchConfig) -> dict[str, Any]:
    """GAN type among all there are, and the validation portion under one: the cells of Table 4 and of the +Val rows."""
    key = trial.suggest_categorical("gan", ["none", *keys("gans")])
    changes: dict[str, Any] = {"gan": key}
    if key != "none":
        leaves = settings(with_gan(base, key)).items()
        changes |= {path: value for path, value in leaves if path.startswith("gan.") and path != "gan.key"}
        changes["val_portion"] = trial.suggest_categorical("val_portion", [0.0, 0.3, 0.5, 0.7])
    return changes


def load(name: str) -> Space:
    """The space called module:function, or the default for ''.

    Raises:
        ValueError: it cannot be imported, or is not a function.
    """
    if not name:
        return default
    module, _, function = name.partition(":")
    sys.path.append(os.getcwd())  # as with `python FILE`, a file beside the user is found
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # the user's module may fail in any way
        raise ValueError(f"space {name!r}: {error}; expected module:function, importable from here") from None
    if not callable(found):
        raise ValueError(f"space {name!r}: expected a function of (trial, base configuration)")
    return found


def title(number: int, parameters: dict[str, Any]) -> str:
    """What varies, short: `t003 biggan v50`, or of a table's row `t003 dasgm-pdarts s1`."""
    if "row" in parameters:
        return f"t{number:03d} {parameters['row']} s{parameters['seed']}"
    portion = f" v{100 * parameters['val_portion']:.0f}" if "val_portion" in parameters else ""
    return f"t{number:03d} {parameters.get('gan', '')}{portion}".strip()
