"""The small verbs of the command line: each parses its own few arguments and prints. Free of torch until one runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from dasgm.cli.arguments import Parser
from dasgm.genotype import DEFAULT_SPACE
from dasgm.store.bucket import lies_at
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


def report(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="dasgm report",
        description="Write the result page of a run, a fit or a sweep, or with --paper that of the paper's results.",
    )
    parser.add_argument(
        "folder",
        help="Folder of a run, a fit or a sweep, in which report.html is written. With --paper the folder that holds "
        "the runs, or its address such as s3://BUCKET/PREFIX, in which paper.html and paper.md are written.",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="RUN",
        help="Folder of another finished evaluation on the same test pictures. The page then shows pictures that one "
        "of both networks gets right and the other wrong (paper, Figure 5). By default it shows those of the last "
        "comparison, if there was one.",
    )
    parser.add_argument(
        "--paper",
        action="store_true",
        help="Write every table and figure of the paper from the runs in the folder: what was measured, at which "
        "budget, beside the paper's figures, and for what was not run the command that makes it.",
    )
    options = parser.parse_args(list(argv))
    if options.paper:
        if options.against:
            raise ValueError("--paper with --against: leave one of the two out; --paper compares by itself")
        from dasgm.jobs.paper import paper

        print(*(printable(lies_at(path)) for path in paper(options.folder)), sep="\n")
        return 0
    from dasgm.pages.report import report

    folder = Path(options.folder)
    if options.against:
        from dasgm.jobs.against import against

        against(folder, options.against)
    print(printable(str(report(folder))))
    return 0
