"""Options of a sweep: where its searches lie and run, and which searches there are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from cluster.options import GroupOptions, OnCluster
from dasgm.given import NOTHING, Given
from dasgm.measures.scores import RankBy
from dasgm.pages.front import bounds, metric
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
    rank_by: RankBy | None = None
    """Score that ranks the searches and that Optuna learns from (our choice): proxy, the accuracy of the found network
    after a short training; naswot, a score of that network untrained (NASWOT, arXiv 2006.04647).
    By default naswot in search spaces where it was measured to agree better with true accuracies, else proxy."""
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
    and_minimise: Literal["none", "parameters", "multiply_adds", "latency"] = "none"
    """What is minimised besides: none, parameters, multiply_adds, or latency in ms (with --cost.kind latency).
    It is that of the network which `dasgm evaluate` trains by default. No search is stopped early then."""
    at_most: str = ""
    """Largest cost of the winner that is told at the end, and of what --then-train or --then-imagenet trains, as in
    params=1e6. Several have commas between them: params=1e6,multiply_adds=1e8. By default there is no bound."""
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
    register: str = ""
    """Model in MLflow's registry that gets a version of each network trained at the end, as by cluster/evaluate.py.
    By default none is registered."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_trials", "grace", "top"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', '-')} {getattr(self, name)}: expected at least 1")
        if self.register and not (self.then_imagenet or self.then_train):
            raise ValueError(
                f"register {self.register}: the searches of a sweep have no trained network; train the best with "
                "--then-train or --then-imagenet, or later by cluster/evaluate.py --from-sweep NAME --register"
            )
        bounds(self.at_most)  # ValueError: what is wrong
        if self.and_minimise == "latency" and self.config.cost.kind != "latency":
            raise ValueError(
                "and-minimise latency: no search measures it; add --cost.kind latency (with --cost.weight 0 it is "
                "measured, and no search heeds it)"
            )
        if self.then_train and self.then_imagenet:
            raise ValueError("then-train with --then-imagenet: a sweep has one last stage; leave one of the two out")
        for name, stage in (("train_set", self.then_train), ("imagenet_set", self.then_imagenet)):
            if getattr(self, name) and not stage:
                flag = name.replace("_", "-")
                raise ValueError(f"{flag} is given, but nothing is trained at the end; add --then-{flag[:-4]}")
        if self.config.data.holdout <= 0:
            raise ValueError("data.holdout 0: a sweep compares searches by J_val, so set a part aside, such as 0.1")

    def plan(self, given: Given = NOTHING) -> Plan:
        """The searches that these options ask for. None of them changes a given setting."""
        base, identity = self.config, dict[str, Any](space=self.space, grace=self.grace)
        if not self.space:
            identity["fixed"] = list(spaces.fixed(base, given))
        compared, second = rungs(base.stages, self.grace, early_ends=bool(base.stop_skips or base.stop_entropy)), ""
        if self.and_minimise != "none":
            identity["and_minimise"], compared, second = self.and_minimise, [], metric(self.and_minimise)
        space = partial(spaces.load, self.space, given)
        score = self.rank_by or base.space.ranked_by
        return Plan(self.num_trials, space, compared, identity, given=given, rank_by=score, second=second)

    def look_at_grace(self) -> str:
        """A line if a given --grace has no effect, else ''. ValueError: it is beyond the last epoch."""
        config = self.config
        if self.and_minimise != "none":
            raise ValueError(f"grace {self.grace}: with --and-minimise no search is stopped early; leave --grace out")
        if self.grace > config.total_epochs:
            raise ValueError(f"grace {self.grace}: expected at most {config.total_epochs}, the epochs of a search")
        if len(config.stages) == 1:
            return ""
        return f"grace {self.grace} has no effect: searches of several stages are compared at the ends of the stages"
