"""Training from scratch: schedules against the papers' numbers, the step against its formula, and a run's folder: exact
resume, refusals, the result."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from commands import finish, wait_for
from groups import join
from outcomes import rows_of
from processes import spawn
from torch.nn import functional as F
from warm import Command, Warm

from dasgm.cli import main as cli
from dasgm.cli.evaluate import choose_training
from dasgm.config import from_json, to_json
from dasgm.data import digits
from dasgm.jobs.evaluate import main
from dasgm.jobs.memory import batch_advice
from dasgm.jobs.session import Hooks, Refused
from dasgm.jobs.training import Batches, Training
from dasgm.recipes import RECIPES, EvaluateConfig, per_worker, recipe
from dasgm.search import SearchFailed
from dasgm.spaces.darts import KNOWN
from dasgm.store.records import read_lines
from dasgm.store.run import Run, state_of

TINY = EvaluateConfig(
    data=digits.Config(limit=120, cutout=4), cells=3, channels=2, epochs=3, batch_size=32, drop_path=0.3, threads=1
)
WORKERS = 2


# schedules and recipes: the numbers of the papers' code (facts/nas-methods 1.3)


def test_linear_schedule_with_its_last_five_epochs_and_the_warm_up():
    config = recipe("imagenet").config
    lr = [replace(config, lr=0.5).learning_rate(e) for e in range(250)]
    assert lr[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert lr[5:245] == pytest.approx([0.5 * (245 - e) / 245 for e in range(5, 245)])
    assert lr[245:] == pytest.approx([0.5 * (250 - e) / 1225 for e in range(245, 250)])
    assert replace(config, warmup_epochs=0).learning_rate(0) == config.lr


def test_cosine_schedule_and_drop_path():
    config = recipe("cifar").config
    lr = [config.learning_rate(e) for e in range(600)]
    assert lr[0] == 0.025 and lr[300] == pytest.approx(0.0125) and lr[599] == pytest.approx(1.7135e-7, rel=1e-3)
    assert lr == pytest.approx([0.025 / 2 * (1 + math.cos(math.pi * e / 600)) for e in range(600)])
    rates = [config.drop_path_rate(e) for e in (0, 150, 300, 599)]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.2 * 599 / 600])


def test_recipes_are_the_papers():
    cifar, imagenet = recipe("cifar").config, recipe("imagenet").config
    assert (cifar.cells, cifar.channels, cifar.epochs, cifar.batch_size) == (20, 36, 600, 96)
    assert (cifar.lr, cifar.momentum, cifar.weight_decay, cifar.clip) == (0.025, 0.9, 3e-4, 5)
    assert (cifar.auxiliary, cifar.drop_path, cifar.data.cutout, cifar.label_smoothing) == (0.4, 0.2, 16, 0)
    assert (imagenet.form, imagenet.cells, imagenet.channels, imagenet.epochs) == ("imagenet", 14, 48, 250)
    assert (imagenet.auxiliary, imagenet.drop_path, imagenet.data.cutout) == (0.4, 0, 0)
    assert (imagenet.label_smoothing, imagenet.weight_decay, imagenet.clip) == (0.1, 3e-5, 5)
    assert imagenet.batch_size == 512 and per_worker(imagenet, 8).batch_size == 64
    with pytest.raises(ValueError, match="cannot be shared equally by 3"):
        per_worker(imagenet, 3)
    for name in RECIPES:
        assert from_json(to_json(recipe(name).config), EvaluateConfig) == recipe(name).config


def test_flags_are_a_promise():
    """A new setting of every evaluation is a decision, not a side effect."""
    names = """data form cells channels epochs batch_size lr lr_schedule warmup_epochs momentum nesterov
        weight_decay clip auxiliary drop_path label_smoothing balance calibration folds fold precision crop
        flip colour augment seed channels_last cuda_graph compile data_dir device threads checkpoints"""
    assert [f.name for f in fields(EvaluateConfig)] == names.split()
    placed = {f.name for f in fields(EvaluateConfig) if not f.metadata.get("mathematics", True)}
    assert placed == {"channels_last", "cuda_graph", "compile", "data_dir", "device", "threads", "checkpoints"}


# the step


def hand_computed(one: Training, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Weights after a first step of SGD on the mean of the batches' losses, written out."""
    config, network = one.config, one.network
    losses = []
    for x, y in batches:
        target = F.one_hot(y, one.classes).double()
        target = target * (1 - config.label_smoothing) + config.label_smoothing / one.classes
        head, auxiliary = network.forward_with_auxiliary(x)
        main_loss, extra = (-(target * z.log_softmax(1)).sum(1).mean() for z in (head, auxiliary))
        losses.append(main_loss + config.auxiliary * extra)
    named = dict(network.named_parameters())
    grads = dict(zip(named, torch.autograd.grad(sum(losses) / len(losses), list(named.values())), strict=True))
    size = math.sqrt(sum(float((g * g).sum()) for g in grads.values()))
    assert size > config.clip
    scale, lr = config.clip / (size + 1e-6), one.W.lr
    return {k: (p - lr * (grads[k] * scale + config.weight_decay * p)).detach() for k, p in named.items()}


STEP = replace(TINY, label_smoothing=0.1, clip=0.5, drop_path=0.0, lr_schedule="linear", epochs=10, precision="float32")


def for_step() -> tuple[Training, list[tuple[torch.Tensor, torch.Tensor]]]:
    one = Training(KNOWN["DARTS_V2"], STEP, 7, "cpu", 3)
    one.schedule(2)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(8, 3, 16, 16, generator=generator, dtype=torch.float64) for _ in "ab"), torch.arange(8) % 7
    return one, [(batch, y) for batch in x]


def test_step_is_sgd_on_the_smoothed_loss_with_the_auxiliary_heads_clipped():
    torch.set_default_dtype(torch.float64)
    try:
        one, batches = for_step()
        assert one.W.lr == pytest.approx(0.025 * (5 - 2) / 5)
        expected = hand_computed(one, batches[:1])
        loss, wrong = one.step(*batches[0], 2, 0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert loss.isfinite() and 0 <= int(wrong) <= 8
    for k, p in one.network.named_parameters():
        torch.testing.assert_close(p.detach(), expected[k], rtol=1e-9, atol=1e-12, msg=k)


def own_batch(rank: int, folder: str) -> None:
    join(rank, folder, WORKERS)
    one, batches = for_step()
    one.step(*batches[rank], 2, 0)
    one.W.agree()
    torch.save(one.network.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_take_the_step_of_one_that_averages_their_losses(tmp_path, warm):
    spawn(warm, own_batch, str(tmp_path), nprocs=WORKERS)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORKERS))
    torch.set_default_dtype(torch.float64)
    try:
        expected = hand_computed(*for_step())
    finally:
        torch.set_default_dtype(torch.float32)
    for k, t in first.items():
        assert torch.equal(t, second[k]), k
        if k in expected:
            torch.testing.assert_close(t, expected[k], rtol=1e-9, atol=1e-12, msg=k)


def test_bfloat16_trains_float32_weights():
    losses = {}
    for precision in ("float32", "bfloat16"):
        one = Training(KNOWN["DARTS_V2"], replace(TINY, precision=precision, drop_path=0.0), 10, "cpu", 1)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(16, 3, 16, 16, generator=generator)
        loss, _ = one.step(x, torch.arange(16) % 10, 0, 0)
        losses[precision] = loss.item()
        assert {p.dtype for p in one.network.parameters()} == {torch.float32}
    assert losses["bfloat16"] != losses["float32"] and losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


# a run


def quiet(**more: Any) -> Hooks:
    return Hooks(say=lambda line: None, **more)


def test_last_epoch_is_the_result_though_an_earlier_one_was_better(tmp_path, monkeypatch):
    measured = iter([(70, 90, 100), (95, 99, 100), (80, 97, 100)])
    monkeypatch.setattr(Training, "counts", lambda self, batches: next(measured))
    reported: list[Any] = []
    row = main(KNOWN["PDARTS"], TINY, tmp_path / "run", quiet(report=reported.append))
    assert row["result/error"] == 0.2 and row["result/top5_error"] == 0.03
    assert row["result/best_error"] == 0.05 and row["result/best_epoch"] == 2
    assert [r["test/error"] for r in reported] == [0.3, 0.05, 0.2]
    rows = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [r["phase"] for r in rows] == ["evaluate"] * 3 + ["result"] and rows[-1] == row
    for key in ("loss/train", "train/error", "test/top5_error", "speed/images_per_s", "cost/gpu_hours", "time"):
        assert key in rows[0], key
    assert json.loads((tmp_path / "run" / "model.json").read_text())["result"]["error"] == 0.2
    page = (tmp_path / "run" / "report.html").read_text()
    assert "20.00 %" in page and "not the result" in page and "dasgm.load(" in page


def test_where_images_come_from_is_found_before_the_folder_is_begun(tmp_path):
    def none(*_: object) -> Batches:
        raise ValueError("no reader here")

    with pytest.raises(Refused, match="^no reader here$"):
        main(KNOWN["PDARTS"], TINY, tmp_path / "run", quiet(), none)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_the_run_as_failed(tmp_path):
    config = replace(TINY, lr=1e30, clip=1e30)
    with pytest.raises(SearchFailed, match=r"epoch 1, iteration \d+: the loss is (nan|inf)"):
        main(KNOWN["DARTS_V2"], config, tmp_path / "run", quiet())
    assert Run(tmp_path / "run").about["state"] == "failed"


def test_out_of_memory_names_the_batch_that_fits():
    def step(batch: int) -> None:
        if batch > 30:
            raise MemoryError

    said = batch_advice(96, "20 cells and 36 channels", step, graph=True)
    assert said.startswith("out of memory: batch 96 does not fit") and said.endswith("--batch-size 24")
    assert batch_advice(30, "", step, graph=False).startswith("out of memory beside the training's own step")
    assert batch_advice(30, "", step, graph=True).endswith("without one the training's own step fits: --cuda-graph off")


def words(storage: Path, *more: str, genotype: str = "DARTS_V2") -> list[str]:
    settings = ["--cells=3", "--channels=2", "--epochs=6", "--data.limit=200", "--drop-path=0.3", "--batch-size=16"]
    return ["evaluate", genotype, "--dataset=digits", "--name=run", *settings, *more, "--storage", str(storage)]


@pytest.fixture
def evaluation(warm: Warm) -> Callable[[Path], Command]:
    return lambda storage: warm.start("-m", "dasgm", *words(storage))


def outcome(folder: Path) -> dict[str, Any]:
    model = {name: (folder / name).read_bytes() for name in ("model.safetensors", "model.json", "genotype.json")}
    return {"rows": rows_of(folder)} | model


def test_killed_or_stopped_it_goes_on_to_the_same_bits_and_refuses_another_schedule(tmp_path, capsys, evaluation):
    folder = tmp_path / "cut" / "run"
    cut = evaluation(tmp_path / "cut")
    wait_for(cut, lambda: len(read_lines(folder / "metrics.jsonl")) >= 2)
    cut.send_signal(signal.SIGKILL)
    cut.communicate()
    assert state_of(folder) == "interrupted" and not (folder / "model.json").exists()

    cut = evaluation(tmp_path / "cut")
    wait_for(cut, lambda: len(read_lines(folder / "metrics.jsonl")) >= 4)
    cut.send_signal(signal.SIGINT)
    code, out, err = finish(cut)
    assert code in (0, 130) and not err and "going on after epoch" in out, (code, out[-400:], err)
    assert code == 0 or " -m dasgm evaluate DARTS_V2" in out.partition("To continue: ")[2]

    threads = torch.get_num_threads()
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.main(words(tmp_path / "brief", "--time-budget=0.001"))
        assert stopped.value.code == 0 and "time budget of 0.001 s is used up" in (out := capsys.readouterr().out)
        assert f"stopped; every whole epoch is saved in {tmp_path / 'brief' / 'run'}. To continue" in out
        assert Run(tmp_path / "brief" / "run").about["reason"] == "the time budget is used up"
        assert cli.main(words(tmp_path / "cut")) == 0 and cli.main(words(tmp_path / "whole")) == 0
        assert capsys.readouterr().out.count("finished: test error") == 2
        before = outcome(folder)
        assert before == outcome(tmp_path / "whole" / "run")
        assert [row["epoch"] for row in before["rows"]] == [1, 2, 3, 4, 5, 6, 6]

        assert cli.main(words(tmp_path / "cut")) == 0 and "finished: test error" in capsys.readouterr().out
        for again, says in (
            (words(tmp_path / "cut", "--epochs=7"), "began with epochs = 6, but this command asks for 7"),
            (words(tmp_path / "cut", genotype="PDARTS"), "began with another genotype"),
        ):
            with pytest.raises(SystemExit):
                cli.main(again)
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert says in line
        assert outcome(folder) == before
    finally:
        torch.set_num_threads(threads)
    assert cli.main(["runs", "--storage", str(tmp_path / "cut")]) == 0
    listed = capsys.readouterr().out
    assert "finished" in listed and f"{before['rows'][-1]['result/error']:.2%}" in listed


def test_a_runs_folder_brings_its_genotype_and_its_data(tmp_path):
    folder = tmp_path / "found"
    folder.mkdir()
    KNOWN["PDARTS"].save(folder / "genotype.json")
    searched = {"key": "digits", "image_size": 32, "holdout": 0.1, "limit": 500}
    (folder / "config.json").write_text(json.dumps({"data": searched, "data_dir": None}))
    chosen, rest = choose_training([str(folder), "--seed", "3"])
    assert chosen.design == KNOWN["PDARTS"] and rest == ["--seed", "3"] and chosen.recipe == "digits-small"
    data = chosen.config.data
    assert isinstance(data, digits.Config) and data.image_size == 32 and data.limit == 0 and data.cutout == 8
    assert choose_training([str(folder / "genotype.json")])[0].config == chosen.config
    chosen, _ = choose_training([str(folder / "genotype.json"), "cifar", "--dataset=cifar100"])
    assert chosen.name() == "found-cifar-cifar100-s0" and chosen.config.data.cutout == 16
    assert choose_training(["DARTS_V2", "digits-small"])[0].config == recipe("digits-small").config
    assert choose_training(["DARTS_V1"])[0].name() == "DARTS_V1-cifar-cifar10-s0"
    for size, expected in (("64", "cifar"), ("68", "photographs"), ("224", "photographs")):
        chosen, _ = choose_training(["DARTS_V2", "--dataset=folder", "--data-dir=x", f"--data.image-size={size}"])
        assert chosen.recipe == expected and chosen.config.data_dir == str(Path("x").absolute())


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ([], "name a genotype"),
        (["DARTS_V3"], "did you mean 'DARTS_V"),
        (["DARTS_V2", "cifra"], "did you mean 'cifar'"),
        (["DARTS_V2", "--dataset", "digit"], "did you mean 'digits'"),
        (["."], "the folder has no genotype.json"),
        (["DARTS_V2", "imagenet", "--epochs", "5"], "--lr-schedule cosine"),
        (["DARTS_V2", "--drop-path", "1"], "below 1"),
        (["DARTS_V2", "--warmup-epochs", "601"], "at most the number of epochs, 600"),
        (["DARTS_V2", "--cells", "2"], "between 3 and 100"),
        (["DARTS_V2", "--dataset", "digits", "--channels", "3"], "even number"),
        (["DARTS_V2", "--dataset", "digits", "--batch-size", "2000"], "there are 1497"),
        (["DARTS_V2", "--dataset", "digits", "--form", "imagenet"], "at least 32"),
        (["DARTS_V2", "--dataset", "folder"], "needs --data-dir"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, asked, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["evaluate", *asked])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and says in line and line.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_dry_run_says_what_it_would_cost_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    try:
        assert cli.main(["evaluate", "DARTS_V2", "--dataset", "digits", "--channels", "2", "--dry-run"]) == 0
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr().out
    for part in (
        "1,497 images to train on, 300 to test on",
        "steps an epoch",
        "hours",
        "GiB",
        "MiB of checkpoints",
        "--dry-run",
    ):
        assert part in said, part
    assert not list(tmp_path.iterdir())
