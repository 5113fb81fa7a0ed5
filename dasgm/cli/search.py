"""`dasgm search`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dasgm.cli.again import called
from dasgm.cli.arguments import fail, flattened, parse
from dasgm.cli.progress import ending, progress
from dasgm.cli.settings import BEFORE, Chosen, choose, parts_help, placed
from dasgm.config import PretrainConfig
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
    config, folder = chosen.config, options.storage / (options.name or chosen.name())
    command = called(["search", *argv], "dasgm")
    print(printable(f"{chosen.preset} on {chosen.dataset}: loading; the run's folder is {lies_at(folder)}"), flush=True)
    if options.dry_run:
        from dasgm.cli.catalogue import show_config
        from dasgm.cli.estimate import describe

        show_config(config)
        print(describe(config, pretrain=options.pretrain))
        return 0
    from dasgm.jobs import pretrain
    from dasgm.jobs import search as job
    from dasgm.jobs.session import Hooks

    about = {"name": folder.name, "title": folder.name, "command": command, "published": chosen.published}
    with progress() as (say, watch):
        if options.pretrain:

            def first(wanted: PretrainConfig, place: Path) -> None:
                named = {"name": place.name, "title": place.name, "command": command}
                with ending("pre-training", place, command, say):
                    pretrain.main(wanted, place, Hooks(say=say, watch=watch, about=named, stoppable=True))

            config = pretrain.of_search(config, options.storage, first, say)
        with ending("search", folder, command, say):
            row = job.main(config, folder, Hooks(say=say, watch=watch, about=about, stoppable=True))
        say(result_line(row, folder))
    return 0


def result_line(row: dict[str, Any], folder: Path) -> str:
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
