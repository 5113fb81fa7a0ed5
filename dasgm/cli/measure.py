"""`dasgm measure`: what a network costs. Free of torch until it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dasgm.cli.arguments import Parser
from dasgm.store.files import printable, shell_line

if TYPE_CHECKING:
    from dasgm.measures.latency import Latency


def _measure_parser() -> Parser:
    parser = Parser(
        prog="dasgm measure",
        description="Count the parameters, and the multiply-adds for one image, of a genotype's network, of the "
        "supernets of a preset's search or of a GAN. A genotype's network has the usual size of its space (DARTS: "
        "20 cells, 36 channels), 10 classes and images of 32 pixels; in the ImageNet form 14, 48, 1000 and 224. With "
        "--latency, time a trained model on this machine's CPU instead.",
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
    _add_latency(parser)
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


def _add_latency(parser: Parser) -> None:
    parser.add_argument(
        "--latency",
        action="store_true",
        help="Measure how many milliseconds a trained model takes: the median and the quartiles of at least 30 batches "
        "and 2 seconds, after a warm-up, in float32 on the CPU.",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        help="With --latency, number of pictures in a batch (default: 1).",
    )
    parser.add_argument(
        "--threads",
        type=int,
        help="With --latency, number of CPU threads (default: as many as PyTorch uses, which OMP_NUM_THREADS limits).",
    )
    parser.add_argument(
        "--onnx",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="With --latency, ONNX files of dasgm export that are measured too (default: those beside the model).",
    )


LATENCY = ("batch_size", "threads", "onnx")


def measure(argv: Sequence[str]) -> int:
    asked = vars(_measure_parser().parse_args(list(argv)))
    if asked["latency"]:
        return _latency(asked)
    if given := [name for name in LATENCY if asked[name] is not None]:
        raise ValueError(f"--{given[0].replace('_', '-')}: only a measurement of time has it; give --latency too")
    asked = {name: value for name, value in asked.items() if name not in (*LATENCY, "latency")}
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


def _latency(asked: dict[str, Any]) -> int:
    about = {name: asked.pop(name) for name in ("name", "json", "latency", *LATENCY)}
    if given := [f"--{flag.replace('_', '-')}" for flag, value in asked.items() if value]:
        raise ValueError(f"{given[0]} with --latency: leave one of the two out; a trained model has its own sizes")
    if about["name"] is None:
        raise ValueError("--latency: name the folder of a trained model, such as runs/NAME")
    for flag in ("batch_size", "threads"):
        if about[flag] is not None and about[flag] < 1:
            raise ValueError(f"--{flag.replace('_', '-')} {about[flag]}: expected at least 1")
    import json

    import torch
    from rich.console import Console

    import dasgm
    from dasgm.device import hardware
    from dasgm.measures import latency

    model = dasgm.load(about["name"])
    sizes = {"batch_size": about["batch_size"] or 1, "threads": about["threads"] or torch.get_num_threads()}
    named = about["onnx"]
    times = _of_exports(about["name"], **sizes) if named is None else [latency.of_onnx(path, **sizes) for path in named]
    rows = [each.to_json() for each in (latency.of_model(model, **sizes), *times)]
    processor = hardware("cpu").removeprefix("cpu (").removesuffix(")")
    if about["json"]:
        print(json.dumps({"model": about["name"], "processor": processor} | sizes | {"latency": rows}))
    else:
        console = Console(highlight=False, markup=False)
        console.width = max(console.width, 120)  # a narrow terminal folds the table's lines
        console.print(_latency_table(rows, processor, **sizes))
    return 0


def _of_exports(model: str, batch_size: int, threads: int) -> list[Latency]:
    """Those of the ONNX files beside a model. What is not measured is said, and how it would be."""
    from dasgm.measures.latency import of_onnx
    from dasgm.store.replica import here

    place = here(model)
    found: list[Latency] = []
    files = sorted((place if place.is_dir() else place.parent).glob("model*.onnx"))
    for path in files:
        try:
            found.append(of_onnx(path, batch_size, threads))
        except ValueError as error:
            print(printable(f"{path.name} is not measured: {error}"), file=sys.stderr)
    if not files:
        command = shell_line(["dasgm", "export", model, "--format", "onnx"])
        print(printable(f"`{command}` writes an ONNX file, which is then measured too"), file=sys.stderr)
    return found


def _latency_table(rows: list[dict[str, Any]], processor: str, batch_size: int, threads: int) -> Any:
    from rich.table import Table

    pictures, on = ("picture", "pictures")[batch_size > 1], ("thread", "threads")[threads > 1]
    columns = ("program", "batches", "ms a batch", "quartiles", "ms a picture", "quartiles")
    table = Table(
        *columns, title=f"{processor}, {threads} {on}, {batch_size} {pictures} a batch: medians", title_justify="left"
    )
    for row in rows:
        texts = (text for name in ("batch_ms", "picture_ms") for text in _quartiles(row[name]))
        table.add_row(printable(row["program"]), f"{row['calls']:,}", *texts)
    return table


def _quartiles(ms: dict[str, float]) -> tuple[str, str]:
    """The median; the quartiles."""
    return f"{ms['median']:,.2f}", f"{ms['lower_quartile']:,.2f} to {ms['upper_quartile']:,.2f}"


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
