"""The study of a sweep, and what the space makes of its trials. A space that has changed since is refused.

Does not import Ray, so that a wrong space is refused before Ray starts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, check_distribution_compatibility
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from dasgm.bilevel import seed_of
from dasgm.config import PARTS, SearchConfig, override, settings
from dasgm.measures.scores import SCORES
from dasgm.plugins import key_of
from dasgm.store.files import first_line, short
from tuning.plan import Plan, ensure_alike
from tuning.spaces import Space

TRIES = 16  # number of proposals in which a space has to show that it varies a given setting
MEND = "restore the space, or use another --name"


class Conflict(ValueError):
    """The space contradicts what the user has given, or what it was before."""


# ------------------------------------------------------------------------------------------------ the study


def open_study(folder: Path, second: str = "") -> optuna.Study:
    """The study of a sweep's folder, made if there is none: study.db, which optuna-dashboard opens.

    Args:
        second: whether a new one has a second objective, see `Plan`.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = (folder / "study.db").absolute()
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{path}", study_name=folder.name, directions=_directions(second), load_if_exists=True
        )
        study.get_trials(deepcopy=False)
    except Exception as error:  # SQLAlchemy's and Optuna's, if the file is not such a study
        raise ValueError(
            f"study {path}: it cannot be read ({first_line(error)[:200]}); restore it, or use another --name"
        ) from None
    return study


def _ensure_nameable(folder: Path) -> None:
    """ValueError if the databases of Optuna and MLflow cannot hold the name of the folder."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"sweep {folder}: its path has bytes that are no UTF-8, which a sweep's databases cannot hold; use another "
            "--name or --storage"
        ) from None


def _directions(second: str) -> list[Literal["maximize", "minimize"]]:
    return ["maximize", "minimize"] if second else ["maximize"]


def copy_of_study(folder: Path, second: str = "") -> optuna.Study:
    """A copy in memory of the study of a sweep's folder; empty where there is none."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    copy = optuna.create_study(directions=_directions(second))
    if (folder / "study.db").exists():
        copy.add_trials(open_study(folder).get_trials(deepcopy=False))
    return copy


def searches(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that are searches. If the space fails, Optuna keeps a trial of which no search was made."""
    return [trial for trial in trials if trial.state != TrialState.FAIL or "overrides" in trial.user_attrs]


class Prescribed(optuna.samplers.RandomSampler):
    """Proposes given parameters."""

    def __init__(self, parameters: dict[str, Any]):
        super().__init__()
        self.parameters = parameters

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self.parameters[param_name]


def sampler(seed: int, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of the trial with this number: the first trials are random, then TPE proposes them."""
    return optuna.samplers.TPESampler(seed=seed_of(seed, "sampler", number) % 2**32, n_startup_trials=6)


# ------------------------------------------------------------------------------------------------ asking the space


def changes_of(study: optuna.Study, number: int, plan: Plan, space: Space, base: SearchConfig) -> dict[str, Any]:
    """The changes of the base configuration that the space proposes for a trial. The study keeps them.

    Raises:
        ValueError: the space fails, its changes give no valid configuration, or it changes a given setting.
    """
    trials = study.get_trials(deepcopy=False)
    place = len(searches(trials[:number]))
    study.sampler = Prescribed(plan.parameters[place]) if plan.parameters else sampler(base.seed, number)
    trial = _Asked(study, trials[number]._trial_id)
    if "overrides" not in trial.user_attrs:
        try:
            changes = space(trial, base)
            config = override(base, changes)
            _fits_checkpoint(base, config)
            _keeps(plan, base, config)
            trial.set_user_attr("overrides", changes)
        except Exception as error:  # a user's function may raise any error
            study.tell(number, state=TrialState.FAIL)  # no search is made of it; another trial takes its place
            raise ValueError(f"the space, at trial {number}: {error}") from None
    if not isinstance(changes := trial.user_attrs["overrides"], dict):
        raise ValueError(f"study {study.study_name}: the changes of trial {number} are {short(changes)}")
    return changes


def ensure_same_space(folder: Path, plan: Plan, base: SearchConfig, pretrained: bool = True) -> None:
    """Check that the space is the one that proposed the trials of a sweep, and that it can propose the next one.

    It is asked with a copy of the study, so nothing is written.

    Args:
        pretrained: the base configuration has the file of its GAN, or needs none. Otherwise the changes that the space
            proposes cannot be compared yet.

    Raises:
        ValueError: the space has changed (the parameter or the setting is named), or see `changes_of`.
    """
    _ensure_nameable(folder)
    study, space = copy_of_study(folder, plan.second), plan.space()
    made = searches(study.get_trials(deepcopy=False))
    if len(made) >= plan.num_trials:
        return  # no trial is to be proposed
    if not plan.parameters:  # rows of a table are compared by their digest
        for trial in made:
            if isinstance(trial.user_attrs.get("overrides"), dict):
                _ensure_asked_alike(trial, plan, space, base, pretrained)
    changes = changes_of(study, study.ask().number, plan, space, base)
    paths = {path.replace("-", "_") for path in changes}
    if plan.space_name and (paths & plan.given or any(map(SCORES[plan.rank_by].reads, paths))):
        _ensure_kept(plan, space, base)


def _fits_checkpoint(base: SearchConfig, config: SearchConfig) -> None:
    """ValueError if a trial would begin with a pre-trained GAN of another type than its own, or has no GAN."""
    one, other = key_of(base.gan), key_of(config.gan)
    if config.gan_checkpoint and config.gan_checkpoint == base.gan_checkpoint and one != other:
        raise ValueError(
            f"gan {other!r} cannot begin with the pre-trained {one!r} of this sweep: let the space set gan_checkpoint "
            "too (for none freeze_gan as well), or sweep each GAN by itself"
        )


def _keeps(plan: Plan, base: SearchConfig, config: SearchConfig) -> None:
    """Conflict if a user's own space gives a search another value than the given one, or one without a common score."""
    asked, found = _values(base), _values(config)
    unused = {"freeze_gan"} if config.gan is None else set()  # without a GAN there is nothing to freeze
    for path in sorted(plan.given - unused) if plan.space_name else ():
        if path in asked and path in found and asked[path] != found[path]:
            raise Conflict(
                f"{plan.space_name} sets {path} to {found[path]!r}, but {asked[path]!r} is given: leave {path} "
                "out of the space, or out of the command and its preset file"
            )
    try:
        ensure_alike(plan.rank_by, base, config)
    except ValueError as error:
        raise Conflict(str(error)) from None


def _values(config: SearchConfig) -> dict[str, Any]:
    """Settings by their paths. The value of a part is its key; without a GAN it is `none`."""
    return settings(config) | {part: key_of(getattr(config, part)) for part in PARTS}


def _ensure_kept(plan: Plan, space: Space, base: SearchConfig) -> None:
    """ValueError if a space varies a given setting, or one that the score depends on.

    It is asked often: one proposal may agree by chance.
    """
    for seed in range(TRIES):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
        try:
            _keeps(plan, base, override(base, space(study.ask(), base)))
        except Conflict as error:
            raise ValueError(f"the space: {error}") from None
        except Exception:
            continue  # reported when it happens to a trial


# ------------------------------------------------------------------------------------------------ the same space?


class _Asked(optuna.Trial):
    """A trial that names what differs if a parameter does not have the distribution that it had before."""

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        for trial in self.study.get_trials(deepcopy=False):
            if before := trial.distributions.get(name):
                try:
                    check_distribution_compatibility(before, distribution)
                except ValueError:
                    raise Conflict(f"{_differs(name, before, distribution)}; {MEND}") from None
                break  # all others are compatible with this one
        return super()._suggest(name, distribution)


class _Again(FixedTrial):
    """A trial that was proposed before: the space must ask for the same parameters as it did then."""

    def __init__(self, trial: FrozenTrial):
        super().__init__(trial.params, trial.number)
        self.before = trial.distributions

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self.before:
            raise Conflict(f"parameter {name!r} is new")
        if distribution != self.before[name]:
            raise Conflict(_differs(name, self.before[name], distribution))
        return super()._suggest(name, distribution)


def _ensure_asked_alike(trial: FrozenTrial, plan: Plan, space: Space, base: SearchConfig, pretrained: bool) -> None:
    """ValueError if the space proposes other changes for the parameters of a trial than it did."""
    again = _Again(trial)
    try:
        changes = space(again, base)
        if gone := [name for name in trial.distributions if name not in again.distributions]:
            raise Conflict(f"parameter {gone[0]!r} is gone")
        if pretrained:
            _ensure_changes_alike(trial.user_attrs["overrides"], json.loads(json.dumps(changes)))
    except Conflict as error:
        what = f"space {plan.space_name}" if plan.space_name else "the space"
        raise ValueError(f"{what} has changed since it made trial {trial.number}: {error}; {MEND}") from None
    except Exception:
        return  # it uses what a finished trial lacks, such as its study, so it cannot be compared


def _ensure_changes_alike(before: dict[str, Any], now: dict[str, Any]) -> None:
    places = {f.name for f in fields(SearchConfig) if not f.metadata.get("mathematics", True)}
    for path in [path for path in before | now if path not in places]:
        if before.get(path) != now.get(path):
            raise Conflict(f"it sets {path} to {now.get(path)!r}, before to {before.get(path)!r}")


def _differs(name: str, before: BaseDistribution, now: BaseDistribution) -> str:
    return f"parameter {name!r} has {_in_words(now)}, and had {_in_words(before)}"


def _in_words(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"the choices {list(distribution.choices)}"
    its = distribution._asdict()
    step = f" in steps of {its['step']:g}" if its.get("step") else ""
    return f"the range {its['low']:g} to {its['high']:g}{step}{' (log)' if its.get('log') else ''}"
