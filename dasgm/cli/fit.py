"""`dasgm fit PICTURES`: from a folder of pictures to a trained model, in one process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dasgm.api.places import absolute, check_time_budget
from dasgm.cli.again import called
from dasgm.cli.arguments import parse, take
from dasgm.cli.evaluate import trained_lines
from dasgm.cli.progress import ending, progress
from dasgm.config import SearchConfig
from dasgm.data import folder
from dasgm.designs.known import KnownNetwork, is_known
from dasgm.genotype import Genotype
from dasgm.given import Given, flags
from dasgm.presets import PRESETS, preset, with_dataset
from dasgm.recipes import RECIPES, EvaluateConfig
from dasgm.store.bucket import lies_at
from dasgm.store.files import printable, shell_line, write_atomic

if TYPE_CHECKING:
    from dasgm.cli.fitting import Plan, Price
    from dasgm.data._parts import Parts
    from dasgm.designs.design import Design
    from dasgm.jobs.session import Row

BEFORE = {
    "--genotype": "Genotype to train instead of a search: a file, a run's folder, its text, or a name (DARTS_V2).",
    "--preset": f"Settings of the search to begin with: {', '.join(PRESETS)}, or a JSON file. The default is fit-small "
    "on a CPU, dasgm-darts on a GPU.",
    "--recipe": f"Settings of the training to begin with: {', '.join(RECIPES)}. The default is the ImageNet form above "
    "64 pixels, else the CIFAR form, both in small sizes on a CPU.",
    "--image-size": "Side of the images that the network is trained on, in pixels: a multiple of 4 from 32 to 320. The "
    "default is the largest of 32, 64, 96, ... 224 that is no more than the shorter side of half of the photographs "
    "and leaves the budget at least 10 epochs.",
    "--config": "Configuration or folder below PICTURES to read, if the Parquet files there hold several data sets.",
    "--search.image-size": "Side of the images of the search, in pixels. The default is 32.",
    "--device": "Device of both stages: auto (a GPU if there is one), cpu, cuda, cuda:N or mps.",
    "--seed": "Seed of both stages. The default is 0.",
}
OURS = ("data_dir", "device", "seed", "data.image_size", "data.config", "data.skip_unreadable")
"""Settings of both stages for which there is one option."""
SEARCH, TRAINING = "search", "training"
COMPARISON = "comparison.md"
ABOUT = (
    "From a folder of pictures to a trained model: a search, then the training of the network that it finds. To "
    "continue, run the same command.\n- PICTURES: Folder with class/*.jpg, or train/ val/ test/ with such folders, or "
    "Parquet files, or CSV files (path,label).\n"
    + "\n".join(f"- {flag} VALUE: {sentence}" for flag, sentence in BEFORE.items())
)


def known_networks(names: Sequence[str]) -> tuple[KnownNetwork, ...]:
    """The networks of --against. ValueError: one that is not known, or is named twice."""
    for name in names:
        if not is_known(name):
            raise ValueError(f"against {name:.80}: expected a known network, such as torchvision:resnet18")
        if names.count(name) > 1:
            raise ValueError(f"against {name:.80}: it is named twice; name each network once")
    return tuple(KnownNetwork.load(name) for name in names)


@dataclass(frozen=True)
class FitOptions:
    """Where a fit lies, its budget, and the settings of its stages."""

    search: SearchConfig
    training: EvaluateConfig
    time_budget: float | None = None
    """Seconds within which the whole is to end: the numbers of epochs are chosen by what a few steps take here, and
    measuring these takes a part of it. None takes the preset's and the recipe's numbers."""
    search_share: float = 0.4
    """Share of the search in what measuring leaves of the time budget, from 0 to 1 (our choice: 0.4)."""
    against: tuple[str, ...] = ()
    """Known networks, as torchvision:resnet18 or timm:resnet18, that are trained on the same data by the same recipe
    for as many epochs, and compared with the found one on the test pictures. They share the time of the training."""
    storage: Path = Path("runs")
    """Folder for all runs."""
    name: str = ""
    """Name of the folder of both runs, by default fit-<folder of pictures>-s<seed>. One that is there is continued."""
    skip_unreadable: bool = False
    """Leave out pictures that cannot be read, and say which. Otherwise the first ones end the command."""
    dry_run: bool = False
    """Print what would be done and what it costs (hours, memory, disk), and start nothing."""

    def __post_init__(self) -> None:
        check_time_budget(self.time_budget)
        if not 0 < self.search_share < 1:
            raise ValueError(f"search-share {self.search_share}: expected a number between 0 and 1, such as 0.4")
        known_networks(self.against)


@dataclass(frozen=True)
class Asked:
    """A command line, as far as it is read before the settings of the stages."""

    pictures: str
    values: Mapping[str, str]
    rest: list[str]
    genotype: Genotype | None
    gpu: bool

    @property
    def given(self) -> Given:
        """Settings that the command line names."""
        return flags(self.rest)

    def number(self, flag: str, default: int) -> int:
        """The value of an option that takes a whole number."""
        given = self.values.get(flag, str(default))
        if not given.isdecimal():
            raise ValueError(f"{flag} {given!r:.80}: expected a whole number")
        return int(given)

    @property
    def preset(self) -> str:
        """What the search begins with."""
        return self.values.get("--preset") or ("dasgm-darts" if self.gpu else "fit-small")

    @property
    def seed(self) -> int:
        return self.number("--seed", 0)

    @property
    def name(self) -> str:
        """Of the folder, by default."""
        return f"fit-{Path(self.pictures).expanduser().absolute().name or 'pictures'}-s{self.seed}"

    @property
    def data(self) -> folder.Config:
        """How the pictures are listed."""
        return folder.Config(skip_unreadable="skip_unreadable" in self.given, config=self.values.get("--config", ""))

    def with_common(self, config: Any, size: int) -> Any:
        """The configuration of a stage with the settings of both, and its own size."""
        own = {"image_size": size, "skip_unreadable": self.data.skip_unreadable, "config": self.data.config}
        device = self.values.get("--device", config.device)
        data, place = replace(config.data, **own), absolute(self.pictures)
        return replace(config, data=data, data_dir=place, device=device, seed=self.seed)

    def search(self, pictures: int) -> SearchConfig:
        """The search by default, on so many training pictures."""
        from dasgm.cli.fitting import fitting_batch

        found = with_dataset(preset(self.preset).config, "folder")
        used = min(pictures, found.data.limit or pictures)
        # FID and IS would be of the GAN alone, and need weights that are downloaded
        found = replace(found, batch_size=fitting_batch(found.batch_size, used), fidelity_every=0)
        config: SearchConfig = self.with_common(found, self.number("--search.image-size", 32))
        return config

    def recipe(self, size: int) -> str:
        """What the training begins with."""
        from dasgm.cli.fitting import usual_recipe

        space = self.genotype.space if self.genotype else preset(self.preset).config.space
        return self.values.get("--recipe") or usual_recipe(space, size, self.gpu)

    def training(self, size: int, pictures: int) -> EvaluateConfig:
        """The training by default, at this size."""
        from dasgm.cli.fitting import at_size

        config: EvaluateConfig = self.with_common(at_size(self.recipe(size), size, pictures), size)
        return config

    def options(self, size: int, pictures: int) -> FitOptions:
        """All settings, with the defaults for a training at this size."""
        default = FitOptions(self.search(pictures), self.training(size, pictures))
        found: FitOptions = parse(FitOptions, self.rest, default, "dasgm fit", ABOUT, tuple(BEFORE), "PICTURES")
        return found


def asked(argv: Sequence[str]) -> Asked:
    """The command line up to the settings of the stages. ValueError: something of it cannot be used."""
    from dasgm.device import device_of

    values, first, rest = take(argv, tuple(BEFORE), 1)
    if not first and {"-h", "--help"} & set(rest):
        first = ["PICTURES"]
    if not first:
        raise ValueError("name the folder with your pictures first, as in dasgm fit PICTURES")
    for stage in (SEARCH, TRAINING):
        for name in OURS:
            if f"{stage}.{name}" in flags(rest):
                option = {"data_dir": "PICTURES", "data.image_size": "--image-size"}.get(name, f"--{name}")
                option = "--search.image-size" if (stage, name) == (SEARCH, "data.image_size") else option
                raise ValueError(f"--{stage}.{name.replace('_', '-')}: dasgm fit takes it from {option}; give it there")
    genotype = Genotype.load(values["--genotype"]) if "--genotype" in values else None
    if genotype and (without := [f"--{name}" for name in flags(argv) if name.startswith("search.")]):
        raise ValueError(f"{without[0]} with --genotype: there is no search; leave one of the two out")
    if genotype and "--preset" in values:
        raise ValueError(f"--preset {values['--preset']} with --genotype: there is no search; leave one of the two out")
    gpu = device_of(values.get("--device", "auto")).startswith("cuda")
    return Asked(first[0], values, rest, genotype, gpu)


# the command


def fit(argv: Sequence[str]) -> int:
    try:
        return _fit(argv)
    except ValueError as error:  # of a stage, which names its own option
        raise ValueError(str(error).replace("--data.skip-unreadable", "--skip-unreadable")) from None


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
    plan = fitting.Plan.load(place)
    if plan is None:
        plan = chosen(given, options, size, found, begun)
    else:
        ensure_same(plan, given, options, size, place)
        print(printable(f"going on in {place}, with the sizes and epochs that were chosen when it began"), flush=True)
    options = given.options(plan.image_size, len(found.train))
    if options.dry_run:
        print("nothing was started (--dry-run)")
        return 0
    plan.save(place)
    carry_out(given, options, plan, place, called(["fit", *argv], "dasgm"))
    if plan.against:
        compared(place, plan.against)
    print(
        printable(f"  register  {shell_line(['python', '-m', 'cluster.tracking', place / TRAINING])} --register NAME")
    )
    return 0


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


def chosen(given: Asked, options: FitOptions, size: int, found: Parts, begun: float) -> Plan:
    """What is not told is chosen by measuring, and the price is printed."""
    from dasgm.cli import fitting

    known = given.given
    told = {SEARCH: "search.method.epochs" in known, TRAINING: "training.epochs" in known}
    told["size"] = "--image-size" in given.values
    budget = fitting.Budget(options.time_budget, 0.0 if given.genotype else options.search_share, begun)
    print(printable(f"{given.pictures}: measuring a few steps of each stage"), flush=True)
    price = fitting.priced(
        given.genotype,
        None if given.genotype else options.search,
        lambda side: given.options(side, len(found.train)).training,
        size,
        found.train.classes,
        budget,
        frozenset(name for name, is_told in told.items() if is_told),
        known_networks(options.against),
    )
    print("\n".join(map(printable, told_price(given, options, price, len(found.train)))), flush=True)
    return price.plan


def told_price(given: Asked, options: FitOptions, price: Price, pictures: int) -> list[str]:
    """What was found and chosen, and what it costs, as lines to print."""
    from dasgm.cli import fitting

    plan, (e, *others) = price.plan, price.trainings
    training = given.options(plan.image_size, pictures).training
    lines = [f"data        {e.data}", *(f"            {note}" for note in e.notes)]
    lines.append(f"device      {e.device}, peak memory {price.peak_memory / 2**30:.2f} GiB")
    if price.search is not None:
        epochs = fitting.with_epochs(options.search, plan.search_epochs).total_epochs
        side, batch = options.search.data.image_size, options.search.batch_size
        lines.append(
            f"search      {given.preset} at {side} pixels, batch {batch}, {epochs} epochs: about "
            f"{price.search_seconds:.0f} s"
        )
    lines += [
        f"training    {given.recipe(plan.image_size)}: {training.form} form at {plan.image_size} pixels, "
        f"{training.cells} cells of {training.channels} channels, batch {training.batch_size}",
        f"            {plan.training_epochs} epochs of about {e.epoch:.1f} s: "
        f"{'about' if given.genotype else 'at most about'} {price.training_seconds:.0f} s"
        + " with those of the known networks"
        * bool(others),
    ]
    for name, one in zip(plan.against, others, strict=True):
        lines.append(f"against     {name}: {one.parameters:,} parameters, as many epochs of about {one.epoch:.1f} s")
    if plan.costliest:
        lines.append(
            "            a found network that takes less time is trained for more epochs"
            + ", and the known ones are too" * bool(others)
        )
    return [*lines, f"disk        {price.disk / 2**20:.0f} MiB of checkpoints"]


def against(place: Path, name: str) -> Path:
    """The folder of the training of a known network."""
    return place / f"against-{name.replace(':', '-')}"


def carry_out(given: Asked, options: FitOptions, plan: Plan, place: Path, command: str) -> None:
    """The search and the trainings, each a run of its own; what is done already is not done again."""
    from dasgm.cli import fitting
    from dasgm.jobs import evaluate
    from dasgm.jobs import search as job
    from dasgm.jobs.session import Hooks

    with progress() as (say, watch):

        def hooks(where: Path, title: str, **more: str) -> Hooks:
            about = {"name": f"{place.name}-{where.name}", "title": f"{place.name}: {title}", "command": command}
            return Hooks(say=say, watch=watch, about=about | more, stoppable=True)

        genotype, where = given.genotype, place / SEARCH
        if genotype is None:
            config = fitting.with_epochs(options.search, plan.search_epochs)
            say(printable(f"search: {config.total_epochs} epochs, in {where}"))
            with ending("search", where, command, say):
                job.main(config, where, hooks(where, SEARCH))
            genotype = Genotype.load(str(where))
        training = fitting.with_training_epochs(options.training, genotype, plan)

        def train(design: Design, where: Path, title: str, source: str) -> Row:
            about = {design.kind: source, "recipe": given.recipe(plan.image_size)}
            say(
                printable(
                    f"{title}: {training.epochs} epochs{fitting.shortened(options.training, training)}, in {where}"
                )
            )
            with ending("training", where, command, say, "every whole epoch"):
                return evaluate.main(design, training, where, hooks(where, title, **about))

        row = train(genotype, place / TRAINING, TRAINING, given.values.get("--genotype") or str(where))
        for network in known_networks(plan.against):
            train(network, against(place, str(network)), str(network), str(network))
        say(trained_lines(row, place / TRAINING))


def compared(place: Path, names: Sequence[str]) -> None:
    """Compare the known networks with the found one, in print and as a file."""
    from dasgm.cli.compare import show
    from dasgm.pages.comparison import compare

    found = compare([place / TRAINING, *(against(place, name) for name in names)])
    write_atomic(place / COMPARISON, found.markdown())
    show(found)
    print(printable(f"  table     {place / COMPARISON}"))
