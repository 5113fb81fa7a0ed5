"""The small verbs of the command line: each parses its own few arguments and prints. Free of torch until one runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dasgm.cli.arguments import Parser
from dasgm.genotype import DEFAULT_SPACE
from dasgm.store.files import printable, shell_line
from dasgm.store.replica import here, refresh


def draw(argv: Sequence[str]) -> int:
    parser = Parser(prog="dasgm draw", description="Draw the cells of a genotype.")
    parser.add_argument(
        "genotype",
        help="Genotype to draw: a JSON or text file, the folder of a run, a known name such as DARTS_V2, or its text.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="File to write: .png, .svg or .pdf, by its ending (default: <name>.png).",
    )
    asked = parser.parse_args(list(argv))
    from dasgm.genotype import Genotype, name_of
    from dasgm.pages import figures

    name = name_of(asked.genotype)
    output = asked.output or Path(f"{name}.png")
    figures.draw(Genotype.load(asked.genotype), output, name)
    print(printable(str(output)))
    return 0


def random(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="dasgm random", description="Draw an architecture uniformly from the search space: the baseline."
    )
    parser.add_argument("--search-space", default=DEFAULT_SPACE, help=f"Search space (default: {DEFAULT_SPACE}).")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the draw, a number from 0 (default: 0).")
    parser.add_argument(
        "--output", type=Path, default=Path("genotype.json"), help="JSON file to write (default: genotype.json)."
    )
    asked = parser.parse_args(list(argv))
    from dasgm.genotype import space_of

    space_of(asked.search_space).random(asked.seed).save(asked.output)
    train, draw = (shell_line(["dasgm", verb, asked.output]) for verb in ("evaluate", "draw"))
    print(printable(f"{asked.output}  (train it: {train}; draw it: {draw})"))
    return 0


def presets(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="dasgm presets",
        description="List the presets. With a name, or a JSON file of your own, print all of its settings and the "
        "choices behind them. With --diff, print the settings in which two presets differ.",
    )
    parser.add_argument("name", nargs="?", help="Preset to explain: a name, or the path of a JSON file of your own.")
    parser.add_argument("--diff", nargs=2, metavar=("A", "B"), help="Two presets whose settings are compared.")
    asked = parser.parse_args(list(argv))
    if asked.diff and asked.name:
        raise ValueError(f"{asked.name} --diff: name one preset, or --diff two")
    from rich.console import Console

    from dasgm.cli import catalogue
    from dasgm.presets import preset

    console = Console(highlight=False)
    console.width = max(console.width, 190)  # a narrow terminal folds the table's lines, rather than a word be cut
    if asked.diff:
        console.print(catalogue.differences(*asked.diff))
    elif asked.name:
        catalogue.show_config(preset(asked.name).config)
        console.print(catalogue.described(asked.name), soft_wrap=True, markup=False)
    else:
        console.print(catalogue.presets())
    return 0


def _measure_parser() -> Parser:
    parser = Parser(
        prog="dasgm measure",
        description="Count the parameters, and the multiply-adds for one image, of a genotype's network, of the "
        "supernets of a preset's search or of a GAN. A genotype's network has the usual size of its space (DARTS: "
        "20 cells, 36 channels), 10 classes and images of 32 pixels; in the ImageNet form 14, 48, 1000 and 224.",
    )
    parser.add_argument(
        "name",
        nargs="?",
        help="What to measure: a genotype or preset (name or file), a GAN, the folder of a run, or a genotype's text.",
    )
    parser.add_argument(
        "--list", action="store_true", help="List the built-in genotypes by search space, and the papers they are from."
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="Print one JSON object instead of a table; with --list an array, with name, space and source of each.",
    )
    _add_sizes(parser)
    return parser


def _add_sizes(parser: Parser) -> None:
    parser.add_argument(
        "--form",
        choices=("cifar", "imagenet"),
        help="Stem of a genotype's network (default: cifar).",
    )
    parser.add_argument(
        "--cells",
        type=int,
        help="Number of cells (default: that of the preset; for a genotype that of its space: DARTS 20, with "
        "--form imagenet 14).",
    )
    parser.add_argument(
        "--channels",
        type=int,
        help="Number of channels in the first cells (default: that of the preset; for a genotype that of "
        "its space: DARTS 36, with --form imagenet 48), or the base width of a GAN.",
    )
    parser.add_argument(
        "--classes",
        type=int,
        help="Number of classes (default: that of the data set; of a genotype 10 or, for imagenet, 1000).",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        help="Side of the images in pixels (default: that of the data set; of a genotype 32 or, for imagenet, 224).",
    )
    parser.add_argument(
        "--dataset",
        help="Data set whose number of classes and image size are used (default: that of the preset).",
    )


def measure(argv: Sequence[str]) -> int:
    asked = vars(_measure_parser().parse_args(list(argv)))
    name, listed, as_json = asked.pop("name"), asked.pop("list"), asked.pop("json")
    if listed:
        given = [f"--{flag.replace('_', '-')}" for flag, value in asked.items() if value is not None]
        if given := [name] * (name is not None) + given:
            raise ValueError(f"{given[0]} with --list: leave one of the two out; the list has no settings")
        return _list_genotypes(as_json)
    if name is None:
        raise ValueError("name what is measured, such as DARTS_V2; --list lists the built-in genotypes")
    import json

    from rich.console import Console

    from dasgm.measures.counts import MeasureOptions, measure

    found = measure(name, MeasureOptions(**asked))
    if as_json:
        print(json.dumps(found))
    else:
        Console(highlight=False, markup=False).print(*_measure_tables(found))
    return 0


def _list_genotypes(as_json: bool) -> int:
    """The built-in genotypes, a table for each search space that has some."""
    import json

    from rich.console import Console
    from rich.table import Table

    from dasgm.genotype import known, space_of
    from dasgm.plugins import key_of

    spaces = {name: key_of(genotype.space) for name, genotype in known().items()}
    sources = {name: space_of(key).sources.get(name, "") for name, key in spaces.items()}
    if as_json:
        print(json.dumps([{"name": name, "space": spaces[name], "source": sources[name]} for name in spaces]))
        return 0
    for space in dict.fromkeys(spaces.values()):
        table = Table("genotype", "source", title=f"search space {space}", title_justify="left")
        for name in (name for name, key in spaces.items() if key == space):
            table.add_row(name, sources[name])
        Console(highlight=False, markup=False).print(table)
    return 0


MEASURED = {
    "parameters": "parameters (no auxiliary head)",
    "multiply_adds": "multiply-adds (convolutions, linear)",
    "multiply_adds_all": "multiply-adds (and norms, ReLUs, pools)",
}


def _measure_tables(found: dict[str, Any]) -> list[Any]:
    """Name and value; then the stages of a search, if it has several."""
    from rich.table import Table

    def text(value: Any) -> str:
        return " to ".join(map(text, value)) if isinstance(value, list) else f"{value:,}"

    stages = found.pop("stages", [])
    table = Table(show_header=False)
    for name, value in found.items():
        table.add_row(
            MEASURED.get(name, name.replace("_", " ")), printable(value) if isinstance(value, str) else text(value)
        )
    if len(stages) < 2:
        return [table]
    each = Table("stage", "cells", "operations an edge", "parameters", "multiply-adds", title="supernets")
    for index, stage in enumerate(stages):
        each.add_row(str(index + 1), *map(text, stage.values()))
    return [table, each]


def runs(argv: Sequence[str]) -> int:
    parser = Parser(prog="dasgm runs", description="List the runs in a folder: state, epochs, accuracy, size on disk.")
    parser.add_argument(
        "--storage",
        default="runs",
        help="Folder with the runs: a path, or an address such as s3://BUCKET/PREFIX (default: runs).",
    )
    parser.add_argument("--follow", action="store_true", help="Update the table every two seconds, until Ctrl-C.")
    parser.add_argument(
        "--json",
        action="store_true",
        help="Print a JSON array instead of a table, with an object for each run: name, kind, sweep, state, reason, "
        "folder, epoch, accuracy, proxy_accuracy, proxy_error, naswot, true_accuracy (of --truth, on CIFAR-10), "
        "test_error, disk_bytes, started, ended and command. "
        "Accuracies and errors are from 0 to 1, times are seconds since 1970, and null is what is not known yet.",
    )
    asked = parser.parse_args(list(argv))
    if asked.json and asked.follow:
        raise ValueError("--json with --follow: leave one of the two out; --json prints what there is now")
    from rich.console import Console
    from rich.live import Live

    from dasgm.pages.overview import as_json, as_table

    storage = here(asked.storage, depth=2)
    if not storage.is_dir():
        raise ValueError(f"storage {storage}: no such folder; give --storage the folder that holds your runs")
    if asked.json:
        print(as_json(storage))
        return 0
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200  # of a pipe nobody knows it
    if not asked.follow:
        console.print(as_table(storage))
        return 0
    try:
        with Live(as_table(storage), console=console) as live:
            while True:
                time.sleep(2)
                refresh(storage, depth=2)
                live.update(as_table(storage))
    except KeyboardInterrupt:
        return 130


def predict(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="dasgm predict",
        description="Classify pictures: a line for each, with its most probable classes first. A picture that cannot "
        "be read is named, and the exit code is then 2; the others are classified all the same.",
    )
    parser.add_argument("model", help="Trained model: an evaluation's folder, its model.json or its model.safetensors.")
    parser.add_argument("images", nargs="+", help="Pictures: JPEG, PNG, WebP or GIF files.")
    parser.add_argument(
        "--top",
        type=int,
        default=5,
        help="Number of classes to print for each picture, the most probable first (default: 5).",
    )
    asked = parser.parse_args(list(argv))
    if asked.top < 1:
        raise ValueError(f"--top {asked.top}: expected at least 1")
    import dasgm
    from dasgm.data._pictures import reason

    model, unreadable = dasgm.load(asked.model), 0
    for image in asked.images:
        try:
            x = model.preprocess(image)
        except Exception as error:  # decoders raise whatever they stumble over
            print(printable(f"error: {image}: {reason(error)}"), file=sys.stderr)
            unreadable += 1
            continue
        (found,) = model.named(x[None], asked.top)
        print(printable(f"{image}: " + ", ".join(f"{name} {p:.1%}" for name, p in found)), flush=True)
    return 2 if unreadable else 0


def export(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="dasgm export",
        description="Write a trained network for other programs, for batches of any size, once its outputs agree with "
        "the network's to 1e-4. pt2: torch.export.load(FILE).module()(images); onnx: input images, output logits.",
    )
    parser.add_argument("model", help="Trained model: an evaluation's folder, its model.json or its model.safetensors.")
    parser.add_argument(
        "--format",
        choices=("pt2", "onnx"),
        required=True,
        help="Format of the file: pt2 is a PyTorch program, onnx is ONNX.",
    )
    parser.add_argument(
        "--output", type=Path, help="File to write (default: model.pt2 or model.onnx beside the model)."
    )
    asked = parser.parse_args(list(argv))
    import dasgm
    from dasgm.export import BATCHES, export

    model, place = dasgm.load(asked.model), Path(asked.model)
    output = asked.output or (place if place.is_dir() else place.parent) / f"model.{asked.format}"
    worst = export(model, output, asked.format)
    sizes = ", ".join(map(str, BATCHES))
    print(
        f"{printable(str(output))}: outputs agree to {worst:.1e} at batches of {sizes}; images are "
        f"[N, 3, {model.image_size}, {model.image_size}], normalised with mean {_rounded(model.mean)} and "
        f"std {_rounded(model.std)}"
    )
    return 0


def _rounded(values: Sequence[float]) -> list[float]:
    """For people; the file has all digits."""
    return [round(value, 4) for value in values]


def report(argv: Sequence[str]) -> int:
    parser = Parser(prog="dasgm report", description="Write the result page of a run or a sweep.")
    parser.add_argument("folder", type=Path, help="Folder of a run or of a sweep, in which report.html is written.")
    from dasgm.pages.report import report

    print(printable(str(report(parser.parse_args(list(argv)).folder))))
    return 0
