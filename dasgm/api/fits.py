"""From a folder of pictures to a trained model, in one process: the function for Python, and what `dasgm fit` does
besides."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dasgm.api.asked import SIDE, Asked, FitOptions, ensure_here, known_networks, on_gpu, with_settings
from dasgm.api.callers import Caller, from_python
from dasgm.api.choices import NO_SETTINGS, Settings, genotype_source
from dasgm.api.places import absolute, storage_here
from dasgm.api.results import EvaluationResult, FitResult, SearchResult
from dasgm.api.stages import SEARCH, TRAINING, part_of_fit
from dasgm.genotype import Genotype
from dasgm.store.bucket import lies_at
from dasgm.store.files import counted, printable, write_atomic

if TYPE_CHECKING:
    from dasgm.api.fitting import Plan
    from dasgm.api.pricing import Price
    from dasgm.data._parts import Parts
    from dasgm.designs.design import Design
    from dasgm.jobs.session import Hooks
    from dasgm.recipes import EvaluateConfig

INDENT = " " * 12


@dataclass(frozen=True)
class Planned:
    """A fit whose sizes and epochs are chosen."""

    asked: Asked
    options: FitOptions
    """All settings."""
    plan: Plan
    place: Path
    """The folder of all runs."""
    told: set[str] = field(default_factory=set)
    """Lines that are not said again."""

    @property
    def recipe(self) -> str:
        """What the training began with."""
        return self.asked.recipe(self.plan.image_size)

    def training(self, genotype: Genotype) -> EvaluateConfig:
        """The configuration of all trainings, where that is what was found."""
        from dasgm.api import fitting

        return fitting.with_training_epochs(self.options.training, genotype, self.plan)


def fit(
    pictures: str | Path,
    *,
    genotype: str | Path | Genotype | SearchResult | None = None,
    preset: str = "",
    recipe: str = "",
    image_size: int | None = None,
    search_image_size: int = SIDE,
    config: str = "",
    device: str | None = None,
    seed: int = 0,
    time_budget: float | None = None,
    search_share: float = 0.4,
    against: Sequence[str] = (),
    settings: Settings = NO_SETTINGS,
    skip_unreadable: bool = False,
    storage: str | Path = "runs",
    name: str = "",
    progress: bool = False,
) -> FitResult:
    """From a folder of pictures to a trained model, or continue to: `dasgm fit`.

    Args:
        pictures: folder with class/*.jpg, or train/ val/ test/ with such folders, or Parquet files, or CSV files.
        genotype: of the network to train instead of a search: as `evaluate` takes it, but no known network.
        preset, recipe: names of the settings to begin with. By default they depend on the device and the pictures.
        image_size: side of the images that the network is trained on, in pixels. None: chosen by the photographs.
        search_image_size: that of the images of the search.
        config: which data set is read, if Parquet files hold several.
        device: of both stages: "auto", "cpu", "cuda", "cuda:N" or "mps".
        seed: of both stages.
        time_budget: seconds within which the whole is to end; the numbers of epochs are chosen by measuring.
        search_share: share of the search in them, from 0 to 1.
        against: known networks, such as torchvision:resnet18, that are trained on the same data and compared.
        settings: other settings of the stages, as in {"search.method.epochs": 5, "training.epochs": 30}.
        skip_unreadable: leave out pictures that cannot be read.
        storage: folder for all runs, on this machine.
        name: of the folder of the runs, by default fit-<folder of pictures>-s<seed>.
        progress: print what happens, with a bar on a terminal. Otherwise nothing is printed.

    Raises:
        ValueError: input that cannot be used, a budget that is too small, or a fit that began otherwise: one line.
        dasgm.search.SearchFailed, dasgm.jobs.session.Interrupted: see `search`. The same call continues.
    """
    begun = time.monotonic()
    source = None if genotype is None else genotype_source(genotype)
    arguments = locals() | {"genotype": source}
    paths = [path.replace("-", "_") for path in settings]
    ensure_here(paths)
    given = arguments | {"against": tuple(against), "storage": storage_here(storage, name)}
    told: dict[str, Any] = {one.name: given[one.name] for one in fields(FitOptions) if one.name in given}

    def settle(default: FitOptions) -> FitOptions:
        return with_settings(replace(default, **told), settings)

    with from_python(fit, arguments, progress) as caller:
        asked = Asked(
            str(pictures),
            gpu=on_gpu(device),
            genotype=None if source is None else Genotype.load(source, caller.say),
            source=source or "",
            preset_name=preset,
            recipe_name=recipe,
            image_size=image_size,
            search_image_size=search_image_size,
            config=config,
            device=device,
            seed=seed,
            skip_unreadable=skip_unreadable,
            given=frozenset(paths),
            settle=settle,
        )
        with part_of_fit():
            return run_fit(planned(asked, begun, caller), caller)


def planned(asked: Asked, begun: float, caller: Caller) -> Planned:
    """Choose what is not told by measuring, or take what was chosen when the fit began.

    Args:
        begun: when the time budget began, by time.monotonic.

    Raises:
        ValueError: see `fit`.
    """
    from dasgm.api import fitting
    from dasgm.data._parts import parts

    found = parts(asked.data, absolute(asked.pictures))
    size = fitting.photographs_size(found) if asked.image_size is None else asked.image_size
    fitting.check_size(size)
    options = asked.options(size, len(found.train))
    if "://" in str(options.storage) or lies_at(options.storage) != str(options.storage):
        raise ValueError(f"storage {lies_at(options.storage)}: dasgm fit needs a folder on this machine")
    place = options.storage / (options.name or asked.name)
    plan, told = fitting.Plan.load(place), counts_of(found)
    if plan is None:
        plan = chosen(asked, options, size, found, begun, told, caller)
    else:
        ensure_same(plan, asked, options, size, place)
        caller.say(printable(f"going on in {place}, with the sizes and epochs that were chosen when it began"))
    return Planned(asked, asked.options(plan.image_size, len(found.train)), plan, place, told)


def counts_of(found: Parts) -> set[str]:
    """Lines that count the pictures of each class, which the plan and the training say as those that are used."""
    from dasgm.data._inventory import Counts

    parts = [part for part in (found.everything, found.test, found.val) if part is not None]
    return {printable(note) for part in parts for note in part.notes if isinstance(note, Counts)}


def ensure_same(plan: Plan, asked: Asked, options: FitOptions, size: int, place: Path) -> None:
    """ValueError where the command line names another size or number of epochs than a fit began with."""
    if bool(plan.search_epochs) == bool(asked.genotype):
        raise ValueError(f"{place}: it began with{'out' * bool(plan.search_epochs)} --genotype; use another --name")
    if options.against != plan.against:
        was = " ".join(("--against", *plan.against)) if plan.against else "without --against"
        raise ValueError(f"{place}: it began {'with ' * bool(plan.against)}{was}; use another --name")
    known, search, training = asked.given, options.search.method.epochs, options.training.epochs
    for flag, is_told, here, there in (
        ("--image-size", asked.image_size is not None, size, plan.image_size),
        ("--search.method.epochs", "search.method.epochs" in known, search, plan.search_epochs),
        ("--training.epochs", "training.epochs" in known, training, plan.training_epochs),
    ):
        if is_told and here != there:
            raise ValueError(f"{place}: it began with {flag} {there}, not {here}; use another --name")


# the plan


def chosen(
    asked: Asked, options: FitOptions, size: int, found: Parts, begun: float, told: set[str], caller: Caller
) -> Plan:
    """What is not told is chosen by measuring, and the price is printed; the lines about the data go to `told`."""
    from dasgm.api import pricing

    known = asked.given
    fixed = {SEARCH: "search.method.epochs" in known, TRAINING: "training.epochs" in known}
    fixed["size"] = asked.image_size is not None
    budget = pricing.Budget(options.time_budget, 0.0 if asked.genotype else options.search_share, begun)
    search = None if asked.genotype else options.search
    pricing.ensure_possible(search, found, size, budget)
    price = pricing.priced(
        asked.genotype,
        search,
        lambda side: asked.options(side, len(found.train)).training,
        size,
        found.train.classes,
        budget,
        frozenset(name for name, is_told in fixed.items() if is_told),
        known_networks(options.against),
        lambda line: caller.say(printable(line)),
    )
    (e, _), *_ = price.trainings
    told |= set(map(printable, (e.data, *e.notes)))
    lines = [*told_price(asked, options, price, len(found.train))]
    lines.append(f"in all      {price.total(budget.measured, budget.seconds)}")
    caller.say("\n".join(map(printable, lines)))
    return price.plan


def told_price(asked: Asked, options: FitOptions, price: Price, pictures: int) -> list[str]:
    """What was found and chosen, and what each stage costs, as lines to print."""
    plan, ((e, span), *others) = price.plan, price.trainings
    training = asked.options(plan.image_size, pictures).training
    lines = [f"data        {e.data}", *(f"{INDENT}{note}" for note in e.notes)]
    lines.append(f"device      {e.device}, peak memory {price.peak_memory / 2**30:.2f} GiB")
    lines.append(f"disk        {price.disk / 2**20:.0f} MiB of checkpoints")
    if price.search is not None:
        side, batch = options.search.data.image_size, options.search.batch_size
        lines += [f"search      {asked.preset} at {side} pixels, batch {batch}", f"{INDENT}{price.search[1]}"]
    lines += [
        f"training    {asked.recipe(plan.image_size)}: {training.form} form at {plan.image_size} pixels, "
        f"{training.cells} cells of {training.channels} channels, batch {training.batch_size}",
        f"{INDENT}{span}" + ", of the costliest network that the search may find" * (price.search is not None),
    ]
    if plan.costliest:
        lines.append(
            f"{INDENT}a found network that takes less time is trained for more epochs"
            + ", and the known ones are too" * bool(others)
        )
    for name, (one, its) in zip(plan.against, others, strict=True):
        lines += [f"against     {name}: {one.parameters:,} parameters", f"{INDENT}{its}"]
    return lines


# the stages


def against_in(place: Path, name: str) -> Path:
    """The folder of the training of a known network."""
    return place / f"against-{name.replace(':', '-')}"


def run_fit(fit: Planned, caller: Caller) -> FitResult:
    """The search and the trainings, each a run of its own; what is done already is not done again.

    Raises:
        ValueError, SearchFailed, Interrupted: see `dasgm.jobs.search.main` and `dasgm.jobs.evaluate.main`.
    """
    from dasgm.api import fitting
    from dasgm.jobs import evaluate
    from dasgm.jobs import search as job
    from dasgm.pages.report import report

    plan, place, options = fit.plan, fit.place, fit.options
    plan.save(place)
    caller = replace(caller, say=once(caller.say, fit.told))

    def hooks(where: Path, title: str, **more: str) -> Hooks:
        return caller.hooks(where, {"name": f"{place.name}-{where.name}", "title": f"{place.name}: {title}"} | more)

    genotype, where, found = fit.asked.genotype, place / SEARCH, None
    if genotype is None:
        config = fitting.with_epochs(options.search, plan.search_epochs)
        caller.say(printable(f"search: {counted(config.total_epochs, 'epoch')}, in {where}"))
        with part_of_fit(SEARCH), caller.ending("search", where):
            job.main(config, where, hooks(where, SEARCH))
        found = SearchResult.read(where)
        genotype = found.genotype
    training = fit.training(genotype)
    length = counted(training.epochs, "epoch") + fitting.shortened(options.training, training)

    def train(design: Design, where: Path, title: str, source: str) -> EvaluationResult:
        caller.say(printable(f"{title}: {length}, in {where}"))
        with part_of_fit(TRAINING), caller.ending("training", where, "every whole epoch"):
            evaluate.main(design, training, where, hooks(where, title, **{design.kind: source, "recipe": fit.recipe}))
        return EvaluationResult.read(where)

    trained = train(genotype, place / TRAINING, TRAINING, fit.asked.source or str(where))
    known = {str(one): one for one in known_networks(plan.against)}
    others = {name: train(one, against_in(place, name), name, name) for name, one in known.items()}
    result = FitResult(place, found, trained, MappingProxyType(others))
    if result.comparison:
        write_atomic(result.comparison, result.compare().markdown())
    report(place)  # once more, as the pages now know of each other
    return result


def once(say: Callable[[str], None], told: set[str]) -> Callable[[str], None]:
    """Says a line unless it has been `told`."""

    def say_once(line: str) -> None:
        if line not in told:
            told.add(line)
            say(line)

    return say_once
