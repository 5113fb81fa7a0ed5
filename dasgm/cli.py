"""The command line: argv -> (verb, configuration) -> main. The only importer of tyro."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import dasgm
from dasgm.config import PretrainConfig, SearchConfig, key_of, keys, nearest, override
from dasgm.presets import PRESETS, preset, with_dataset

USAGE = """\
dasgm: differentiable architecture search with a generative model

  dasgm search [PRESET]       search an architecture (one process; cluster/search.py: the same on many workers)
  dasgm pretrain [PRESET]     train the preset's GAN alone on J_2, for searches that begin with one or freeze it
  dasgm presets [NAME]        the paper's rows and small sizes: settings, published results, what was decided and why
  dasgm random --seed N       a random architecture: the baseline
  dasgm draw GENOTYPE         draw both cells to a PNG, SVG or PDF file
  dasgm runs                  what ran here: state, epoch, best, disk
  dasgm report FOLDER         write the result page of a run or a sweep again

  dasgm VERB --help           more on each;   a sweep of searches: python tuning/sweep.py
"""
PARTS = {"--gan": "gan", "--method": "method", "--dataset": "data"}


def fail(message: str, code: int = 2) -> NoReturn:
    """A user's mistake: one line, no traceback."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


@dataclass(frozen=True)
class Chosen:
    """What stands before the settings on a command line: PRESET, --gan, --method, --dataset, --data-dir."""

    preset: str
    config: SearchConfig
    rest: list[str]
    published: str = ""

    @property
    def dataset(self) -> str:
        return key_of(self.config.data)

    def name(self) -> str:
        """The run's name by default: <preset>-<dataset>-s<seed>."""
        return f"{Path(self.preset).stem}-{self.dataset}-s{self.config.seed}"


def choose(argv: Sequence[str], default: str = "quickstart", positional: bool = True) -> Chosen:
    """Take the preset and its parts out of the arguments; the rest is for the parser, which then knows their flags.

    Raises:
        ValueError: an unknown preset or part; the nearest name is suggested.
    """
    rest: list[str] = []
    parts: dict[str, str] = {}
    named: str | None = None
    data_dir: str | None = None
    words = iter(argv)
    for word in words:
        flag, _, value = word.partition("=")
        if flag in (*PARTS, "--preset", "--data-dir"):
            value = value or next(words, "")
            if not value or value.startswith("--"):
                raise ValueError(f"{flag} needs a value, as in {flag} {'PATH' if flag == '--data-dir' else 'NAME'}")
            if flag == "--preset":
                named = value
            elif flag == "--data-dir":
                data_dir = value
            else:
                parts[PARTS[flag]] = value
        elif positional and named is None and not rest and not word.startswith("-"):
            named = word
        else:
            rest.append(word)
    found = preset(named or default)
    config = found.config
    if "data" in parts:
        config = with_dataset(config, parts.pop("data"))
    config = override(config, parts)
    place = str(Path(data_dir).absolute()) if data_dir else None  # workers may stand in other folders
    return Chosen(named or default, replace(config, data_dir=place), rest, found.published)


def parse(kind: Any, argv: Sequence[str], default: Any, prog: str, description: str) -> Any:
    """Arguments to a value of `kind` by tyro, whose own errors keep its form (exit code 2)."""
    import tyro

    try:
        bare: Any = tyro.conf.AvoidSubcommands
        return tyro.cli(bare[kind], default=default, args=list(argv), prog=prog, description=description)
    except ValueError as error:  # raised by a configuration's own check
        fail(str(error))


def parts_help() -> str:
    """What may stand before the settings, for --help."""
    found = {folder: ", ".join(keys(folder)) for folder in ("data", "gans", "methods")}
    return (
        "First PRESET (or --preset: a name or a JSON file), --dataset, --data-dir, --gan, --method; then settings. "
        f"Presets: {', '.join(PRESETS)}. Data sets: {found['data']}. GANs: {found['gans']}, none. "
        f"Methods: {found['methods']}."
    )


@dataclass(frozen=True)
class SearchOptions:
    """Where a search lies, and its settings."""

    config: Any
    storage: Path = Path("runs")
    """Root of everything."""
    name: str = ""
    """Of the run; <preset>-<dataset>-s<seed> by default. The same name continues."""
    pretrain: bool = False
    """Begin with a pre-trained GAN, and run the pre-training first unless it is there."""
    dry_run: bool = False
    """Print the configuration and the split's sizes, and start nothing."""


@dataclass(frozen=True)
class PretrainOptions:
    """Where a pre-training lies, how long it is, and its settings."""

    config: Any
    iterations: int | None = None
    """Generator steps: the same as --gan.pretrain-iterations. More continue a run of the same --name."""
    storage: Path = Path("runs")
    """Root of everything."""
    name: str = ""
    """Of the run; gan-<GAN>-<dataset>-s<seed>-<digest of its settings> by default, where --pretrain looks for it."""
    dry_run: bool = False
    """Print the configuration and what it would cost, and start nothing."""


def flattened(options: type, config: type = SearchConfig) -> type:
    """`options` with the settings of its field `config` as flags without a prefix."""
    import tyro

    options.__annotations__["config"] = Annotated[config, tyro.conf.arg(name="")]
    return options


def search_options(argv: Sequence[str], prog: str, options: type = SearchOptions) -> tuple[Chosen, Any]:
    """The command line of one search, alone or under Ray Train: its parts, then its settings."""
    try:
        chosen = choose(argv)
    except ValueError as error:
        fail(str(error))
    about = f"Search an architecture. To continue, run the same command. {parts_help()}"
    found = parse(flattened(options), chosen.rest, options(chosen.config), prog, about)
    return replace(chosen, config=absolute(found.config)), found


def absolute(config: SearchConfig) -> SearchConfig:
    """With the place of the GAN's file as seen from anywhere: workers may stand in other folders."""
    place = config.gan_checkpoint
    return replace(config, gan_checkpoint=str(Path(place).absolute())) if place else config


def pretrain_options(argv: Sequence[str], prog: str, options: type = PretrainOptions) -> tuple[Chosen, Any]:
    """The command line of one pre-training, alone or under Ray Train."""
    try:
        chosen = choose(argv)
        default = options(PretrainConfig.of(chosen.config))
    except ValueError as error:
        fail(str(error))
    about = f"Train a GAN alone on J_2. To continue, run the same command. {parts_help()}"
    found = parse(flattened(options, PretrainConfig), chosen.rest, default, prog, about)
    if found.iterations is not None:
        if found.iterations < 1:
            fail(f"iterations {found.iterations}: expected at least 1")
        found = replace(found, config=override(found.config, {"gan.pretrain_iterations": found.iterations}))
    return chosen, found


def show_config(config: SearchConfig | PretrainConfig) -> None:
    """The whole configuration, as it is saved."""
    import json

    from rich.console import Console

    from dasgm.config import to_json

    Console().print_json(json.dumps(to_json(config)))


def _search(argv: Sequence[str]) -> int:
    chosen, options = search_options(argv, "dasgm search")
    config, folder = chosen.config, options.storage / (options.name or chosen.name())
    command = shlex.join(["dasgm", "search", *argv])
    show_config(config)
    print(f"{chosen.preset} on {chosen.dataset}: loading; the run's folder is {folder}", flush=True)
    if options.dry_run:
        from dasgm.estimate import describe

        print(describe(config, pretrain=options.pretrain))
        return 0
    from dasgm import loop, pretrain
    from dasgm.session import Seams

    about = {"name": folder.name, "title": folder.name, "command": command, "published": chosen.published}
    with _progress() as (say, watch):
        if options.pretrain:

            def first(wanted: PretrainConfig, place: Path) -> None:
                named = {"name": place.name, "title": place.name, "command": command}
                with _ending("pre-training", place, command, say):
                    pretrain.main(wanted, place, Seams(say=say, watch=watch, about=named, stoppable=True))

            config = pretrain.of_search(config, options.storage, first, say)
        with _ending("search", folder, command, say):
            row = loop.main(config, folder, Seams(say=say, watch=watch, about=about, stoppable=True))
        say(_result(row, folder))
    return 0


@contextmanager
def _ending(what: str, folder: Path, command: str, say: Callable[[str], None]) -> Iterator[None]:
    """Tells of a run that does not come to its end."""
    from dasgm.search import SearchFailed
    from dasgm.session import Interrupted

    try:
        yield
    except Interrupted:
        say(f"stopped; everything is saved in {folder}. To continue: {command}")
        raise SystemExit(130) from None
    except SearchFailed as error:
        fail(f"the {what} failed: {error}; what came before is in {folder}", 1)


def _pretrain(argv: Sequence[str]) -> int:
    chosen, options = pretrain_options(argv, "dasgm pretrain")
    config, folder = options.config, options.storage / (options.name or options.config.name)
    command = shlex.join(["dasgm", "pretrain", *argv])
    show_config(config)
    print(f"{key_of(config.gan)} on {key_of(config.data)}: loading; the run's folder is {folder}", flush=True)
    if options.dry_run:
        from dasgm.estimate import describe_pretraining

        print(describe_pretraining(config))
        return 0
    from dasgm.pretrain import main
    from dasgm.session import Seams

    about = {"name": folder.name, "title": folder.name, "command": command}
    with _progress() as (say, watch):
        with _ending("pre-training", folder, command, say):
            main(config, folder, Seams(say=say, watch=watch, about=about, stoppable=True))
        say(pretrained_line(folder))
    return 0


def pretrained_line(folder: Path) -> str:
    """What a pre-training came to, and how a search takes it."""
    from dasgm.pretrained import read

    found = read(folder)
    return (
        f"finished: {found.about['synthetic_accuracy']:.3f} of the averaged generator's images are what their label "
        f"says (of real ones {found.about['judge']:.3f})\n"
        f"  use it    dasgm search PRESET --gan-checkpoint {folder} [--freeze-gan --val-portion 0.5]"
    )


def _result(row: dict[str, Any], folder: Path) -> str:
    proxy = f"proxy accuracy {row['best/proxy']:.3f} ± {row['best/proxy_error']:.3f}; " if "best/proxy" in row else ""
    return (
        f"finished: {proxy}{row['cost/gpu_hours']:.4f} device hours\n"
        f"  genotype  {folder / 'genotype.json'}\n  page      {folder / 'report.html'}\n"
        f"  draw it   dasgm draw {folder / 'genotype.json'} --output cells.pdf"
    )


@contextmanager
def _progress() -> Iterator[tuple[Callable[[str], None], Callable[[int, int, int, int], None]]]:
    """(say, watch): a bar under the lines on a terminal, lines alone elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield lambda line: print(line, flush=True), lambda *_: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("search", total=None)

        def watch(epoch: int, epochs: int, iteration: int, iterations: int) -> None:
            done, total = (epoch - 1) * iterations + iteration, epochs * iterations
            bar.update(task, completed=done, total=total, description=f"epoch {epoch}/{epochs}")

        yield lambda line: console.print(line, markup=False), watch


def _draw(argv: Sequence[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(prog="dasgm draw", description="Draw both cells of a genotype.")
    parser.add_argument("genotype", help="a genotype.json, a text file with Genotype(normal=[...]), or a known name")
    parser.add_argument("--output", type=Path, default=None, help="a .png, .svg or .pdf file (default: <name>.png)")
    asked = parser.parse_args(list(argv))
    from dasgm import figures
    from dasgm.genotype import Genotype

    output = asked.output or Path(Path(asked.genotype).stem + ".png")
    figures.draw(Genotype.load(asked.genotype), output, Path(asked.genotype).stem)
    print(output)
    return 0


def _random(argv: Sequence[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(
        prog="dasgm random", description="Draw an architecture uniformly from the search space: the baseline."
    )
    parser.add_argument("--seed", type=int, default=0, help="which one (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("genotype.json"), help="default: genotype.json")
    asked = parser.parse_args(list(argv))
    from dasgm.genotype import Genotype

    Genotype.random(asked.seed).save(asked.output)
    print(f"{asked.output}  (draw it: dasgm draw {asked.output})")
    return 0


def _presets(argv: Sequence[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(
        prog="dasgm presets",
        description="List the presets; with a name (or a JSON file of your own) all of its settings and the choices "
        "behind them; with --diff what sets two apart.",
    )
    parser.add_argument("name", nargs="?", help="a preset")
    parser.add_argument("--diff", nargs=2, metavar=("A", "B"), help="two presets")
    asked = parser.parse_args(list(argv))
    if asked.diff and asked.name:
        raise ValueError(f"{asked.name} --diff: name one preset, or --diff two")
    from rich.console import Console

    from dasgm import catalogue

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 180)
    if asked.diff:
        console.print(catalogue.differences(*asked.diff))
    elif asked.name:
        show_config(preset(asked.name).config)
        console.print(catalogue.described(asked.name), soft_wrap=True, markup=False)
    else:
        console.print(catalogue.presets())
    return 0


def _runs(argv: Sequence[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(prog="dasgm runs", description="What ran here: state, epoch, best, disk.")
    parser.add_argument("--storage", type=Path, default=Path("runs"), help="root of everything (default: runs)")
    parser.add_argument("--follow", action="store_true", help="look again every two seconds, until Ctrl-C")
    asked = parser.parse_args(list(argv))
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    if not asked.storage.is_dir():
        raise ValueError(f"storage {asked.storage}: there is no such folder; name it with --storage")
    if not asked.follow:
        console.print(_runs_table(asked.storage))
        return 0
    try:
        with Live(_runs_table(asked.storage), console=console) as live:
            while True:
                time.sleep(2)
                live.update(_runs_table(asked.storage))
    except KeyboardInterrupt:
        return 130


def _runs_table(storage: Path) -> Any:
    from rich.table import Table

    from dasgm.runs import Run, runs, state_of

    table = Table("run", "state", "epoch", "accuracy", "proxy", "disk", title=f"runs in {storage}")
    for folder in runs(storage):
        rows = Run(folder).rows()
        epochs = [r for r in rows if r.get("phase") != "best"]
        best = next((r for r in rows if "best/proxy" in r), None)
        disk = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        table.add_row(
            str(folder.relative_to(storage)),
            state_of(folder),
            str(epochs[-1]["epoch"]) if epochs else "0",
            f"{epochs[-1]['val/accuracy']:.3f}" if epochs and "val/accuracy" in epochs[-1] else "-",
            f"{best['best/proxy']:.3f} ± {best['best/proxy_error']:.3f}" if best else "-",
            f"{disk / 1e6:.1f} MB",
        )
    return table


def _report(argv: Sequence[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(prog="dasgm report", description="Write the result page of a run or a sweep.")
    parser.add_argument("folder", type=Path, help="a run's or a sweep's folder")
    from dasgm.report import report

    print(report(parser.parse_args(list(argv)).folder))
    return 0


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "search": _search,
    "pretrain": _pretrain,
    "presets": _presets,
    "random": _random,
    "draw": _draw,
    "runs": _runs,
    "report": _report,
}


def main(argv: Sequence[str] | None = None) -> int:
    """`dasgm VERB ...`; the exit code: 0 done, 1 the search failed, 2 the user's mistake, 130 stopped."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(dasgm.__version__)
        return 0
    verb = VERBS.get(words[0])
    if verb is None:
        fail(f"verb {words[0]!r} is not known{nearest(words[0], list(VERBS))}; there are: {', '.join(VERBS)}")
    try:
        return verb(words[1:])
    except (ValueError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        return 130
