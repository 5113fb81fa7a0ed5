"""Options of a sweep: where its searches lie and run, and which searches there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from cluster.options import GroupOptions, OnCluster
from dasgm.given import NOTHING, Given, flags
from tuning import spaces
from tuning.plan import Plan, rungs


@dataclass(frozen=True)
class SweepOptions(OnCluster, GroupOptions):
    """Where the searches of a sweep lie, and on what each of them runs."""

    name: str = ""
    """Name of the sweep, by default <preset>-<dataset>-s<seed>. A sweep with this name is continued."""
    workers_per_trial: int = 1
    """Number of processes that share one search. Each has a batch of --batch-size of its own."""
    gpus_per_trial: float | Literal["auto"] | None = None
    """Number of GPUs of all workers of a search together.
    By default one GPU per worker if there are as many GPUs, else 0.
    auto: as many searches share a GPU as fit into its memory, which is measured first (a minute or two)."""
    pretrain: bool = False
    """Begin every search with the same pre-trained GAN; train it first if no run in --storage has done so."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers_per_trial < 1:
            raise ValueError(f"workers-per-trial {self.workers_per_trial}: expected at least 1")


@dataclass(frozen=True)
class Options(SweepOptions):
    """What a sweep is, and its base configuration's settings."""

    num_trials: int = 4
    """Number of searches of the sweep. A larger number extends a sweep with this name."""
    grace: int = 2
    """Number of epochs before a search can be stopped early, at most those of a search."""
    space: str = ""
    """Python function that proposes the settings that vary, as MODULE:FUNCTION.
    By default learning rates, --val-portion and the type of the GAN vary, except those that are given."""
    then_imagenet: str = ""
    """Folder with ImageNet's files, on which the best genotypes are trained at the end, as by cluster/evaluate.py.
    By default none is."""
    imagenet_set: tuple[str, ...] = ()
    """Settings of the training on ImageNet, as in --imagenet-set recipe=imagenet-small workers=2."""
    then_train: bool = False
    """Train the best genotypes at the end on the sweep's own data set, as by cluster/evaluate.py."""
    train_set: tuple[str, ...] = ()
    """Settings of the training on the sweep's own data set, as in --train-set data.image-size=224 epochs=30."""
    top: int = 1
    """Number of genotypes to train at the end, the best first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_trials", "grace", "top"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', '-')} {getattr(self, name)}: expected at least 1")
        if self.then_train and self.then_imagenet:
            raise ValueError("then-train with --then-imagenet: a sweep has one last stage; leave one of the two out")
        for name, stage in (("train_set", self.then_train), ("imagenet_set", self.then_imagenet)):
            if getattr(self, name) and not stage:
                flag = name.replace("_", "-")
                raise ValueError(f"{flag} is given, but nothing is trained at the end; add --then-{flag[:-4]}")
        if self.config.data.holdout <= 0:
            raise ValueError("data.holdout 0: a sweep ranks by J_val, so set a part aside, such as 0.1")

    def plan(self, given: Given = NOTHING) -> Plan:
        """The searches that these options ask for. None of them changes a given setting."""
        base, identity = self.config, dict[str, Any](space=self.space, grace=self.grace)
        if not self.space:
            identity["fixed"] = list(spaces.fixed(base, given))
        compared = rungs(base.stages, self.grace, early_ends=bool(base.stop_skips or base.stop_entropy))
        return Plan(self.num_trials, partial(spaces.load, self.space, given), compared, identity, given=given)

    def look_at_grace(self, words: Sequence[str]) -> None:
        """Say so if a given --grace has no effect. ValueError: it is beyond the last epoch."""
        config, given = self.config, "grace" in flags(words)
        if given and self.grace > config.total_epochs:
            raise ValueError(f"grace {self.grace}: expected at most {config.total_epochs}, the epochs of a search")
        if given and len(config.stages) > 1:
            print(
                f"grace {self.grace} has no effect: searches of several stages are compared at the ends of the stages"
            )
