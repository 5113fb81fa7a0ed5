"""A table or a figure of the paper as a plan that can be stopped and continued, part by part.

Every part is a folder of runs, made and continued by the code of a sweep or of cluster/evaluate.py. What is done is
read from there, so parts that several tables share are made once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cluster import evaluate
from cluster.driver import ended
from cluster.evaluations import Evaluations
from cluster.group import carry_out, seconds_left
from cluster.patience import say_now
from cluster.stores import ensure_known
from cluster.winners import Candidate, of_sweep
from dasgm.api.choices import SearchChoice
from dasgm.cli.again import part_of
from dasgm.config import SearchConfig, to_json
from dasgm.data.imagenet import Config as ImageNet
from dasgm.pages.paper import NAMES
from dasgm.pages.view import read_trials
from dasgm.presets import preset
from dasgm.store.bucket import lies_at
from dasgm.store.files import first_line
from dasgm.store.records import read_record
from dasgm.store.replica import here
from tuning.results import IMAGENET, Part, Searches, Trainings
from tuning.rows import Options, Table, write_paper

if TYPE_CHECKING:
    from tuning.price import Price, Prices


@dataclass
class Reproduction:
    """What one command makes."""

    options: Options
    command: str
    """Continues it."""
    begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        options = self.options
        self.result = options.result()
        seeds = options.seeds or min(options.size.seeds, self.result.seeds)
        self.planned = self.result.parts(seeds)
        self.storage = options.storage.absolute()
        rows = tuple(dict.fromkeys(row for row, _ in self.result.rows))
        self._configs = {data: options.searching(rows, data, seeds).configs() for data in self.result.datasets}
        self.weights = ""
        """Why FID and IS cannot be measured; '' if they can be, or need not."""

    def main(self) -> int:
        """Carry it out, or print what it would cost; exit codes: 0 done, 1 one failed, 2 a mistake, 130 stopped."""
        return ended(self._dry_run if self.options.dry_run else self._carry_out, self.storage, self.command)

    # ---------------------------------------------------------------- what can run here

    def parts(self) -> list[Part]:
        """The parts that can run here; of the others a line says what is missing.

        Raises:
            ValueError: none can.
        """
        options, missing = self.options, dict[str, str]()
        for dataset in self.result.datasets:
            config = next(iter(self._configs[dataset].values()))
            missing[dataset] = _why_not(partial(config.data.load, config.data_dir, "cpu"))
        if self.result.trained == IMAGENET:
            missing[IMAGENET] = _why_not(lambda: ImageNet().photographs(options.place(IMAGENET)))
        found = [part for part in self.planned if not any(missing.get(data) for data in _read_by(part))]
        found = [part for part in found if not self._for_nothing(part, found)]
        for dataset, why in missing.items():
            if why:
                say_now(f"left out, no {dataset}: {why}")
        if not found:
            dataset, why = next((dataset, why) for dataset, why in missing.items() if why)
            raise ValueError(f"{options.what}: nothing of it can be made here: no {dataset}: {why}")
        self.weights = self._no_weights(found)
        return found

    def _for_nothing(self, part: Part, parts: Sequence[Part]) -> bool:
        """Whether a part's only use is another one that is left out: searches whose cells were to be trained."""
        used = any(isinstance(one, Trainings) and one.of == part for one in parts)
        return self.result.trained == IMAGENET and isinstance(part, Searches) and not used

    def _no_weights(self, parts: Sequence[Part]) -> str:
        """Why FID and IS cannot be measured. ValueError: the file that is named does not hold Inception's weights."""
        given = self.options.inception_weights
        configs = [self.config(part) for part in parts if isinstance(part, Searches)]
        if given and not self.result.fidelity and not any(config.fidelity_every for config in configs):
            raise ValueError(f"--inception-weights: {self.options.what} measures no FID by this budget; leave it out")
        if not self.result.fidelity:
            return ""
        from dasgm.measures.fidelity import downloaded, inception

        try:
            inception(given or downloaded(say_now))
        except OSError as error:
            why = f"no Inception weights: they could not be downloaded ({first_line(error)})"
            say_now(f"left out, FID and IS, {why}; name a file with --inception-weights. fd_proxy is measured")
            return why
        return ""

    # ---------------------------------------------------------------- the parts

    def config(self, part: Searches) -> SearchConfig:
        """The configuration of the searches of a part."""
        config = self._configs[part.dataset][part.row]
        if part.fidelity and not self.weights and not config.fidelity_every:
            config = replace(config, fidelity_every=max(1, config.total_epochs // 5))  # as often as Table 5
        return self.options.weighed(config)

    def searches(self, part: Searches) -> Table:
        """The sweep of a part."""
        config = self.config(part)
        options = self.options.searching((part.row,), part.dataset, part.seeds)
        name = part.name(self.options.label)
        options = replace(options, name=name, config=config, time_budget=self._time_left())
        published = "" if ":" in part.row else preset(part.row).published
        return Table(SearchChoice(part.row, config, published), options, {part.row: config}, self.command)

    def trainings(self, part: Trainings) -> Evaluations | None:
        """The evaluations of a part; None: there is nothing to train yet."""
        candidates = [] if part.of is None else self._found(part)
        if part.of is not None and not candidates:
            return None
        with part_of(self.command):
            found = evaluate.asked([*part.networks, *self._training_words(part)], candidates=candidates)
        found.about = {"budget": self.options.budget_in_words}
        return found

    def _of_any(self, part: Trainings, genotype: Any) -> Evaluations:
        """The evaluations of a part whose searches are still to come, all of one genotype."""
        assert part.of is not None
        config, number = to_json(self.config(part.of)), part.top or part.of.seeds
        candidates = [Candidate(f"t{i:03d}", genotype, "", config) for i in range(number)]
        with part_of(self.command):
            return evaluate.asked(self._training_words(part), candidates=candidates)

    def _found(self, part: Trainings) -> list[Candidate]:
        """What the searches of a part have found so far."""
        assert part.of is not None
        name = part.of.name(self.options.label)
        folder = here(self.storage / name, depth=1)
        if not read_record(folder / "sweep.json"):
            return []
        done = [run for run in read_trials(folder) if run.state == "finished" and run.genotype is not None]
        number = min(len(done), part.top or part.of.seeds)
        return of_sweep(name, self.storage, number) if number else []

    def _training_words(self, part: Trainings) -> list[str]:
        """The options of cluster/evaluate.py for a part; of one that is given twice the later one."""
        options, streamed = self.options, part.tested == IMAGENET
        given = options.imagenet_set if streamed else options.train_set
        settings = dict[str, str]()
        for word in (*options.size.training(part.tested), *given):
            flag, equals, value = word.partition("=")
            if not equals:
                kind = "imagenet" if streamed else "train"
                raise ValueError(f"--{kind}-set {word!r}: expected a setting and its value, as in epochs=30")
            settings[flag.replace("_", "-")] = value
        place = options.place(part.tested)
        words = [f"--dataset={part.tested}", *([f"--data-dir={place}"] if place else [])]
        words += [f"--{flag}={value}" for flag, value in settings.items()]
        words += [f"--storage={lies_at(self.storage)}", f"--name={part.name(options.label)}", f"--wait={options.wait}"]
        words += [f"--max-concurrent={options.max_concurrent}"]
        words += [f"--workers={options.workers}"] if streamed and options.workers else []
        left = self._time_left()
        return words + ([f"--time-budget={left}"] if left is not None else [])

    def _time_left(self) -> float | None:
        """Seconds that are left of the time budget, at least one; None: there is no limit."""
        left = seconds_left(self.options.time_budget, self.begun)
        return None if math.isinf(left) else max(1.0, left)

    # ---------------------------------------------------------------- its price

    def _dry_run(self) -> int:
        from tuning.price import GIB, MIB, Price, Prices

        parts, prices, known = self.parts(), Prices(), list[Price]()
        self._headline(parts)
        for number, part in enumerate(parts, 1):
            price = self._price(part, prices)
            say_now(f"part {number}, {part}: {price or 'done before'}")
            known += [price] if price else []
        if known:
            hours, disk = sum(one.hours for one in known), sum(one.disk for one in known)
            memory = max(one.memory * one.at_once for one in known)
            say_now(
                f"in all: {hours:.2f} hours, {disk / MIB:.0f} MiB of checkpoints, at most {memory / GIB:.2f} GiB of "
                f"memory at once, on this machine ({known[0].device})"
            )
        say_now("nothing was started (--dry-run)")
        return 0

    def _price(self, part: Part, prices: Prices) -> Price | None:
        """What is still to be done of a part costs; None: nothing is. ValueError: input that it would refuse."""
        if isinstance(part, Searches):
            table = self.searches(part)
            left = runs_left(table)
            return prices.of_searches(table, left) if left else None
        group, said = self.trainings(part), tuple[str, ...]()
        if part.of is not None and (group is None or group.total < (part.top or part.of.seeds)):
            from dasgm.api.fitting import costliest

            # of the dearest network that may be found
            group, said = self._of_any(part, costliest(self.config(part.of).space)), ("at most",)
        assert group is not None
        left = runs_left(group)
        return prices.of_trainings(group, left, said) if left else None

    # ---------------------------------------------------------------- carrying it out

    def _carry_out(self) -> int:
        ensure_known()
        parts, worst = self.parts(), 0
        self._headline(parts)
        for number, part in enumerate(parts, 1):
            if seconds_left(self.options.time_budget, self.begun) <= 0:
                say_now(f"the time budget ends before part {number} of {len(parts)}. To continue: {self.command}")
                break
            say_now(f"part {number} of {len(parts)}: {part}")
            code = self._do(part)
            if code == 130:
                return code
            worst = max(worst, code)
        say_now(f"the paper's results, with what is missing: {self.storage / NAMES[0]}")
        say_now(f"everything lies in {lies_at(self.storage)}; to continue or extend: {self.command}")
        return worst

    def _headline(self, parts: Sequence[Part]) -> None:
        say_now(
            f"{self.options.what}, {self.result.about}: {len(parts)} parts at budget {self.options.budget_in_words} "
            f"({self.options.size.about}), in {lies_at(self.storage)}"
        )

    def _do(self, part: Part) -> int:
        """Make or continue a part; the exit code of its command."""
        group = self.searches(part) if isinstance(part, Searches) else self.trainings(part)
        if group is None:
            say_now(f"{part}: none of its searches has finished, so there is nothing to train yet")
            return 1
        if not runs_left(group):
            say_now(f"done before: {group.total} {group.many} in {lies_at(group.folder)}")
            return 0
        try:
            return carry_out(group)
        finally:
            if isinstance(part, Trainings):  # searches write the page themselves
                write_paper(self.options.storage)


def runs_left(group: Table | Evaluations) -> int:
    """How many runs of a part are still to be done. ValueError: its folder began with other mathematics."""
    if not (group.folder / "sweep.json").is_file():
        return group.total
    if isinstance(group, Table):
        group.compare()
    return group.left()


def _read_by(part: Part) -> list[str]:
    """The data sets that a part needs."""
    if isinstance(part, Searches):
        return [part.dataset]
    return [part.tested, *([part.of.dataset] if part.of else [])]


def _why_not(look: Callable[[], Any]) -> str:
    """Why a data set cannot be read here, in one line; '' if it can."""
    try:
        look()
    except (ValueError, OSError) as error:
        return first_line(error)
    return ""
