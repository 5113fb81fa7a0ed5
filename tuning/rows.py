"""Rows of the paper, or of one's own, each searched with several seeds: the options, and the sweep of some rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cluster.driver import pretrained_first
from cluster.patience import say_now
from cluster.room import Workers
from dasgm.api.choices import SearchChoice
from dasgm.api.places import absolute
from dasgm.config import SearchConfig, override, settings
from dasgm.jobs.paper import of_runs, paper
from dasgm.pages.gather import read
from dasgm.pages.paper import NAMES
from dasgm.pages.tables import baselines, markdown, rows, truths
from dasgm.presets import row_config, with_dataset
from dasgm.presets.published import SEEDS
from dasgm.store.bucket import lies_at
from dasgm.store.files import gist, write_atomic
from dasgm.store.records import digest
from tuning.budgets import BUDGETS, PAPER, Budget
from tuning.options import SweepOptions
from tuning.paper_page import PaperPage
from tuning.plan import Plan, ensure_alike, ensure_ranked, for_a_sweep
from tuning.results import CIFAR, IMAGENET, Result, result
from tuning.sweep import Sweep


@dataclass(frozen=True)
class Options(SweepOptions):
    """Which rows, with how many seeds, at what size."""

    config: Any = None
    name: str = ""
    """Name of the sweep of --rows, by default rows-<dataset>. The folders of a table or a figure end with it, by
    default with the budget. What has this name is continued."""
    table: str = ""
    """Number of the paper's table that is made: 2, 3, 4, 5 or 6. By default --rows names what is searched."""
    figure: str = ""
    """Number of the paper's figure that is made: 3, 4 or 5. By default --rows names what is searched."""
    rows: tuple[str, ...] = ()
    """Names of the rows: presets, or PRESET:GAN. With --table or --figure some of its own; by default all."""
    budget: Literal["smoke", "small", "paper"] | None = None
    """Size of all searches and trainings (our choice): smoke is for two cores, small for a GPU, paper for GPUs.
    The default is paper. Every run's record names it."""
    small: bool = False
    """Another name for --budget smoke: the cifar10-smoke presets, with a tenth of the data as J_val."""
    against: str = ""
    """Row with which the table of --rows compares all others. By default a row with a GAN is compared with its plain
    method, and a plain one with DARTS of the same search space and order, where the table has that row."""
    seeds: int | None = None
    """Number of searches of each row. The default is 4 (paper: 4), of Tables 4 and 5 and the figures 1 (paper: 1);
    of a table by --budget small at most 3, by smoke at most 2."""
    dataset: str = ""
    """Name of the data set that is searched on. By default that of the rows' presets, cifar10; of a table or a figure
    all that it has. What has no data here is left out."""
    data_dir: Path | None = None
    """Folder with the data set's files, or with folders cifar10, cifar100 and imagenet of a table or a figure.
    By default CIFAR is in ~/.cache/dasgm, and downloaded if need be."""
    imagenet: str = ""
    """Folder with ImageNet's files, or its address, for Table 3. By default the folder imagenet in --data-dir."""
    workers: int = 0
    """Number of processes that share each training on ImageNet, at most 8 (paper: 8 GPUs).
    The default 0 is 8 on a cluster, else the number of GPUs, at most 8."""
    inception_weights: Path | None = None
    """File with the Inception weights for FID and IS, as a search takes it. By default it is downloaded."""
    truth: Path | None = None
    """File with the true accuracies of all cells of the search space, as `dasgm lookup` reads it: what each epoch's
    genotype is worth is logged. No search reads it."""
    set: tuple[str, ...] = ()
    """Settings of all rows that have them, as in --set method.epochs=3 gan.channels=8."""
    train_set: tuple[str, ...] = ()
    """Settings of the trainings of a table or a figure on the data set of the searches, as in --train-set epochs=30."""
    imagenet_set: tuple[str, ...] = ()
    """Settings of Table 3's trainings on ImageNet, as in --imagenet-set epochs=30."""

    def __post_init__(self) -> None:
        pass  # checked by `configs` and `result`, whose errors are printed as one line

    # ---------------------------------------------------------------- the size

    @property
    def budget_name(self) -> str:
        return self.budget or ("smoke" if self.small else PAPER)

    @property
    def size(self) -> Budget:
        return BUDGETS[self.budget_name]

    @property
    def budget_in_words(self) -> str:
        """As the record of a run names it: with what --set and its like changed."""
        return f"{self.budget_name}, with {' '.join(self.changed)}" if self.changed else self.budget_name

    @property
    def changed(self) -> list[str]:
        """The options that change settings of the budget, and their words."""
        given = {"--set": self.set, "--train-set": self.train_set, "--imagenet-set": self.imagenet_set}
        return [word for flag, words in given.items() if words for word in (flag, *words)]

    @property
    def label(self) -> str:
        """What ends the name of each folder of a table or a figure; other settings are never taken for the budget's."""
        if self.name:
            return f"-{self.name}"
        parts = [self.budget_name] if self.budget_name != PAPER else []
        parts += [digest(self.changed)[:6]] if self.changed else []
        return "".join(f"-{part}" for part in parts)

    # ---------------------------------------------------------------- a table or a figure

    @property
    def what(self) -> str:
        """The table or the figure, as in `table 2`; '' where --rows names what is searched."""
        return f"table {self.table}" if self.table else f"figure {self.figure}" if self.figure else ""

    def result(self) -> Result:
        """What the table or the figure is made of. ValueError: there is no such, or an option says nothing of it."""
        found = result(*self.what.split(" ", 1))
        found = found.on(self.dataset) if self.dataset else found
        found = found.only(self.rows, self.what) if self.rows else found
        self._check_all()
        if self.against:
            raise ValueError(f"--against {self.against}: the page compares the rows of {self.what}; leave it out")
        if self.pretrain and not any(row_config(name).freeze_gan for name, _ in found.rows):
            raise ValueError(f"--pretrain: no row of {self.what} has a pre-trained GAN; leave it out")
        if self.train_set and found.trained != "same":
            raise ValueError(f"--train-set: {self.what} trains nothing on CIFAR; leave it out")
        imagenet = {"--imagenet": self.imagenet, "--imagenet-set": self.imagenet_set, "--workers": self.workers}
        if given := next((flag for flag, value in imagenet.items() if value and found.trained != IMAGENET), ""):
            raise ValueError(f"{given}: {self.what} trains nothing on ImageNet; leave it out")
        if not 0 <= self.workers <= 8:
            raise ValueError(f"workers {self.workers}: expected 1 to 8, or 0 for the default")
        return found

    def place(self, dataset: str) -> str | None:
        """The folder of a data set's files; None: there is no other than the usual one."""
        if dataset == IMAGENET and self.imagenet:
            return absolute(self.imagenet)
        if self.data_dir and self.what and dataset in (*CIFAR, IMAGENET) and (self.data_dir / dataset).is_dir():
            return absolute(self.data_dir / dataset)
        return absolute(self.data_dir) if self.data_dir and dataset != IMAGENET else None

    def searching(self, names: tuple[str, ...], dataset: str, seeds: int) -> Options:
        """The options of a sweep over some rows of a table or a figure on a data set."""
        frozen = any(row_config(name).freeze_gan for name in names)
        place = self.place(dataset)
        found = replace(self, table="", figure="", rows=names, dataset=dataset, seeds=seeds, pretrain=frozen)
        nothing: dict[str, Any] = {"train_set": (), "imagenet_set": (), "imagenet": "", "workers": 0}
        nothing |= {"inception_weights": None}
        return replace(found, data_dir=Path(place) if place else None, **nothing)

    # ---------------------------------------------------------------- rows

    def row(self, name: str) -> SearchConfig:
        """The configuration of a row. ValueError: there is no such preset or GAN."""
        config = self.size.search(row_config(name))
        config = with_dataset(config, self.dataset) if self.dataset else config
        config = for_a_sweep(config, self.size.holdout)
        data_dir, truth = (absolute(path) if path else None for path in (self.data_dir, self.truth))
        return self.weighed(replace(config, data_dir=data_dir, truth=truth))

    def weighed(self, config: SearchConfig) -> SearchConfig:
        """A search with the file of Inception's weights, if it measures FID and IS."""
        given = self.inception_weights and config.fidelity_every
        return replace(config, inception_weights=absolute(self.inception_weights)) if given else config

    def configs(self) -> dict[str, SearchConfig]:
        """The configuration of each row.

        ValueError: see `row`; no row has a setting; a row has no proxy; options contradict each other; --rank-by cannot
            compare the rows.
        """
        self._check()
        found = {name: self.row(name) for name in self.rows}
        for path, value in map(_setting, self.set):
            having = {name: config for name, config in found.items() if path.replace("-", "_") in settings(config)}
            for name, config in (having or found).items():
                found[name] = override(config, {path: value})
        for name, config in found.items():
            ensure_ranked(config, f"row {name}, ")
        if self.rank_by:
            ensure_rows_alike(self.rank_by, found)
        return found

    def _check(self) -> None:
        """Of the options of --rows."""
        self._check_all()
        if not self.rows:
            raise ValueError("name a table (--table 2), a figure (--figure 5), or rows (--rows darts-1st dasgm-darts)")
        if given := next((f for f in ("train_set", "imagenet_set", "imagenet", "workers") if getattr(self, f)), ""):
            raise ValueError(f"--{given.replace('_', '-')}: --rows alone trains nothing; name a --table or a --figure")
        frozen = [name for name in self.rows if row_config(name).freeze_gan]
        if frozen and not self.pretrain:
            raise ValueError(f"row {frozen[0]} has a pre-trained GAN: add --pretrain, which trains it first")
        if self.pretrain and not frozen:
            raise ValueError("--pretrain: no row has a pre-trained GAN; leave it out")
        if self.inception_weights and not any(self.row(name).fidelity_every for name in self.rows):
            raise ValueError(f"--inception-weights: no row measures FID by --budget {self.budget_name}; leave it out")
        baselines(self.rows, self.against)

    def _check_all(self) -> None:
        if self.small and self.budget not in (None, "smoke"):
            raise ValueError(f"--small with --budget {self.budget}: --small is --budget smoke; leave one of them out")
        if self.table and self.figure:
            raise ValueError(f"--table {self.table} with --figure {self.figure}: make one of them at a time")
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"seeds {self.seeds}: expected at least 1")
        super().__post_init__()

    def plan(self, configs: dict[str, SearchConfig]) -> Plan:
        """All rows with the first seed, then with the next: if it is cut short, what there is can be compared."""
        trials = tuple({"row": name, "seed": seed} for seed in range(self.seeds or SEEDS) for name in configs)
        names = list(configs)

        def space(trial: Any, base: SearchConfig) -> dict[str, Any]:
            name, seed = trial.suggest_categorical("row", names), trial.suggest_int("seed", 0, 10**6)
            return _everything(configs[name], base) | {"seed": seed}

        identity = {"rows": digest({name: settings(config) for name, config in configs.items()})}
        return Plan(len(trials), lambda: space, [], identity, trials, rank_by=self.rank_by or _usual_score(configs))


def ensure_rows_alike(rank_by: str, configs: Mapping[str, SearchConfig]) -> None:
    """ValueError: see `ensure_alike`."""
    first = next(iter(configs.values()))
    for name, config in configs.items():
        ensure_alike(rank_by, first, config, f"row {name}, ")


def _usual_score(configs: Mapping[str, SearchConfig]) -> str:
    """The score by which searches in the space of the rows are ranked; the proxy, where that cannot compare them."""
    usual = next(iter(configs.values())).space.ranked_by
    try:
        ensure_rows_alike(usual, configs)
    except ValueError:
        return "proxy"
    return usual


def _setting(text: str) -> tuple[str, Any]:
    path, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text!r}: expected a setting and its value, as in method.epochs=3")
    try:
        return path, json.loads(value)
    except ValueError:
        return path, value


def _everything(config: SearchConfig, base: SearchConfig) -> dict[str, Any]:
    """All settings of a configuration, as changes of another: first the keys of its parts, then their settings."""
    own, of_base = settings(config, younger=True), settings(base)
    told = settings(config).keys() | of_base.keys()  # younger ones that neither sets are no part of older tables
    changes = {path.removesuffix(".key"): value for path, value in own.items() if path in told}
    return changes | {"gan_checkpoint": config.gan_checkpoint}


class Table(Sweep):
    """A sweep over rows, each with its own configuration."""

    def __init__(self, chosen: SearchChoice, options: Options, configs: dict[str, SearchConfig], command: str):
        super().__init__(chosen, options, options.plan(configs), command)
        self.configs = configs

    def describe(self, name: str, title: str, parameters: dict[str, Any]) -> dict[str, Any]:
        return super().describe(name, title, parameters) | {"budget": self.options.budget_in_words}

    def entries(self) -> dict[str, Any]:
        return super().entries() | {"budget": self.options.budget_in_words}

    def largest(self) -> list[SearchConfig]:
        return list(self.configs.values())

    def pretrain(self, workers: Workers) -> None:
        """Pre-train a GAN once for all rows and seeds that freeze it."""
        options = self.options
        for name, config in self.configs.items():
            if config.freeze_gan:
                self.configs[name] = pretrained_first(config, options.storage, workers, self.command)

    def work(self, workers: Workers, slots: int, kick: Callable[[], None]) -> None:
        """As a sweep's; the page of the paper's results is written anew after each search."""
        storage = self.folder.parent

        def look() -> None:
            kick()
            page.look()

        shown = lies_at(self.options.storage)
        with PaperPage(self.folder, lambda: of_runs(read(storage), shown, storage)) as page:
            super().work(workers, slots, look)

    def write_pages(self) -> None:
        """As a sweep's, and the page of the paper's results of all that lies in the storage."""
        super().write_pages()
        write_paper(self.options.storage)


def write_paper(storage: Path) -> None:
    """The page of the paper's results of a storage."""
    try:
        paper(lies_at(storage))
    except (ValueError, OSError) as error:  # the searches are safe
        say_now(f"the page of the paper's results is not written: {gist(error)}")


def show(sweep: Sweep, options: Options) -> None:
    """Print the table of the rows, and write it beside them."""
    from dasgm.pages.view import read_trials

    runs, base = read_trials(sweep.folder), baselines(options.rows, options.against)
    table = markdown(rows(runs, options.rows, options.seeds or SEEDS), base)
    if true := truths(runs, options.rows, options.seeds or SEEDS, base):
        table += (
            "\nTrue accuracy of the found cells, mean ± standard deviation over n seeds, and how many of them found a "
            f"cell of skip connections alone:\n\n{true}"
        )
    path = sweep.folder / "table.md"
    measured = "J_val" if sweep.base.data.holdout else "J_2"
    write_atomic(
        path,
        f"Accuracy on {measured} after {sweep.base.proxy.epochs} epochs from scratch on J_1, mean ± standard deviation "
        f"over seeds.\n\n`{sweep.command}`\n\n{table}",
    )
    print(f"\n{table}")
    say_now(f"this table is in {path}")
    say_now(f"the paper's results, with what is missing: {sweep.folder.parent / NAMES[0]}")
