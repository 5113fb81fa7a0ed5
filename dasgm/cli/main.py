"""The command line: argv -> (verb, configuration) -> main."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dasgm
from dasgm.cli import verbs
from dasgm.cli.again import called, line
from dasgm.cli.arguments import ensure_once, fail, flattened, parse, take, unread
from dasgm.config import PretrainConfig, SearchConfig, key_of, keys, nearest, override
from dasgm.data._base import DataConfig
from dasgm.given import NOTHING, Given, after, ensure_effect, on_command_line
from dasgm.presets import PRESETS, preset, with_dataset, with_gan, with_method
from dasgm.store.bucket import lies_at
from dasgm.store.files import first_line, printable

USAGE = """\
dasgm: differentiable architecture search with a generative model

  dasgm search [PRESET]       search an architecture (one process; cluster/search.py: the same on many workers)
  dasgm pretrain [PRESET]     train the preset's GAN alone on J_2, for searches that begin with one or freeze it
  dasgm evaluate GENOTYPE     train its network from scratch: the test error, and the model as files
  dasgm predict MODEL IMAGE   what a trained model says about pictures
  dasgm export MODEL          a trained model as a PyTorch program or as ONNX
  dasgm presets [NAME]        the paper's rows and small sizes: settings, published results, what was decided and why
  dasgm random --seed N       a random architecture: the baseline
  dasgm draw GENOTYPE         draw both cells to a PNG, SVG or PDF file
  dasgm measure NAME          parameters and multiply-adds of a genotype, a preset's supernet, a GAN
  dasgm runs                  the runs in a folder: state, epochs, accuracy, disk
  dasgm report FOLDER         write the result page of a run or a sweep again

  dasgm VERB --help           more on each;   a sweep of searches: python tuning/sweep.py
"""
PARTS = {"--gan": "gan", "--method": "method", "--dataset": "data"}
BEFORE = (*PARTS, "--preset", "--data-dir")


def check_time_budget(seconds: float | None) -> None:
    """ValueError where it is not more than nothing."""
    if seconds is not None and not seconds > 0:
        raise ValueError(f"time-budget {seconds}: expected seconds, more than 0")


@dataclass(frozen=True)
class Chosen:
    """What stands before the settings on a command line: PRESET, --gan, --method, --dataset, --data-dir."""

    preset: str
    config: SearchConfig
    rest: list[str]
    published: str = ""
    given: Given = NOTHING
    """Settings that the command line or the user's own preset files name, even if they name the default."""

    @property
    def dataset(self) -> str:
        return key_of(self.config.data)

    def name(self) -> str:
        """The run's name by default: <preset>-<dataset>-s<seed>."""
        return f"{Path(self.preset).stem}-{self.dataset}-s{self.config.seed}"


def choose(argv: Sequence[str], default: str = "quickstart", positional: bool = True) -> Chosen:
    """Take the preset and its parts out of the arguments; the rest is for the parser, which then knows their flags.

    Raises:
        ValueError: an unknown preset or part (the nearest name is suggested), a given setting without effect.
    """
    values, first, rest = take(argv, BEFORE, int(positional))
    ensure_once("--preset", values, next(iter(first), None))
    named = values.pop("--preset", None) or next(iter(first), None)
    data_dir = values.pop("--data-dir", None)
    parts = {PARTS[flag]: value for flag, value in values.items()}
    found = preset(named or default)
    config = found.config
    if "data" in parts:
        config = with_dataset(config, parts["data"])
    if "gan" in parts:
        config = with_gan(config, parts["gan"])
    if "method" in parts:
        config = with_method(config, parts["method"])
    ensure_meant(config.data, data_dir)
    given = after(found.given, found.config, config, parts) | on_command_line(rest, config)
    ensure_effect(given, config)
    return Chosen(named or default, replace(config, data_dir=absolute(data_dir)), rest, found.published, given)


def ensure_meant(data: DataConfig, data_dir: str | None) -> None:
    """ValueError where a folder is named and the data set is one that needs none."""
    if data_dir and data.packaged:
        raise ValueError(
            f"--data-dir {data_dir}: {key_of(data)} come with dasgm, so the folder would not be read; leave it out, or "
            "name what it holds, as in --dataset folder"
        )


def absolute(path: str | None) -> str | None:
    """Workers may stand in other folders; an address is one anywhere."""
    return os.path.abspath(os.path.expanduser(path)) if path and "://" not in path else path


def parts_help(positional: bool = True) -> str:
    """What may stand before the settings, for --help; `positional`: also the preset alone, as the first word."""
    found = {folder: ", ".join(keys(folder)) for folder in ("data", "gans", "methods")}
    first = "PRESET or --preset PRESET" if positional else "--preset PRESET"
    return (
        f"\n- {first}: Settings to begin with: a name, or the path of a JSON file. "
        f"Names: {', '.join(PRESETS)}. `dasgm presets` explains them."
        f"\n- --dataset NAME: Data set to search on: {found['data']}."
        "\n- --data-dir FOLDER: Folder with the data set's files."
        f"\n- --gan NAME: GAN that generates images: {found['gans']}; none searches without one."
        f"\n- --method NAME: Search method: {found['methods']}."
        "\n\nThese are read before all other options, which are listed below with the defaults that they choose."
    )


@dataclass(frozen=True)
class SearchOptions:
    """Where a search lies, and its settings."""

    config: Any
    storage: Path = Path("runs")
    """Folder in which all runs lie: a path, or an address in object storage such as s3://BUCKET/PREFIX."""
    name: str = ""
    """Name of the run; by default <preset>-<dataset>-s<seed>. A run of the same name is continued."""
    pretrain: bool = False
    """Begin with a pre-trained GAN, and pre-train it first if that has not been done."""
    dry_run: bool = False
    """Print the configuration and what the search would cost, and start nothing."""


@dataclass(frozen=True)
class PretrainOptions:
    """Where a pre-training lies, how long it is, and its settings."""

    config: Any
    iterations: int | None = None
    """Number of generator steps, the same as --gan.pretrain-iterations. A larger number continues a finished run."""
    storage: Path = Path("runs")
    """Folder in which all runs lie: a path, or an address in object storage such as s3://BUCKET/PREFIX."""
    name: str = ""
    """Name of the run; by default gan-<GAN>-<dataset>-s<seed>-<digest of its settings>, which --pretrain looks for."""
    dry_run: bool = False
    """Print the configuration and what the pre-training would cost, and start nothing."""


def search_options(argv: Sequence[str], prog: str, options: type = SearchOptions, more: str = "") -> tuple[Chosen, Any]:
    """The command line of one search, alone or under Ray Train: its parts, then its settings; `more` for --help."""
    try:
        chosen = choose(argv)
    except ValueError as error:
        fail(error)
    about = f"Search an architecture. To continue, run the same command. {more} {parts_help()}"
    found = parse(flattened(options), chosen.rest, options(chosen.config), prog, about, BEFORE)
    return replace(chosen, config=placed(found.config)), found


def placed(config: Any) -> Any:
    """With the places of its files as seen from anywhere."""
    names = [name for name in ("gan_checkpoint", "inception_weights") if hasattr(config, name)]
    return replace(config, **{name: absolute(getattr(config, name)) for name in names})


def pretrain_options(
    argv: Sequence[str], prog: str, options: type = PretrainOptions, more: str = ""
) -> tuple[Chosen, Any]:
    """The command line of one pre-training, alone or under Ray Train; `more` for --help."""
    try:
        chosen = choose(argv)
        default = options(PretrainConfig.of(chosen.config))
    except ValueError as error:
        fail(error)
    about = f"Train a GAN alone on J_2. To continue, run the same command. {more} {parts_help()}"
    found = parse(flattened(options, PretrainConfig), chosen.rest, default, prog, about, BEFORE)
    found = replace(found, config=placed(found.config))
    if found.iterations is not None:
        if found.iterations < 1:
            fail(f"iterations {found.iterations}: expected at least 1")
        found = replace(found, config=override(found.config, {"gan.pretrain_iterations": found.iterations}))
    return chosen, found


def _search(argv: Sequence[str]) -> int:
    from dasgm.cli.catalogue import show_config

    chosen, options = search_options(argv, "dasgm search")
    config, folder = chosen.config, options.storage / (options.name or chosen.name())
    command = called(["search", *argv], "dasgm")
    show_config(config)
    print(printable(f"{chosen.preset} on {chosen.dataset}: loading; the run's folder is {lies_at(folder)}"), flush=True)
    if options.dry_run:
        from dasgm.cli.estimate import describe

        print(describe(config, pretrain=options.pretrain))
        return 0
    from dasgm.jobs import pretrain
    from dasgm.jobs import search as loop
    from dasgm.jobs.session import Seams

    about = {"name": folder.name, "title": folder.name, "command": command, "published": chosen.published}
    with progress() as (say, watch):
        if options.pretrain:

            def first(wanted: PretrainConfig, place: Path) -> None:
                named = {"name": place.name, "title": place.name, "command": command}
                with ending("pre-training", place, command, say):
                    pretrain.main(wanted, place, Seams(say=say, watch=watch, about=named, stoppable=True))

            config = pretrain.of_search(config, options.storage, first, say)
        with ending("search", folder, command, say):
            row = loop.main(config, folder, Seams(say=say, watch=watch, about=about, stoppable=True))
        say(result_line(row, folder))
    return 0


@contextmanager
def ending(
    what: str, folder: Path, command: str, say: Callable[[str], None], saved: str = "everything"
) -> Iterator[None]:
    """Tells of a run that does not come to its end, and what of it is `saved`."""
    from dasgm.jobs.session import Interrupted, OutOfTime
    from dasgm.search import SearchFailed

    try:
        yield
    except Interrupted as asked:
        but = f", but for {asked}, which begins anew" if str(asked) else ""
        say(printable(f"stopped; {saved} is saved in {lies_at(folder)}{but}. To continue: {command}"))
        raise SystemExit(0 if isinstance(asked, OutOfTime) else 130) from None
    except SearchFailed as error:
        fail(f"the {what} failed: {error}; what came before is in {lies_at(folder)}", 1)


def _pretrain(argv: Sequence[str]) -> int:
    from dasgm.cli.catalogue import show_config

    chosen, options = pretrain_options(argv, "dasgm pretrain")
    config, folder = options.config, options.storage / (options.name or options.config.name)
    command = called(["pretrain", *argv], "dasgm")
    show_config(config)
    what = f"{key_of(config.gan)} on {key_of(config.data)}"
    print(printable(f"{what}: loading; the run's folder is {lies_at(folder)}"), flush=True)
    if options.dry_run:
        from dasgm.cli.estimate import describe_pretraining

        print(describe_pretraining(config))
        return 0
    from dasgm.jobs.pretrain import main
    from dasgm.jobs.session import Seams

    about = {"name": folder.name, "title": folder.name, "command": command}
    with progress() as (say, watch):
        with ending("pre-training", folder, command, say):
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
        f"  use it    dasgm search PRESET --gan-checkpoint {line([lies_at(folder)])} [--freeze-gan --val-portion 0.5]"
    )


def result_line(row: dict[str, Any], folder: Path) -> str:
    """What a search came to, by its last row, and where it lies."""
    proxy = f"proxy accuracy {row['best/proxy']:.3f} ± {row['best/proxy_error']:.3f}; " if "best/proxy" in row else ""
    genotype = folder / "genotype.json"
    lines = (
        f"finished: {proxy}{row['cost/gpu_hours']:.4f} device hours; everything lies in {lies_at(folder)}",
        f"  genotype  {genotype}",
        f"  page      {folder / 'report.html'}",
        f"  train it  {line(['dasgm', 'evaluate', folder])}",
        f"  draw it   {line(['dasgm', 'draw', genotype, '--output', 'cells.pdf'])}",
    )
    return "\n".join(map(printable, lines))


@contextmanager
def progress() -> Iterator[tuple[Callable[[str], None], Callable[[int, int, int, int], None]]]:
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


def _evaluate(argv: Sequence[str]) -> int:
    from dasgm.cli.evaluate import evaluate

    return evaluate(argv)


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "search": _search,
    "pretrain": _pretrain,
    "evaluate": _evaluate,
    "predict": verbs.predict,
    "export": verbs.export,
    "presets": verbs.presets,
    "random": verbs.random,
    "draw": verbs.draw,
    "measure": verbs.measure,
    "runs": verbs.runs,
    "report": verbs.report,
}


def _no_verb(word: str) -> str:
    verbs = ", ".join(VERBS)
    if word.startswith("-"):
        return f"{word}: a verb stands before all options, as in dasgm search {word}; there are: {verbs}"
    if word == "sweep":
        return "a sweep has a command of its own: dasgm-sweep, or python tuning/sweep.py"
    return f"verb {word!r} is not known{nearest(word, list(VERBS))}; there are: {verbs}"


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
        fail(_no_verb(words[0]))
    try:
        return verb(words[1:])
    except BrokenPipeError:
        unread()
    except (ValueError, OSError) as error:
        fail(error)
    except (RuntimeError, MemoryError) as error:
        from dasgm.device import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        fail(f"out of memory: {first_line(error):.200}; free the device or choose smaller sizes", 1)
    except KeyboardInterrupt:
        return 130
