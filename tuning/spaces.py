"""What a sweep varies: functions that get an Optuna trial and the base configuration, and return changes of it.

--space MODULE:FUNCTION names a function of the user's own.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from dasgm.config import SearchConfig, settings
from dasgm.given import NOTHING, Given
from dasgm.plugins import key_of, keys
from dasgm.presets import with_gan

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Space = Callable[["BaseTrial", SearchConfig], dict[str, Any]]


SWEPT = {
    "classifier_lr": "classifier_lr",
    "arch_lr": "arch_lr",
    "cost_weight": "cost.weight",
    "gan": "gan",
    "generator_lr": "gan.generator_lr",
    "val_portion": "val_portion",
}
"""What the default space varies: the parameter's name and the setting's path."""


def default(trial: BaseTrial, base: SearchConfig, given: Given = NOTHING) -> dict[str, Any]:
    """Vary the learning rates of classifier, architecture and generator, the validation portion, and the GAN type.

    Rates are log-uniform between a quarter and four times the preset's. A given setting keeps its value. The portion
    is varied only with a GAN, and the generator's rate only if the generator is trained. Where A's loss holds a cost,
    its weight is varied, between a tenth and ten times the base's.
    """
    changes: dict[str, Any] = {}

    def around(name: str, middle: float, factor: float = 4) -> None:
        if SWEPT[name] not in given:
            changes[SWEPT[name]] = trial.suggest_float(name, middle / factor, middle * factor, log=True)

    around("classifier_lr", base.classifier_lr)
    around("arch_lr", base.arch_lr)
    if _heeds_cost(base):
        around("cost_weight", base.cost.weight, 10)
    gan = key_of(base.gan)
    if "gan" not in given:
        gan = changes["gan"] = trial.suggest_categorical("gan", ["none", gan] if base.gan else ["none"])
    if gan == "none":
        changes |= {"freeze_gan": False, "gan_checkpoint": None} if base.gan_checkpoint else {}
        return changes
    assert base.gan is not None
    if not base.freeze_gan:
        around("generator_lr", base.gan.generator_lr)
    if "val_portion" not in given:
        changes["val_portion"] = trial.suggest_categorical("val_portion", [0.0, 0.3, 0.5, 0.7])
    return changes


def _heeds_cost(base: SearchConfig) -> bool:
    return base.cost.kind != "none" and base.cost.weight > 0


def fixed(base: SearchConfig, given: Given) -> dict[str, Any]:
    """Parameters that the default space would vary, but keeps since they are given, and their values."""
    values = settings(base) | {"gan": key_of(base.gan)}
    return {name: values[path] for name, path in SWEPT.items() if path in given and path in values}


def varied(base: SearchConfig, given: Given) -> list[str]:
    """The parameters that the default space varies."""
    of_gan = {"gan"} | ({"val_portion"} if base.freeze_gan else {"val_portion", "generator_lr"})
    there = {"classifier_lr", "arch_lr"} | (of_gan if base.gan else set())
    there |= {"cost_weight"} if _heeds_cost(base) else set()
    return [name for name, path in SWEPT.items() if name in there and path not in given]


def described(name: str, base: SearchConfig, given: Given) -> str:
    """A line that says what the space `name` varies, and which given settings it keeps."""
    proposed = f"the settings that {name} proposes" if name else ", ".join(varied(base, given)) or "nothing"
    kept = ", ".join(f"{parameter} {value}" for parameter, value in fixed(base, given).items())
    return f"varied: {proposed}" + (f"; fixed as given: {kept}" if kept else "")


def gans(trial: BaseTrial, base: SearchConfig) -> dict[str, Any]:
    """Vary the GAN type among all there are, and with a GAN the validation portion: Table 4 and the +Val rows."""
    key = trial.suggest_categorical("gan", ["none", *keys("gans")])
    changes: dict[str, Any] = {"gan": key}
    if key != "none":
        leaves = settings(with_gan(base, key)).items()
        changes |= {path: value for path, value in leaves if path.startswith("gan.") and path != "gan.key"}
        changes["val_portion"] = trial.suggest_categorical("val_portion", [0.0, 0.3, 0.5, 0.7])
    return changes


def load(name: str, given: Given = NOTHING) -> Space:
    """The space of this name, MODULE:FUNCTION. An empty name is the default space, which keeps given settings.

    Raises:
        ValueError: it cannot be imported, or is not a function.
    """
    if not name:
        return partial(default, given=given)
    module, _, function = name.partition(":")
    sys.path.append(os.getcwd())  # a file in the current folder is found, as with `python FILE`
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # the user's module may raise any error
        raise ValueError(
            f"space {name!r}: {error}; expected MODULE:FUNCTION that can be imported from the current folder"
        ) from None
    if not callable(found):
        raise ValueError(f"space {name!r}: expected a function of (trial, base configuration)")
    return found


def name_of(number: int) -> str:
    """The name of a search, and of its folder: t003."""
    return f"t{number:03d}"


def title(number: int, parameters: dict[str, Any]) -> str:
    """A search's name and what varies, short: `t003 biggan v50`, or of a table's row `t003 dasgm-pdarts s1`."""
    if "row" in parameters:
        return f"{name_of(number)} {parameters['row']} s{parameters['seed']}"
    portion = f" v{100 * parameters['val_portion']:.0f}" if "val_portion" in parameters else ""
    return f"{name_of(number)} {parameters.get('gan', '')}{portion}".strip()
