"""Search the rows of a table of the paper, each with several seeds, in one sweep and one MLflow experiment.

python tuning/reproduce.py --table 2 --dataset cifar100            the paper's sizes, for GPUs
python tuning/reproduce.py --table 2 --small --data-dir FOLDER     the same rows at a size for two cores
python tuning/reproduce.py --rows pdarts dasgm-pdarts --seeds 3    rows of your own; a preset, or preset:GAN
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.driver import pretrained_first
from cluster.group import carry_out
from cluster.handover import HELP, hand_over
from cluster.patience import say_now
from cluster.room import Workers
from dasgm.api.choices import SearchChoice
from dasgm.api.places import absolute
from dasgm.cli.again import called
from dasgm.cli.arguments import fail, parse, without_config
from dasgm.config import SearchConfig, override, settings
from dasgm.pages.tables import TABLES, baselines, markdown, rows, truths
from dasgm.presets import row_config, small, with_dataset
from dasgm.store.files import write_atomic
from dasgm.store.records import digest
from tuning.options import SweepOptions
from tuning.plan import Plan, ensure_alike, ensure_ranked, for_a_sweep
from tuning.sweep import Sweep

ABOUT, _, _EXAMPLES = (__doc__ or "").partition("\n\n")
EXAMPLES = "".join(f"\n- {example}" for example in _EXAMPLES.splitlines())


@dataclass(frozen=True)
class Options(SweepOptions):
    """Which rows, with how many seeds, at what size."""

    config: Any = None
    name: str = ""
    """Name of the sweep, by default table<number>-<dataset> or rows-<dataset>. A sweep with this name is continued."""
    table: str = ""
    """Number of the paper's table whose rows are searched: 2, 4 or 6. By default --rows names them."""
    rows: tuple[str, ...] = ()
    """Names of the rows, instead of --table: presets, or PRESET:GAN."""
    against: str = ""
    """Row with which the tables compare all others. By default a row with a GAN is compared with its plain method, and
    a plain one with DARTS of the same search space and order, where the table has that row."""
    seeds: int = 4
    """Number of searches of each row (paper: 4)."""
    small: bool = False
    """Search at the size of the cifar10-smoke presets, for two cores, with a tenth of the data as J_val."""
    dataset: str = ""
    """Name of the data set. By default that of the rows' presets, cifar10."""
    data_dir: Path | None = None
    """Folder with the data set's files. By default CIFAR is in ~/.cache/dasgm, and downloaded if need be."""
    truth: Path | None = None
    """File with the true accuracies of all cells of the search space, as `dasgm lookup` reads it: what each epoch's
    genotype is worth is logged. No search reads it."""
    set: tuple[str, ...] = ()
    """Settings of all rows that have them, as in --set method.epochs=3 gan.channels=8."""

    def __post_init__(self) -> None:
        pass  # checked by `configs`, whose errors are printed as one line

    @property
    def names(self) -> tuple[str, ...]:
        return self.rows or TABLES[self.table]

    def row(self, name: str) -> SearchConfig:
        """The configuration of a row. ValueError: there is no such preset or GAN."""
        config = row_config(name)
        config = small(config) if self.small else config
        config = with_dataset(config, self.dataset) if self.dataset else config
        config = for_a_sweep(config, self.small)
        data_dir, truth = (absolute(path) if path else None for path in (self.data_dir, self.truth))
        return replace(config, data_dir=data_dir, truth=truth)

    def configs(self) -> dict[str, SearchConfig]:
        """The configuration of each row.

        ValueError: see `row`; no row has a setting; a row has no proxy; options contradict each other; --rank-by cannot
            compare the rows.
        """
        self._check()
        found = {name: self.row(name) for name in self.names}
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
        if bool(self.table) == bool(self.rows):
            raise ValueError("name a table (--table 2) or rows (--rows darts-1st dasgm-darts), and not both")
        if self.table and self.table not in TABLES:
            expected = " or ".join(", ".join(TABLES).rsplit(", ", 1))
            raise ValueError(f"table {self.table!r}: expected {expected}, the tables whose rows are searches")
        frozen = [name for name in self.names if row_config(name).freeze_gan]
        if frozen and not self.pretrain:
            raise ValueError(f"row {frozen[0]} has a pre-trained GAN: add --pretrain, which trains it first")
        if self.pretrain and not frozen:
            raise ValueError("--pretrain: no row has a pre-trained GAN; leave it out")
        baselines(self.names, self.against)
        if self.seeds < 1:
            raise ValueError(f"seeds {self.seeds}: expected at least 1")
        super().__post_init__()

    def plan(self, configs: dict[str, SearchConfig]) -> Plan:
        """All rows with the first seed, then with the next: if it is cut short, what there is can be compared."""
        trials = tuple({"row": name, "seed": seed} for seed in range(self.seeds) for name in configs)
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

    def largest(self) -> list[SearchConfig]:
        return list(self.configs.values())

    def pretrain(self, workers: Workers) -> None:
        """Pre-train a GAN once for all rows and seeds that freeze it."""
        options = self.options
        for name, config in self.configs.items():
            if config.freeze_gan:
                self.configs[name] = pretrained_first(config, options.storage, workers, self.command)


def main(argv: list[str] | None = None) -> int:
    """The command; exit codes as the sweep's."""
    words = sys.argv[1:] if argv is None else list(argv)
    if (code := hand_over("tuning.reproduce", words)) is not None:
        return code
    prog = "python tuning/reproduce.py"
    try:
        options = parse(without_config(Options), words, Options(), prog, f"{ABOUT} {HELP}{EXAMPLES}")
        configs = options.configs()
        # one with a frozen GAN, if any, so that its pre-training is checked
        first = max(configs.values(), key=lambda config: config.freeze_gan)
        size = "-small" if options.small else ""
        name = f"table{options.table}{size}" if options.table else f"rows{size}"
        chosen = SearchChoice(name, first)
    except ValueError as error:
        fail(error)
    options = replace(options, name=options.name or f"{name}-{chosen.dataset}", config=first)
    sweep = Table(chosen, options, configs, called(words, "tuning/reproduce.py"))
    code = carry_out(sweep)
    if not options.dry_run:
        _show(sweep, options)
    return code


def _show(sweep: Sweep, options: Options) -> None:
    from dasgm.pages.view import read_trials

    runs, base = read_trials(sweep.folder), baselines(options.names, options.against)
    table = markdown(rows(runs, options.names, options.seeds), base)
    if true := truths(runs, options.names, options.seeds, base):
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


if __name__ == "__main__":
    from tuning.reproduce import main as installed  # so that what is pickled names a module, not __main__

    sys.exit(installed())
