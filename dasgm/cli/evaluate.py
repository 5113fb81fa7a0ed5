"""dasgm evaluate: argv -> (design, recipe, configuration) -> main."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dasgm import recipes
from dasgm.cli.again import called
from dasgm.cli.arguments import ensure_once, fail, flattened, options_between, parse, take
from dasgm.cli.progress import ending, progress
from dasgm.cli.settings import absolute, check_time_budget, ensure_meant
from dasgm.config import from_json
from dasgm.data._base import IN_MEMORY, DataConfig
from dasgm.designs.design import Design, ensure_effect, load_design
from dasgm.designs.known import KnownNetwork
from dasgm.genotype import genotype_text, name_of
from dasgm.given import flags
from dasgm.plugins import key_of, keys, plugin
from dasgm.presets import with_dataset
from dasgm.recipes import PHOTOGRAPHS, EvaluateConfig
from dasgm.store.bucket import lies_at
from dasgm.store.files import printable, shell_line
from dasgm.store.records import read_json
from dasgm.store.replica import here
from dasgm.store.run import state_of


@dataclass(frozen=True)
class TrainingChoice:
    """What stands before the settings of an evaluation: GENOTYPE, RECIPE, --dataset, --data-dir, --weights."""

    design: Design
    source: str
    """What it is called: a name, a file or a run's folder."""
    recipe: str
    config: EvaluateConfig
    weights: str = ""
    """File of weights that a known network begins from."""

    def name(self) -> str:
        """The run's name by default: <genotype>-<recipe>-<dataset>-s<seed>."""
        run = run_of(self.source)
        sweep = f"{run.parent.name}-" if (run.parent / "sweep.json").is_file() else ""
        stem = sweep + run.absolute().name if run.is_dir() else run.stem.replace(":", "-")
        config, begun = self.config, [f"from-{Path(self.weights).stem}"] if self.weights else []
        folds = [f"{config.folds}folds"] * bool(config.folds) + [f"fold{config.fold}"] * bool(config.fold)
        parts = dict.fromkeys((stem or "genotype", *begun, self.recipe, key_of(config.data), f"s{config.seed}"))
        return "-".join([*parts, *folds])


@dataclass(frozen=True)
class EvaluateOptions:
    """Where an evaluation lies, and its settings."""

    config: Any
    storage: Path = Path("runs")
    """Folder for all runs: a path, or an address in object storage such as s3://BUCKET/PREFIX."""
    name: str = ""
    """Name of the run, by default <genotype>-<recipe>-<dataset>-s<seed>, with --folds K also -<K>folds.
    A run with this name is continued."""
    loader: Literal["torch"] = "torch"
    """Reader of streamed photographs (of imagenet, or of a large folder): PyTorch's DataLoader.
    For Ray Data use cluster/evaluate.py."""
    time_budget: float | None = None
    """Seconds after which the training stops; the same command continues it. None sets no limit."""
    dry_run: bool = False
    """Print the configuration and the cost of the training (hours, memory, disk), and start nothing."""

    def __post_init__(self) -> None:
        check_time_budget(self.time_budget)


BEFORE = ("--recipe", "--dataset", "--data-dir")
SIZE = "--data.image-size"
SOURCES = (
    "a file, a run's folder, its text, a name such as DARTS_V2 (`dasgm measure --list` lists them), or a known network "
    "such as torchvision:resnet18 or timm:resnet18"
)
OF_WHAT = f"Genotype or known network that is trained: {SOURCES}."
WEIGHTS = (
    "\n- --weights FILE: File of weights (safetensors, or torch.save with tensors only) that a known network begins "
    "from; by default all weights are random. A head for another number of classes stays random."
)


def recipes_help(positional: bool = False) -> str:
    """What may stand before the settings, besides the genotype, for --help."""
    first = "RECIPE or --recipe RECIPE" if positional else "--recipe RECIPE"
    return (
        f"\n- {first}: Settings to begin with: {', '.join(recipes.RECIPES)}."
        f"\n- --dataset NAME: Data set to train on, by default that of the run: {', '.join(keys('data'))}."
        "\n- --data-dir FOLDER: Folder with the data set's files, by default that of the run."
        "\n\nThese are read before all other options, which are listed below with the defaults that they choose."
    )


def choose_training(argv: Sequence[str]) -> tuple[TrainingChoice, list[str]]:
    """Take the genotype, the recipe and the data set out of the arguments; the rest is for the parser.

    Raises:
        ValueError: no genotype, or an unknown name; the nearest is suggested.
    """
    values, first, rest = take(argv, (*BEFORE, "--weights"), 2)
    if not first:
        raise ValueError(f"name a genotype: {SOURCES}")
    given, weights = first[0], values.pop("--weights", "")
    design = load_design(given, weights or None)
    source = name_of(given) if genotype_text(given) else str(here(given))
    if len(first) > 1:
        ensure_once("--recipe", values, first[1])
        values["--recipe"] = first[1]
    ran = {} if genotype_text(given) else read_json(run_of(source) / "config.json")
    recipe, config = configured(values | size_of(rest), ran, design.recipes)
    ensure_effect(flags(rest), [design])
    return TrainingChoice(design, source, recipe, config, weights), rest


def size_of(words: Sequence[str]) -> dict[str, str]:
    """The size of the images that is among the settings, which chooses the usual recipe too."""
    return take(words, (SIZE,), 0)[0]


def configured(
    values: dict[str, str], ran: dict[str, Any], usual: Mapping[str, str], workers: int = 1
) -> tuple[str, EvaluateConfig]:
    """The recipe's name and the configuration that --recipe, --dataset and --data-dir choose.

    Args:
        ran: config.json of the search that gave the genotype; its data set is the default. {}: there is none.
        usual: the recipes of the design (`Design.recipes`).
    """
    searched = _data(ran)
    key = values.get("--dataset") or (key_of(searched) if searched else "")
    size = values.get(SIZE, "")
    pixels = int(size) if size.isdecimal() else searched.image_size if searched else 0
    large = key == "folder" and pixels > IN_MEMORY
    named = values.get("--recipe") or usual.get(PHOTOGRAPHS if large else key, usual[""])
    config = recipes.per_worker(recipes.recipe(named).config, workers)
    place = values.get("--data-dir")
    if searched and key == key_of(searched):
        lay = ran.get("data_dir")
        config, place = recipes.on(config, searched), place or (lay if isinstance(lay, str) else None)
    elif key:
        config = with_dataset(config, key)
    ensure_meant(config.data, values.get("--data-dir"))
    return named, replace(config, data_dir=place if place and "://" in place else absolute(place))


def run_of(source: str) -> Path:
    """The folder of the run that a genotype is of, if it is of one."""
    path = Path(source)
    return path.parent if path.name == "genotype.json" else path


def _data(config: dict[str, Any]) -> DataConfig | None:
    """The data set of a run's config.json."""
    data = config.get("data")
    return from_json(data, plugin("data", str(data.get("key"))), "data.") if isinstance(data, dict) else None


def evaluate_options(argv: Sequence[str]) -> tuple[TrainingChoice, EvaluateOptions]:
    """The command line of one evaluation: what it is of, then its settings."""
    about = (
        "Train the network of a genotype, or a known one, from scratch; the last epoch's test error is the result. To "
        f"continue, run the same command.\n- GENOTYPE: {OF_WHAT}{WEIGHTS}{recipes_help(positional=True)}"
    )
    wants_help = bool({"-h", "--help"} & set(argv))
    try:
        chosen, rest = choose_training(["DARTS_V2", *argv] if wants_help else argv)
    except ValueError as error:
        fail(error)
    kind, before = flattened(EvaluateOptions, EvaluateConfig), (*BEFORE, "--weights")
    found = parse(kind, rest, EvaluateOptions(chosen.config), "dasgm evaluate", about, before, "GENOTYPE [RECIPE]")
    return replace(chosen, config=found.config), found


def evaluate(argv: Sequence[str]) -> int:
    chosen, options = evaluate_options(argv)
    config, folder = chosen.config, options.storage / (options.name or chosen.name())
    command = called(["evaluate", *argv], "dasgm")
    found = recipes.recipe(chosen.recipe)
    what = f"{lies_at(chosen.source)} by the recipe {chosen.recipe} on {key_of(config.data)}"
    print(printable(f"{what}: loading; the run's folder is {lies_at(folder)}"), flush=True)
    run = run_of(chosen.source)
    if (run / "run.json").is_file() and (state := state_of(run)) != "finished":
        print(printable(f"the run {run} is {state}: its architecture so far is used"))
    if options.dry_run:
        from dasgm.cli.catalogue import show_config
        from dasgm.cli.estimate import describe_training

        show_config(config)
        for choice in found.choices:
            print(f"  - {choice}")
        print(describe_training(chosen.design, config))
        return 0
    from dasgm.jobs import evaluate as one
    from dasgm.jobs import folds as several
    from dasgm.jobs.session import Hooks

    main = several.main if config.folds and not config.fold else one.main

    about = {"name": folder.name, "title": folder.name, "command": command}
    about |= {"recipe": chosen.recipe, chosen.design.kind: lies_at(chosen.source)}
    with progress() as (say, watch):
        with ending("training", folder, command, say, "every whole epoch"):
            hooks = Hooks(say=say, watch=watch, about=about, stoppable=True, time_budget=options.time_budget)
            row = main(chosen.design, config, folder, hooks)
        say(trained_lines(row, folder))
    return 0


def training_line(network: str, recipe: str, config: EvaluateConfig, folder: Path) -> str:
    """The command, for a shell, that trains a known network as `config` says, which began with `recipe`."""
    design = KnownNetwork.load(network)
    first = {"--recipe": recipe, "--dataset": key_of(config.data)}
    first |= {"--data-dir": config.data_dir} if config.data_dir else {}
    usual = configured(first, {}, design.recipes)[1]
    words = [*itertools.chain(*first.items()), *options_between(usual, config, design.unused)]
    return shell_line(["dasgm", "evaluate", network, *words, "--storage", folder.parent, "--name", folder.name])


def trained_lines(row: dict[str, Any], folder: Path) -> str:
    """What a training came to, and how its model is used."""
    five = f", top-5 {row['result/top5_error']:.2%}" if "result/top5_error" in row else ""
    cost = (
        f"  {row['result/parameters']:,} parameters, {row['result/multiply_adds']:,} multiply-adds, "
        f"{row['cost/gpu_hours']:.4f} device hours; everything lies in {lies_at(folder)}",
        f"  page      {folder / 'report.html'}",
        f"  pictures  {folder / 'predictions.csv'} says what each test picture was taken for",
    )
    if "result/folds" in row:
        spread = f"{row['result/error_sd']:.2%} is the standard deviation over {row['result/folds']} folds"
        first = f"finished: error {row['result/error']:.2%} on all pictures, each measured once; {spread}"
        return "\n".join(map(printable, (first, *cost)))
    lines = (
        f"finished: test error {row['result/error']:.2%}{five} after the last epoch (the best on the test set is "
        f"not the result: {row['result/best_error']:.2%} after epoch {row['result/best_epoch']})",
        *cost,
        f"  try it    {shell_line(['dasgm', 'predict', folder, 'PICTURE'])}",
        f"  export it {shell_line(['dasgm', 'export', folder, '--format', 'onnx'])}",
        f"  load it   import dasgm; model = dasgm.load({str(folder)!r})",
    )
    return "\n".join(map(printable, lines))
