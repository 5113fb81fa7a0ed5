"""`dasgm search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dasgm.api.choices import placed
from dasgm.api.searches import loading, run_search
from dasgm.cli.again import called
from dasgm.cli.arguments import fail, flattened, parse
from dasgm.cli.progress import on_terminal
from dasgm.cli.settings import BEFORE, Chosen, choose, parts_help
from dasgm.measures.truth import DATASETS
from dasgm.store.bucket import lies_at
from dasgm.store.files import printable, shell_line


@dataclass(frozen=True)
class SearchOptions:
    """Where a search lies, and its settings."""

    config: Any
    storage: Path = Path("runs")
    """Folder for all runs: a path, or an address in object storage such as s3://BUCKET/PREFIX."""
    name: str = ""
    """Name of the run, by default <preset>-<dataset>-s<seed>. A run with this name is continued."""
    pretrain: bool = False
    """Begin with a pre-trained GAN; train it first if no run in --storage has done so."""
    dry_run: bool = False
    """Print the configuration and the cost of the search (hours, memory, disk), and start nothing."""


def search_options(argv: Sequence[str], prog: str, options: type = SearchOptions, more: str = "") -> tuple[Chosen, Any]:
    """The command line of one search, alone or under Ray Train: its parts, then its settings; `more` for --help."""
    try:
        chosen = choose(argv)
    except ValueError as error:
        fail(error)
    about = f"Search an architecture. To continue, run the same command. {more} {parts_help()}"
    found = parse(flattened(options), chosen.rest, options(chosen.config), prog, about, BEFORE, "[PRESET]")
    return replace(chosen, config=placed(found.config)), found


def search(argv: Sequence[str]) -> int:
    chosen, options = search_options(argv, "dasgm search")
    name = options.name or chosen.name()
    print(loading(chosen, options.storage / name), flush=True)
    if options.dry_run:
        from dasgm.cli.catalogue import show_config
        from dasgm.jobs.estimate import describe

        show_config(chosen.config)
        print(describe(chosen.config, pretrain=options.pretrain))
        return 0
    with on_terminal(called(["search", *argv], "dasgm")) as caller:
        found = run_search(chosen, options.storage, name, options.pretrain, caller)
        caller.say(result_line(found.metrics, found.folder))
    return 0


def result_line(row: Mapping[str, Any], folder: Path) -> str:
    """What a search came to, by its last row, and where it lies."""
    scores = ""
    if "best/proxy" in row:
        scores = f"proxy accuracy {row['best/proxy']:.3f} ± {row['best/proxy_error']:.3f}; "
    if "best/naswot" in row:
        scores += f"NASWOT {row['best/naswot']:.1f}; "
    true = [
        f"{title} {row[f'truth/{name}']:.2%} (rank {row[f'truth/rank_{name}']:,})"
        for name, title in DATASETS.items()
        if f"truth/{name}" in row
    ]
    genotype = folder / "genotype.json"
    lines = (
        f"finished: {scores}{row['cost/gpu_hours']:.4f} device hours; everything lies in {lies_at(folder)}",
        *([f"  truth     {', '.join(true)}"] if true else []),
        f"  genotype  {genotype}",
        f"  page      {folder / 'report.html'}",
        f"  train it  {shell_line(['dasgm', 'evaluate', folder])}",
        f"  draw it   {shell_line(['dasgm', 'draw', genotype, '--output', 'cells.pdf'])}",
    )
    return "\n".join(map(printable, lines))
