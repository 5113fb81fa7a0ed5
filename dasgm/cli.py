"""The command line: argv -> (verb, configuration) -> main. The only importer of tyro."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import dasgm
from dasgm import verbs
from dasgm.config import PretrainConfig, SearchConfig, key_of, keys, nearest, override
from dasgm.files import printable
from dasgm.given import NOTHING, Given, after, ensure_effect, on_command_line
from dasgm.mirror import NO_RUNS, ensure_writable
from dasgm.presets import PRESETS, preset, with_dataset, with_gan, with_method
from dasgm.storage import lies_at, local

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
  dasgm runs                  what ran here: state, epoch, best, disk
  dasgm report FOLDER         write the result page of a run or a sweep again

  dasgm VERB --help           more on each;   a sweep of searches: python tuning/sweep.py
"""
LONGEST = 1500  # characters of an error: a file's words may be in it
TAKEN = (*NO_RUNS, "mlartifacts", "mlflow.db")  # what lies in runs, and beside them
PARTS = {"--gan": "gan", "--method": "method", "--dataset": "data"}


def check_time_budget(seconds: float | None) -> None:
    """ValueError where it is not more than nothing."""
    if seconds is not None and not seconds > 0:
        raise ValueError(f"time-budget {seconds}: expected seconds, more than 0")


def fail(message: str, code: int = 2) -> NoReturn:
    """A user's mistake: one line, no traceback."""
    line = printable(message)
    print(f"error: {line if len(line) < LONGEST else line[:LONGEST] + '...'}", file=sys.stderr)
    raise SystemExit(code)


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


def take(argv: Sequence[str], flags: Sequence[str], places: int) -> tuple[dict[str, str], list[str], list[str]]:
    """The values of `flags`, up to `places` words that stand before all other arguments, and the rest.

    Raises:
        ValueError: a flag without its value.
    """
    values: dict[str, str] = {}
    first: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        flag, _, value = word.partition("=")
        if flag in flags:
            value = value or next(words, "")
            if not value or value.startswith("--"):
                raise ValueError(f"{flag} needs a value, as in {flag} {'PATH' if flag == '--data-dir' else 'NAME'}")
            values[flag] = value
        elif len(first) < places and not rest and not word.startswith("-"):
            first.append(word)
        else:
            rest.append(word)
    return values, first, rest


def choose(argv: Sequence[str], default: str = "quickstart", positional: bool = True) -> Chosen:
    """Take the preset and its parts out of the arguments; the rest is for the parser, which then knows their flags.

    Raises:
        ValueError: an unknown preset or part (the nearest name is suggested), a given setting without effect.
    """
    values, first, rest = take(argv, (*PARTS, "--preset", "--data-dir"), int(positional))
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
    given = after(found.given, found.config, config, parts) | on_command_line(rest, config)
    ensure_effect(given, config)
    return Chosen(named or default, replace(config, data_dir=absolute(data_dir)), rest, found.published, given)


def absolute(path: str | None) -> str | None:
    """Workers may stand in other folders; an address is one anywhere."""
    return os.path.abspath(os.path.expanduser(path)) if path and "://" not in path else path


def parse(kind: Any, argv: Sequence[str], default: Any, prog: str, description: str) -> Any:
    """Arguments to a value of `kind` by tyro, whose own errors keep its form (exit code 2).

    A --storage that is an address becomes the folder that stands for it; one that cannot be written is an error.
    """
    import tyro

    try:
        values, _, argv = take(argv, ("--storage",), 0)
        argv = [*argv, *(f"--storage={local(value)}" for value in values.values())]
        bare: Any = tyro.conf.AvoidSubcommands
        found = tyro.cli(bare[kind], default=default, args=list(argv), prog=prog, description=description)
        if name := getattr(found, "name", ""):
            _ensure_name(name)
        if not found.dry_run:
            ensure_writable(found.storage)
        return found
    except ValueError as error:  # raised by a configuration's own check
        fail(str(error))


def _ensure_name(name: str) -> None:
    """ValueError where it would not be a folder of its own below the storage."""
    parts = Path(name).parts
    if Path(name).is_absolute() or any(part.startswith(".") or part in TAKEN for part in parts):
        raise ValueError(f"name {name!r}: expected that of a folder in --storage, and none of {', '.join(TAKEN)}")


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
    """Root of everything: a folder, or s3://BUCKET/PREFIX."""
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
    """Root of everything: a folder, or s3://BUCKET/PREFIX."""
    name: str = ""
    """Of the run; gan-<GAN>-<dataset>-s<seed>-<digest of its settings> by default, where --pretrain looks for it."""
    dry_run: bool = False
    """Print the configuration and what it would cost, and start nothing."""


def flattened(options: type, kind: type = SearchConfig) -> type:
    """`options` with the settings of its field `config` as flags without a prefix."""
    import tyro

    options.__annotations__["config"] = Annotated[kind, tyro.conf.arg(name="")]
    return options


def without_config(options: type) -> type:
    """`options` without flags for its field `config`."""
    import tyro

    options.__annotations__["config"] = Annotated[Any, tyro.conf.Suppress]
    return options


def search_options(argv: Sequence[str], prog: str, options: type = SearchOptions, more: str = "") -> tuple[Chosen, Any]:
    """The command line of one search, alone or under Ray Train: its parts, then its settings; `more` for --help."""
    try:
        chosen = choose(argv)
    except ValueError as error:
        fail(str(error))
    about = f"Search an architecture. To continue, run the same command. {more} {parts_help()}"
    found = parse(flattened(options), chosen.rest, options(chosen.config), prog, about)
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
        fail(str(error))
    about = f"Train a GAN alone on J_2. To continue, run the same command. {more} {parts_help()}"
    found = parse(flattened(options, PretrainConfig), chosen.rest, default, prog, about)
    found = replace(found, config=placed(found.config))
    if found.iterations is not None:
        if found.iterations < 1:
            fail(f"iterations {found.iterations}: expected at least 1")
        found = replace(found, config=override(found.config, {"gan.pretrain_iterations": found.iterations}))
    return chosen, found


def _search(argv: Sequence[str]) -> int:
    from dasgm.catalogue import show_config

    chosen, options = search_options(argv, "dasgm search")
    config, folder = chosen.config, options.storage / (options.name or chosen.name())
    command = shlex.join(["dasgm", "search", *argv])
    show_config(config)
    print(f"{chosen.preset} on {chosen.dataset}: loading; the run's folder is {lies_at(folder)}", flush=True)
    if options.dry_run:
        from dasgm.estimate import describe

        print(describe(config, pretrain=options.pretrain))
        return 0
    from dasgm import loop, pretrain
    from dasgm.session import Seams

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
    from dasgm.search import SearchFailed
    from dasgm.session import Interrupted, OutOfTime

    try:
        yield
    except Interrupted as asked:
        but = f", but for {asked}, which begins anew" if str(asked) else ""
        say(f"stopped; {saved} is saved in {lies_at(folder)}{but}. To continue: {command}")
        raise SystemExit(0 if isinstance(asked, OutOfTime) else 130) from None
    except SearchFailed as error:
        fail(f"the {what} failed: {error}; what came before is in {lies_at(folder)}", 1)


def _pretrain(argv: Sequence[str]) -> int:
    from dasgm.catalogue import show_config

    chosen, options = pretrain_options(argv, "dasgm pretrain")
    config, folder = options.config, options.storage / (options.name or options.config.name)
    command = shlex.join(["dasgm", "pretrain", *argv])
    show_config(config)
    print(f"{key_of(config.gan)} on {key_of(config.data)}: loading; the run's folder is {lies_at(folder)}", flush=True)
    if options.dry_run:
        from dasgm.estimate import describe_pretraining

        print(describe_pretraining(config))
        return 0
    from dasgm.pretrain import main
    from dasgm.session import Seams

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
        f"  use it    dasgm search PRESET --gan-checkpoint {lies_at(folder)} [--freeze-gan --val-portion 0.5]"
    )


def result_line(row: dict[str, Any], folder: Path) -> str:
    """What a search came to, by its last row, and where it lies."""
    proxy = f"proxy accuracy {row['best/proxy']:.3f} ± {row['best/proxy_error']:.3f}; " if "best/proxy" in row else ""
    return (
        f"finished: {proxy}{row['cost/gpu_hours']:.4f} device hours; everything lies in {lies_at(folder)}\n"
        f"  genotype  {folder / 'genotype.json'}\n  page      {folder / 'report.html'}\n"
        f"  draw it   dasgm draw {folder / 'genotype.json'} --output cells.pdf"
    )


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
    from dasgm.evaluate_cli import evaluate

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
