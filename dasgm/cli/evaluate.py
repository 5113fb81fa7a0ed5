"""dasgm evaluate: argv -> (design, recipe, configuration) -> main."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dasgm import recipes
from dasgm.api import choices
from dasgm.api.choices import TrainingChoice
from dasgm.api.evaluations import run_training
from dasgm.api.places import check_time_budget
from dasgm.cli.again import called
from dasgm.cli.arguments import ensure_once, fail, flattened, options_between, parse, take
from dasgm.cli.progress import on_terminal
from dasgm.designs.design import ensure_effect
from dasgm.designs.known import KnownNetwork
from dasgm.given import flags
from dasgm.plugins import key_of, keys
from dasgm.recipes import EvaluateConfig
from dasgm.store.bucket import lies_at
from dasgm.store.files import printable, shell_line


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
    weights = values.pop("--weights", None)
    if len(first) > 1:
        ensure_once("--recipe", values, first[1])
        values["--recipe"] = first[1]
    chosen = choices.choose_training(first[0], **as_arguments(values | size_of(rest)), weights=weights)
    ensure_effect(flags(rest), [chosen.design])
    return chosen, rest


def size_of(words: Sequence[str]) -> dict[str, str]:
    """The size of the images that is among the settings, which chooses the usual recipe too."""
    return take(words, (SIZE,), 0)[0]


def as_arguments(values: Mapping[str, str]) -> dict[str, Any]:
    """What stands before the settings, and the size, as arguments of `choose_recipe`."""
    size = values.get(SIZE, "")
    found: dict[str, Any] = {flag[2:].replace("-", "_"): values.get(flag) for flag in BEFORE}
    return found | {"image_size": int(size) if size.isdecimal() else None}


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
    name = options.name or chosen.name()
    print("\n".join(chosen.lines(options.storage / name)), flush=True)
    if options.dry_run:
        from dasgm.cli.catalogue import show_config
        from dasgm.jobs.estimate import describe_training

        show_config(chosen.config)
        for choice in recipes.recipe(chosen.recipe).choices:
            print(f"  - {choice}")
        print(describe_training(chosen.design, chosen.config))
        return 0
    with on_terminal(called(["evaluate", *argv], "dasgm")) as caller:
        found = run_training(chosen, options.storage, name, options.time_budget, caller)
        caller.say(trained_lines(found.metrics, found.folder))
    return 0


def training_line(network: str, recipe: str, config: EvaluateConfig, folder: Path) -> str:
    """The command, for a shell, that trains a known network as `config` says, which began with `recipe`."""
    design = KnownNetwork.load(network)
    first = {"--recipe": recipe, "--dataset": key_of(config.data)}
    first |= {"--data-dir": config.data_dir} if config.data_dir else {}
    usual = choices.choose_recipe({}, design.recipes, **as_arguments(first))[1]
    words = [*itertools.chain(*first.items()), *options_between(usual, config, design.unused)]
    return shell_line(["dasgm", "evaluate", network, *words, "--storage", folder.parent, "--name", folder.name])


def trained_lines(row: Mapping[str, Any], folder: Path) -> str:
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
