"""Every option of every command has a sentence, and every mistake in options is one line."""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields

import pytest
import tyro

import cluster.evaluate as cluster_evaluate
import cluster.pretrain as cluster_pretrain
import cluster.search as cluster_search
from cluster import doctor, tracking
from dasgm.cli import arguments as options
from dasgm.cli import evaluate as evaluate_cli
from dasgm.cli import fit_options as fit_cli
from dasgm.cli import main as cli
from dasgm.cli import pretrain as pretrain_cli
from dasgm.cli import search as search_cli
from dasgm.cli import settings
from dasgm.config import PARTS, PretrainConfig, ProxyConfig, SearchConfig, from_json, to_json
from dasgm.gans._base import GanConfig
from dasgm.genotype import Genotype
from dasgm.methods._cost import CostConfig
from dasgm.pages import figures
from dasgm.plugins import keys, plugin
from dasgm.presets import preset
from dasgm.recipes import EvaluateConfig, recipe
from dasgm.store.files import printable
from dasgm.testing._sentences import sentences, unclear
from tuning import reproduce, sweep

Parser = argparse.ArgumentParser
SOURCE = re.compile(r"our choice|\bpaper\b|Eq\. \d|et al\.|DARTS|\([A-Z][^()]*: ")
"""A published value with its source, or the admission that there is none."""
CHOSEN_BY_THE_USER = {"seed", "split_seed", "limit", "skip_unreadable", "config"}


def of_tyro(kind: type, default: object) -> Parser:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to go, and there is no other way yet
        return tyro.extras.get_parser(kind, default=default, config=(tyro.conf.AvoidSubcommands,))


def of_argparse(main: Callable[[list[str]], object], monkeypatch: pytest.MonkeyPatch) -> Parser:
    """The parser that a command makes: it is caught as it is asked to parse."""
    caught: list[Parser] = []

    class Caught(Exception):
        pass

    def catch(self: Parser, *_: object) -> None:
        caught.append(self)
        raise Caught

    with monkeypatch.context() as patched, pytest.raises(Caught):
        patched.setattr(Parser, "parse_args", catch)
        main([])
    return caught[0]


def configurations() -> Iterator[SearchConfig]:
    """With each plug-in once."""
    plain = to_json(preset("quickstart").config)
    for part, folder in (("gan", "gans"), ("method", "methods"), ("data", "data")):
        for key in keys(folder):
            yield from_json(plain | {part: to_json_of(folder, key)})


def to_json_of(folder: str, key: str) -> dict[str, object]:
    kind = plugin(folder, key)
    return {"key": key} | {f.name: getattr(kind(), f.name) for f in fields(kind)}


def tyros() -> Iterator[tuple[str, Parser]]:
    for config in configurations():
        kind = options.flattened(cluster_search.Options)
        yield "cluster/search.py", of_tyro(kind, cluster_search.Options(config))
    config = preset("quickstart").config
    yield "dasgm search", of_tyro(options.flattened(search_cli.SearchOptions), search_cli.SearchOptions(config))
    trained = PretrainConfig.of(config)
    for kind in (pretrain_cli.PretrainOptions, cluster_pretrain.Options):
        yield "pretrain", of_tyro(options.flattened(kind, PretrainConfig), kind(trained))
    for name in ("cifar", "imagenet"):
        for kind in (evaluate_cli.EvaluateOptions, cluster_evaluate.Options):
            yield "evaluate", of_tyro(options.flattened(kind, EvaluateConfig), kind(recipe(name).config))
    yield "dasgm fit", of_tyro(fit_cli.FitOptions, fit_cli.FitOptions(config, recipe("photographs").config))
    yield "tuning/sweep.py", of_tyro(options.flattened(sweep.Options), sweep.Options(config))
    yield "tuning/reproduce.py", of_tyro(options.without_config(reproduce.Options), reproduce.Options())


def argparses(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Parser]]:
    for name in ("draw", "random", "presets", "measure", "runs", "compare", "predict", "export", "report"):
        yield f"dasgm {name}", of_argparse(cli.VERBS[name], monkeypatch)
    yield "cluster/doctor.py", of_argparse(doctor.main, monkeypatch)
    yield "cluster.tracking", of_argparse(tracking.main, monkeypatch)


def test_what_is_no_sentence_is_seen():
    assert unclear("Number of cells (paper: 8). (default: 8)") == ""
    for odd in (None, "", "(default: 3)", "number of cells. (default: 3)", "Number of cells (default: 3)", "Cells."):
        assert unclear(odd), odd


def test_every_option_has_a_sentence(monkeypatch):
    found, seen = [], set()
    for command, parser in (*tyros(), *argparses(monkeypatch)):
        for action in parser._actions:
            name = (action.option_strings or [action.dest])[0]
            if name != "-h":
                seen.add(name)
                # argparse's own way of writing %
                if why := unclear((action.help or "").replace("%%", "%")):
                    found.append(f"{command} {name}: {why}: {action.help!r}")
    assert not found, "\n".join(found)
    settings = {f.name for kind in (SearchConfig, EvaluateConfig, GanConfig) for f in fields(kind)}
    settings -= {"gan", "method", "data", "proxy", "cost"}
    known = {name.lstrip("-").rpartition(".")[2].replace("-", "_") for name in seen}
    assert not settings - known and {"--method.cells", "--grace", "--classes", "--top", "images"} <= seen


@pytest.mark.parametrize(
    "kind",
    [SearchConfig, ProxyConfig, CostConfig, PretrainConfig, EvaluateConfig]
    + [plugin(folder, key) for folder in PARTS.values() for key in keys(folder)],
    ids=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
def test_every_setting_of_the_mathematics_names_its_source(kind):
    parts = {*PARTS, "proxy", "cost"}
    silent = CHOSEN_BY_THE_USER | parts | {f.name for f in fields(kind) if "mathematics" in f.metadata}
    found = {name: text for name, text in sentences(kind).items() if name not in silent}
    assert found and not {name: text for name, text in found.items() if not SOURCE.search(text)}


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (settings.parts_help(), settings.BEFORE),
        (settings.parts_help(positional=False), settings.BEFORE),
        (settings.parts_help(pretrain=True), [flag for flag in settings.BEFORE if flag != "--method"]),
        (evaluate_cli.recipes_help(positional=True), evaluate_cli.BEFORE),
        (fit_cli.ABOUT, fit_cli.BEFORE),
    ],
)
def test_what_stands_before_the_options_has_a_sentence(text, flags):
    for flag in flags:
        assert re.search(rf"^- (\w+ or )?{flag} [A-Z]+: [A-Z][^\n]*\.$", text, re.MULTILINE), flag


MISTAKES: list[tuple[list[str], str]] = [
    (["search", "--batch-sise", "3"], "--batch-sise is not an option, did you mean --batch-size?"),
    (["search", "--epochs", "3"], "did you mean --method.epochs or --proxy.epochs?"),
    (["search", "--gpus", "1"], "--gpus is not an option; dasgm search --help lists all"),
    (["search", "--seed", "x"], "--seed 'x': expected a whole number"),
    (["search", "--arch-lr", "x"], "--arch-lr 'x': expected a number"),
    (["search", "--threads", "x"], "--threads 'x': expected None or a whole number"),
    (["search", "--seed"], "--seed needs a value"),
    (["search", "--order", "secnd"], "--order 'secnd': expected first or second, did you mean 'second'?"),
    (["search", "--method.cells", "2"], "method.cells 2: expected at least 3"),
    (["search", "--data.image-size", "30"], "data.image_size is 30: choose a multiple of 4"),
    (["search", "--seed", "1", "quickstart"], "if it is a preset, write --preset quickstart"),
    (["evaluate", "DARTS_V2", "--seed", "1", "cifar"], "if it is a recipe, write --recipe cifar"),
    (["search", "--gan", "none", "--gan.warmup", "3"], "there is no GAN"),
    (["search", "--method", "pdarts", "--method.operations", "8", "x", "3"], "--method.operations"),
    (["search", "--name", "a" * 300 + "\x1b[31m", "--sede", "\x1b[31m"], "--sede"),
    (["evaluate", "DARTS_V2", "--eppochs", "3"], "did you mean --epochs?"),
    (["pretrain", "--iteration", "3", "--itrations=4"], "did you mean --iterations?"),
    (["runs", "--jsn"], "did you mean --json?"),
    (["measure", "DARTS_V2", "--cells", "x"], "--cells 'x': expected a whole number"),
    (["measure", "DARTS_V2", "--cells"], "--cells needs a value"),
    (["measure", "DARTS_V2", "--form", "x\x1b'"], '--form "x\\x1b\'": expected cifar or imagenet'),
    (["export", "x", "--format", "onx"], "--format 'onx': expected pt2 or onnx, did you mean 'onnx'?"),
    (["search", "quickstart", "--preset", "darts-1st"], "quickstart and --preset darts-1st: both name the same thing"),
    (["evaluate", "DARTS_V2", "cifar", "--recipe=imagenet"], "cifar and --recipe imagenet: both name the same thing"),
    (["draw", ""], "genotype '': expected a name"),
    (["evaluate", " "], "genotype ' ': expected a name"),
    (["measure", ""], "'' is no genotype"),
    (["predict"], "model, images"),
    (["fit"], "name the folder with your pictures first, as in dasgm fit PICTURES"),
    (["fit", "nowhere", "--device", "tpu"], "device 'tpu'"),
    (["fit", "nowhere"], "nowhere: no such folder"),
    (["--dataset", "digits"], "a verb stands before all options"),
    (["sweep"], "dasgm-sweep"),
]


@pytest.mark.parametrize(("words", "says"), MISTAKES, ids=[" ".join(words)[:40] for words, _ in MISTAKES])
@pytest.mark.parametrize("columns", ["30", "80"])
def test_a_mistake_is_one_line(words, says, columns, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert end.value.code == 2 and line.startswith("error: ") and says in line, line
    assert line.isprintable() and not any(c in line for c in "│╭╰") and not said.out


@pytest.mark.parametrize("main", [cli.main, cluster_evaluate.main, reproduce.main])
def test_help_that_nobody_reads_ends_without_a_word(main, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)  # as `head` does once it has its lines
    with open(writer, "w", buffering=1) as out, pytest.raises(SystemExit) as end:
        monkeypatch.setattr("sys.stdout", out)
        main(["search", "--help"] if main is cli.main else ["--help"])
    monkeypatch.undo()
    assert end.value.code == 1 and not capsys.readouterr().err


def test_of_a_long_error_the_beginning_and_the_end_are_shown(capsys):
    with pytest.raises(SystemExit):
        options.fail("name 'a" + "b" * 10**5 + "': choose another with --name")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: name 'ab") and line.endswith("choose another with --name") and len(line) < 2000


def test_an_error_of_the_system_names_the_file_and_no_number(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "afile").write_text("")
    for words, says in (
        (["random", "--output", "nowhere/x.json"], "No such file or directory"),
        (["search", "--storage", "afile"], "Not a directory"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        (line,) = capsys.readouterr().err.splitlines()
        assert end.value.code == 2 and says in line and "Errno" not in line, line


def test_a_folder_that_would_not_be_read_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for words in (["search", "--data-dir", "x"], ["evaluate", "DARTS_V2", "digits-small", "--data-dir=x"]):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        (line,) = capsys.readouterr().err.splitlines()
        assert end.value.code == 2 and "--data-dir x" in line and "--dataset folder" in line, line


@pytest.mark.parametrize("name", ["a\nb", "\udcff", "\x1b[31m", "[red]", "it's"])
def test_commands_show_odd_names_escaped(name, tmp_path, monkeypatch, capsys):
    """On a terminal that takes UTF-8 and nothing else, as capsys does."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["random", "--output", f"{name}.json"]) == 0
    assert cli.main(["measure", f"{name}.json"]) == 0
    genotype = Genotype.load(f"{name}.json")
    assert "label" in figures._dot(genotype, genotype.space.cell_types, name).encode().decode()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foo://x")  # ends a sweep after its first line
    with pytest.raises(SystemExit):
        sweep.main([f"--name={name}", "--storage=runs"])
    said = capsys.readouterr()
    escaped = printable(name)
    assert said.out.startswith(f"{escaped}.json ") and f"sweep {escaped}: 4 searches" in said.out
    assert f" {escaped}.json " in said.out and all(line.isprintable() for line in said.out.splitlines())
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("name", ["a\nb", "\udcff", "\x1b[31m", "it's"])
def test_what_came_of_a_search_shows_odd_names_escaped(name, tmp_path):
    said = search_cli.result_line({"cost/gpu_hours": 1.0}, tmp_path / name)
    assert len(said.splitlines()) == 5 and all(line.isprintable() for line in said.splitlines())
