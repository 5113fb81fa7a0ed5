"""`dasgm fit PICTURES`: from a folder of pictures to a trained model, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dasgm.api.places import absolute
from dasgm.cli.again import called
from dasgm.cli.evaluate import trained_lines, training_line
from dasgm.cli.fit_options import Asked, FitOptions, asked, known_networks
from dasgm.cli.progress import ending, progress
from dasgm.cli.stages import SEARCH, TRAINING, part_of_fit
from dasgm.genotype import Genotype
from dasgm.recipes import EvaluateConfig
from dasgm.store.bucket import lies_at
from dasgm.store.files import counted, printable, shell_line, write_atomic

if TYPE_CHECKING:
    from dasgm.cli.fitting import Plan
    from dasgm.cli.pricing import Price
    from dasgm.data._parts import Parts
    from dasgm.designs.design import Design
    from dasgm.jobs.session import Row

COMPARISON = "comparison.md"
USUAL = "torchvision:resnet18"  # the known network of the line that trains one afterwards
INDENT = " " * 12


def fit(argv: Sequence[str]) -> int:
    with part_of_fit():
        return _fit(argv)


def _fit(argv: Sequence[str]) -> int:
    begun = time.monotonic()
    given = asked(argv)
    from dasgm.cli import fitting
    from dasgm.data._parts import parts

    if {"-h", "--help"} & set(given.rest):
        given.options(224, 1000)
    found = parts(given.data, absolute(given.pictures))
    size = given.number("--image-size", 0) if "--image-size" in given.values else fitting.photographs_size(found)
    fitting.check_size(size)
    options = given.options(size, len(found.train))
    if "://" in str(options.storage) or lies_at(options.storage) != str(options.storage):
        raise ValueError(f"storage {lies_at(options.storage)}: dasgm fit needs a folder on this machine")
    place = options.storage / (options.name or given.name)
    plan, told = fitting.Plan.load(place), counts_of(found)
    if plan is None:
        plan = chosen(given, options, size, found, begun, told)
    else:
        ensure_same(plan, given, options, size, place)
        print(printable(f"going on in {place}, with the sizes and epochs that were chosen when it began"), flush=True)
    options = given.options(plan.image_size, len(found.train))
    if options.dry_run:
        print("nothing was started (--dry-run)")
        return 0
    plan.save(place)
    training = carry_out(given, options, plan, place, called(["fit", *argv], "dasgm"), told)
    if plan.against:
        compared(place, plan.against)
    else:
        for line in beside(given.recipe(plan.image_size), training, place):
            print(printable(line))
    print(
        printable(f"  register  {shell_line(['python', '-m', 'cluster.tracking', place / TRAINING])} --register NAME")
    )
    return 0


def counts_of(found: Parts) -> set[str]:
    """Lines that count the pictures of each class, which the plan and the training say as those that are used."""
    from dasgm.data._inventory import Counts

    parts = [part for part in (found.everything, found.test, found.val) if part is not None]
    return {printable(note) for part in parts for note in part.notes if isinstance(note, Counts)}


def ensure_same(plan: Plan, given: Asked, options: FitOptions, size: int, place: Path) -> None:
    """ValueError where the command line names another size or number of epochs than a fit began with."""
    if bool(plan.search_epochs) == bool(given.genotype):
        raise ValueError(f"{place}: it began with{'out' * bool(plan.search_epochs)} --genotype; use another --name")
    if options.against != plan.against:
        was = " ".join(("--against", *plan.against)) if plan.against else "without --against"
        raise ValueError(f"{place}: it began {'with ' * bool(plan.against)}{was}; use another --name")
    known, search, training = given.given, options.search.method.epochs, options.training.epochs
    for flag, is_told, here, there in (
        ("--image-size", "--image-size" in given.values, size, plan.image_size),
        ("--search.method.epochs", "search.method.epochs" in known, search, plan.search_epochs),
        ("--training.epochs", "training.epochs" in known, training, plan.training_epochs),
    ):
        if is_told and here != there:
            raise ValueError(f"{place}: it began with {flag} {there}, not {here}; use another --name")


# the plan


def chosen(given: Asked, options: FitOptions, size: int, found: Parts, begun: float, told: set[str]) -> Plan:
    """What is not told is chosen by measuring, and the price is printed; the lines about the data go to `told`."""
    from dasgm.cli import pricing

    known = given.given
    fixed = {SEARCH: "search.method.epochs" in known, TRAINING: "training.epochs" in known}
    fixed["size"] = "--image-size" in given.values
    budget = pricing.Budget(options.time_budget, 0.0 if given.genotype else options.search_share, begun)
    search = None if given.genotype else options.search
    pricing.ensure_possible(search, found, size, budget)
    price = pricing.priced(
        given.genotype,
        search,
        lambda side: given.options(side, len(found.train)).training,
        size,
        found.train.classes,
        budget,
        frozenset(name for name, is_told in fixed.items() if is_told),
        known_networks(options.against),
        lambda line: print(printable(line), flush=True),
    )
    (e, _), *_ = price.trainings
    told |= set(map(printable, (e.data, *e.notes)))
    lines = [*told_price(given, options, price, len(found.train))]
    lines.append(f"in all      {price.total(budget.measured, budget.seconds)}")
    print("\n".join(map(printable, lines)), flush=True)
    return price.plan


def told_price(given: Asked, options: FitOptions, price: Price, pictures: int) -> list[str]:
    """What was found and chosen, and what each stage costs, as lines to print."""
    plan, ((e, span), *others) = price.plan, price.trainings
    training = given.options(plan.image_size, pictures).training
    lines = [f"data        {e.data}", *(f"{INDENT}{note}" for note in e.notes)]
    lines.append(f"device      {e.device}, peak memory {price.peak_memory / 2**30:.2f} GiB")
    lines.append(f"disk        {price.disk / 2**20:.0f} MiB of checkpoints")
    if price.search is not None:
        side, batch = options.search.data.image_size, options.search.batch_size
        lines += [f"search      {given.preset} at {side} pixels, batch {batch}", f"{INDENT}{price.search[1]}"]
    lines += [
        f"training    {given.recipe(plan.image_size)}: {training.form} form at {plan.image_size} pixels, "
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


def against(place: Path, name: str) -> Path:
    """The folder of the training of a known network."""
    return place / f"against-{name.replace(':', '-')}"


def carry_out(
    given: Asked, options: FitOptions, plan: Plan, place: Path, command: str, told: set[str]
) -> EvaluateConfig:
    """The search and the trainings, each a run of its own; what is done already is not done again.

    Args:
        told: lines that are not said again.

    Returns:
        The configuration of all trainings.
    """
    from dasgm.cli import fitting
    from dasgm.jobs import evaluate
    from dasgm.jobs import search as job
    from dasgm.jobs.session import Hooks

    with progress() as (write, watch):
        say = once(write, told)

        def hooks(where: Path, title: str, **more: str) -> Hooks:
            about = {"name": f"{place.name}-{where.name}", "title": f"{place.name}: {title}", "command": command}
            return Hooks(say=say, watch=watch, about=about | more, stoppable=True)

        genotype, where = given.genotype, place / SEARCH
        if genotype is None:
            config = fitting.with_epochs(options.search, plan.search_epochs)
            say(printable(f"search: {counted(config.total_epochs, 'epoch')}, in {where}"))
            with part_of_fit(SEARCH), ending("search", where, command, say):
                job.main(config, where, hooks(where, SEARCH))
            genotype = Genotype.load(str(where))
        training = fitting.with_training_epochs(options.training, genotype, plan)

        def train(design: Design, where: Path, title: str, source: str) -> Row:
            about = {design.kind: source, "recipe": given.recipe(plan.image_size)}
            length = counted(training.epochs, "epoch") + fitting.shortened(options.training, training)
            say(printable(f"{title}: {length}, in {where}"))
            with part_of_fit(TRAINING), ending("training", where, command, say, "every whole epoch"):
                return evaluate.main(design, training, where, hooks(where, title, **about))

        row = train(genotype, place / TRAINING, TRAINING, given.values.get("--genotype") or str(where))
        for network in known_networks(plan.against):
            train(network, against(place, str(network)), str(network), str(network))
        say(trained_lines(row, place / TRAINING))
    return training


def once(say: Callable[[str], None], told: set[str]) -> Callable[[str], None]:
    """Says a line unless it has been `told`."""

    def say_once(line: str) -> None:
        if line not in told:
            told.add(line)
            say(line)

    return say_once


# what it is worth


def compared(place: Path, names: Sequence[str]) -> None:
    """Compare the known networks with the found one, in print and as a file."""
    from dasgm.cli.compare import show
    from dasgm.pages.comparison import compare

    found = compare([place / TRAINING, *(against(place, name) for name in names)])
    write_atomic(place / COMPARISON, found.markdown())
    show(found)
    print(printable(f"  table     {place / COMPARISON}"))


def beside(recipe: str, training: EvaluateConfig, place: Path) -> list[str]:
    """The lines that train a known network in the same way, and compare it with the found one."""
    other = against(place, USUAL)
    return [
        f"  beside it {training_line(USUAL, recipe, training, other)}",
        f"  compare   {shell_line(['dasgm', 'compare', place / TRAINING, other])}",
    ]
