"""The command line from outside: bad input is one line and exit code 2, and leaves nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import ROOT, finish, start
from warm import Warm

from dasgm.config import PretrainConfig, SearchConfig, mathematics, override
from dasgm.presets import preset


@pytest.fixture
def dasgm(warm: Warm) -> Callable[..., tuple[int, str, str]]:
    """The command: its exit code, output and errors."""
    return lambda *words, cwd, **environment: finish(warm.start("-m", "dasgm", *words, cwd=cwd, **environment))


def pictures(folder: Path, classes: dict[str, int], broken: int = 0) -> Path:
    from PIL import Image

    for name, n in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(n):
            Image.new("RGB", (20, 24), (i * 7 % 256, 40, 90)).save(folder / name / f"{i:03d}.png")
        for i in range(broken):
            (folder / name / f"broken{i}.jpg").write_bytes(b"\xff\xd8 no picture")
    return folder


def genotype(edges: list[list[object]]) -> str:
    cell = [["skip_connect", 0], ["skip_connect", 1]] * 4
    return json.dumps({"normal": edges, "normal_concat": [2, 3, 4, 5], "reduce": cell, "reduce_concat": [2, 3, 4, 5]})


BAD: list[tuple[str, list[str], str]] = [
    ("unknown preset", ["search", "quickstrat"], "did you mean 'quickstart'"),
    ("unknown data set", ["search", "--dataset", "cifar11"], "did you mean 'cifar1"),
    ("unknown GAN", ["search", "--gan", "bigan"], "did you mean 'biggan'"),
    ("unknown method", ["search", "--method", "dart"], "did you mean 'darts'"),
    ("unknown verb", ["serch"], "did you mean 'search'"),
    ("portion", ["search", "--val-portion", "1.5"], "between 0 and 1"),
    ("device", ["search", "--device", "cuda"], "--device cpu"),
    ("batch too large", ["search", "--batch-size", "5000"], "choose a smaller --batch-size"),
    ("proxy channels", ["search", "--proxy.channels", "5"], "channels"),
    ("proxy batch", ["search", "--proxy.batch-size", "5000"], "choose a smaller --proxy.batch-size"),
    ("channels", ["search", "--gan", "none", "--method.channels", "3"], "multiple of 2"),
    ("storage below a file", ["search", "--storage", "file/runs"], "cannot be written"),
    ("no Parquet", ["search", "--dataset", "cifar10", "--data-dir", "empty"], "train"),
    ("truncated Parquet", ["search", "--dataset", "cifar10", "--data-dir", "torn"], "train.parquet"),
    ("empty class", ["search", "--dataset", "folder", "--data-dir", "empty-class"], "b"),
    ("few pictures", ["search", "--dataset", "folder", "--data-dir", "few"], "10"),
    ("unreadable picture", ["search", "--dataset", "folder", "--data-dir", "broken"], "broken0.jpg"),
    ("malformed genotype", ["draw", "malformed.json"], "malformed.json"),
    ("unknown operation", ["draw", "operation.json"], "sep_conv_3x3"),
    ("edge from the future", ["draw", "future.json"], "node 2"),
    ("no such genotype", ["draw", "DARTS_V3"], "DARTS_V"),
    ("nothing to measure", ["measure", "DARTS_V3"], "did you mean 'DARTS_V"),
    ("drawing format", ["draw", "DARTS_V2", "--output", "x.gif"], "x.gif"),
    ("no storage", ["runs", "--storage", "nowhere"], "nowhere"),
    ("preset file", ["search", "bad.json"], "bad.json"),
    ("frozen GAN from nowhere", ["search", "--freeze-gan"], "--pretrain"),
    ("frozen GAN that is none", ["search", "--freeze-gan", "--gan", "none"], "freeze-gan with gan none"),
    ("a size that no GAN makes", ["search", "--data.image-size", "48"], "16, 32 or 64"),
    ("no such GAN file", ["search", "--gan-checkpoint", "nowhere"], "nowhere: no such folder or file"),
    ("GAN file twice", ["search", "--gan-checkpoint", "x", "--pretrain"], "leave one of the two out"),
    ("pre-training of none", ["pretrain", "--gan", "none"], "no GAN to pre-train"),
    ("pre-training's batch", ["pretrain", "--batch-size", "5000"], "choose a smaller --batch-size"),
    ("pre-training's length", ["pretrain", "--iterations", "0"], "at least 1"),
    ("name elsewhere", ["search", "--name", "../x"], "a folder in --storage"),
    ("name that is taken", ["search", "--name", "cache"], "other than checkpoints"),
    ("truth of DARTS's space", ["search", "--truth", "x.csv"], "search-space darts has no table of true accuracies"),
    (
        "no table",
        ["lookup", "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", "--truth", "x.csv"],
        "x.csv: No such file",
    ),
    ("storage of nothing", ["search", "--storage="], "--storage needs a value"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("bad")
    (place / "file").write_text("")
    (place / "empty").mkdir()
    (place / "torn").mkdir()
    (place / "torn" / "train.parquet").write_bytes(b"PAR1 and no more")
    (place / "torn" / "test.parquet").write_bytes(b"PAR1 and no more")
    pictures(place / "empty-class", {"a": 12, "b": 0})
    pictures(place / "few", {"a": 12, "b": 5})
    pictures(place / "broken", {"a": 12, "b": 12}, broken=1)
    (place / "malformed.json").write_text("{")
    (place / "operation.json").write_text(genotype([["sep_conv_3x4", 0], ["skip_connect", 1]] * 4))
    (place / "future.json").write_text(genotype([["skip_connect", 0], ["skip_connect", 4]] * 4))
    (place / "bad.json").write_text('{"parent": "quickstart", "overrides": {"gan.generatorlr": 1}}')
    return place


@pytest.mark.parametrize(("what", "words", "says"), BAD, ids=[what for what, _, _ in BAD])
def test_bad_input_is_one_line(dasgm, place, what, words, says):
    before = sorted(str(p) for p in place.rglob("*"))
    code, out, err = dasgm(*words, cwd=place)
    errors = err.strip().splitlines()
    assert code == 2, (out[-500:], err)
    assert len(errors) == 1 and errors[0].startswith("error: "), err
    assert says in errors[0]
    left = [p for p in sorted(str(p) for p in place.rglob("*")) if p not in before]
    assert not [p for p in left if Path(p).is_file() and "cache" not in p], left


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--batch-sise", "3"], "--batch-size"),
        (["--data.image-size", "30"], "16, 32 or 64"),
        (["--seed", "x"], "--seed"),
        (["--method.epochs", "0"], "at least 1"),
        (["--method.cells", "2"], "at least 3"),
        (["--threads", "-1"], "threads"),
    ],
)
def test_a_mistake_in_an_option_is_one_line(dasgm, tmp_path, words, says):
    code, _, err = dasgm("search", *words, cwd=tmp_path)
    assert code == 2 and says in err and len(err.splitlines()) == 1, err


def test_help_is_quick_and_teaches(tmp_path):
    code, out, _ = finish(start("-m", "dasgm", "search", "--help", cwd=tmp_path))
    assert code == 0
    for word in ("--val-portion", "--gan.generator-lr", "quickstart", "biggan", "same command"):
        assert word in out
    code = "import sys; from dasgm import cli; assert 'torch' not in sys.modules and 'tyro' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_core_imports_neither_ray_nor_mlflow_nor_optuna(tmp_path):
    code = """
import importlib, pkgutil, sys, dasgm
for module in pkgutil.walk_packages(dasgm.__path__, "dasgm."):
    if not module.name.endswith(("__main__", ".cli")):
        importlib.import_module(module.name)
found = {"ray", "mlflow", "optuna", "tyro"} & set(sys.modules)
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_override_takes_parts_before_leaves():
    config = override(preset("darts-2nd").config, {"gan.generator_lr": 1e-3, "gan": "biggan", "val_portion": 0.5})
    assert config.gan.generator_lr == 1e-3 and config.val_portion == 0.5
    both = {"val_portion": 0.3, "gan": "biggan"}
    assert override(preset("darts-2nd").config, both) == override(
        preset("darts-2nd").config, dict(reversed(both.items()))
    )
    assert preset("darts-2nd").config.real_portion == 1.0
    for changes, says in (
        ({"gan.generator_rl": 1.0}, "generator_lr"),
        ({"order": "third"}, "first or second"),
        ({"batch_size": "many"}, "int"),
        ({"batch_size": 2.5}, "int"),
    ):
        with pytest.raises(ValueError, match=says):
            override(config, changes)
    with pytest.raises(ValueError, match="no GAN"):
        override(preset("darts-2nd").config, {"gan.generator_lr": 1e-3})


def test_identity_is_what_changes_the_mathematics():
    config = preset("quickstart").config
    same = override(config, {"method.epochs": 99, "threads": 2, "pictures_every": 1, "data_dir": "elsewhere"})
    assert mathematics(same) == mathematics(config)
    assert mathematics(override(config, {"arch_lr": 0.5})) != mathematics(config)
    assert isinstance(config, SearchConfig)


def test_own_preset_names_its_parent(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"parent": "quickstart", "overrides": {"gan.generator_lr": 0.0123}}))
    assert preset(str(path)).config.gan.generator_lr == 0.0123


def test_readmes_python_way(tmp_path):
    readme = (ROOT / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) <= 12
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    accuracy, parameters = done.stdout.strip().splitlines()[-1].split()
    assert 0 <= float(accuracy) <= 1 and int(parameters) > 10_000


def test_dry_run_says_what_it_would_cost_and_writes_nothing(dasgm, tmp_path):
    code, out, err = dasgm("search", "--dry-run", "--gan.warmup", "20", cwd=tmp_path)
    assert code == 0 and not list(tmp_path.iterdir()), err
    for part in ("J_1 674, J_2 673, J_val 150", "W 72,854, A 224", "warm-up", "proxy", "hours a search", "MiB"):
        assert part in out, part


def test_draw_runs_and_report_succeed(dasgm, tmp_path):
    assert dasgm("draw", "PC_DARTS_cifar", "--output", "cells.svg", cwd=tmp_path)[0] == 0
    assert (tmp_path / "cells.svg").read_text().count("sep conv") >= 6
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"format": 2, "name": "mine", "state": "finished", "started": 1.0}')
    (folder / "metrics.jsonl").write_text(
        '{"epoch": 1, "phase": "search 1", "time": 1.0, "val/accuracy": 0.625}\n'
        '{"epoch": 1, "phase": "best", "time": 2.0, "best/proxy": 0.75, "best/proxy_error": 0.03}\n'
    )
    code, out, _ = dasgm("runs", cwd=tmp_path)
    assert code == 0 and all(part in out for part in ("mine", "finished", "0.625", "0.750 ± 0.030"))
    long = tmp_path / "runs" / ("a-sweep-with-a-long-name" * 3) / "t000-and-its-trial"
    shutil.copytree(folder, long)
    assert str(long.relative_to(tmp_path / "runs")) in dasgm("runs", cwd=tmp_path)[1], "whole, in a file"
    shutil.copytree(tmp_path / "runs", tmp_path / "home" / "runs")
    code, out, _ = dasgm("runs", "--storage=~/runs", cwd=tmp_path, HOME=str(tmp_path / "home"))
    assert code == 0 and "mine" in out, "bash does not expand it"
    code, _, _ = dasgm("report", "runs/mine", cwd=tmp_path)
    assert code == 0 and "75.0" in (folder / "report.html").read_text()


SEARCH_SETTINGS = {
    "method", "gan", "data", "search_space", "order", "search_discriminator", "hypergradient", "inner", "val_portion",
    "batch_size", "cuda_graph", "classifier_lr", "classifier_lr_min", "classifier_momentum", "classifier_nesterov",
    "classifier_weight_decay", "classifier_clip", "arch_lr", "arch_beta1", "arch_weight_decay", "arch_clip",
    "discriminator_arch_lr", "discriminator_steps", "freeze_gan", "stop_skips", "stop_entropy", "hessian_every",
    "sync_batch_norm", "proxy", "seed", "gan_checkpoint", "data_dir", "device", "threads", "checkpoints",
    "pictures_every", "fidelity_every", "inception_weights", "truth", "cost",
}  # fmt: skip
SWEEP_OPTIONS = {
    "config", "num_trials", "max_concurrent", "workers_per_trial", "gpus_per_trial", "grace", "space", "storage",
    "name", "time_budget", "wait", "pretrain", "rank_by", "and_minimise", "at_most", "register", "then_imagenet",
    "imagenet_set", "then_train", "train_set", "top", "dry_run",
}  # fmt: skip
PRETRAIN_SETTINGS = {
    "gan", "data", "search_discriminator", "batch_size", "seed", "data_dir", "device", "threads", "checkpoints",
    "pictures_every", "fidelity_every", "inception_weights",
}  # fmt: skip


def test_flags_are_a_promise():
    """A new setting of every search is a decision, not a side effect: variants are presets."""
    from dataclasses import fields

    from cluster.pretrain import Options as PretrainJob
    from cluster.search import Options as Job
    from tuning.sweep import Options as Sweep

    assert {f.name for f in fields(SearchConfig)} == SEARCH_SETTINGS
    assert {f.name for f in fields(Sweep)} == SWEEP_OPTIONS
    shared = {"config", "storage", "name", "dry_run", "workers", "gpus", "wait"}
    assert {f.name for f in fields(Job)} == shared | {"pretrain"}
    assert {f.name for f in fields(PretrainJob)} == shared | {"iterations"}
    assert {f.name for f in fields(PretrainConfig)} == PRETRAIN_SETTINGS
