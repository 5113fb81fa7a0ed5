"""`dasgm measure`: what a network costs. Free of torch until it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dasgm.cli.arguments import Parser
from dasgm.store.files import printable


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
