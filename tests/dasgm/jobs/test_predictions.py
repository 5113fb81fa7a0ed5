"""What an evaluation leaves of each test picture, and the settings that make up for small classes."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from evaluations import STREAMED, photographs, quiet
from groups import join
from pictures import pictures
from PIL import Image
from processes import spawn
from sklearn import metrics
from sklearn.model_selection import StratifiedKFold
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

from dasgm import model
from dasgm.cli import main as cli
from dasgm.data import digits, folder
from dasgm.data._split import balanced, folds
from dasgm.jobs.against import against
from dasgm.jobs.evaluate import main, opened
from dasgm.jobs.predictions import sizes, unequal
from dasgm.jobs.training import Training
from dasgm.measures.agreement import of_the_test
from dasgm.pages.report import report
from dasgm.recipes import EvaluateConfig
from dasgm.spaces.darts import KNOWN
from dasgm.store.records import read_lines

__all__ = ["photographs"]
TINY = EvaluateConfig(
    data=digits.Config(limit=120, cutout=4), cells=3, channels=2, epochs=1, batch_size=32, drop_path=0.0, threads=1
)


def table(run: Path) -> list[dict[str, str]]:
    with open(run / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def said_by_the_model(run: Path, config: EvaluateConfig) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Labels and probabilities of the test pictures by the model's own files, one picture after another."""
    data = config.data.load(config.data_dir)
    network = model.load(run)
    x = data.to_classifier(data.test_raw(slice(None)))
    with torch.no_grad():
        return data.test_labels, torch.cat([network(one) for one in x.split(50)]).softmax(1), data


def test_predictions_and_figures_are_those_of_the_saved_model(tmp_path):
    config = replace(TINY, calibration=0.2, epochs=2)
    row = main(KNOWN["PDARTS"], config, tmp_path / "run", quiet())
    labels, p, data = said_by_the_model(tmp_path / "run", config)
    rows = table(tmp_path / "run")
    assert list(rows[0]) == ["picture", "true", "predicted", "probability", *(f"p({name})" for name in data.classes)]
    assert [one["picture"] for one in rows] == [f"test/{i}" for i in range(len(labels))]
    assert [one["true"] for one in rows] == [data.classes[i] for i in labels]
    assert [one["predicted"] for one in rows] == [data.classes[i] for i in p.argmax(1)]
    assert [float(one["probability"]) for one in rows] == pytest.approx(p.amax(1).tolist(), abs=1e-5)
    assert [float(one["p(3)"]) for one in rows] == pytest.approx(p[:, 3].tolist(), abs=1e-5)

    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["accuracy"]["value"] == pytest.approx(1 - row["result/error"])
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, p.argmax(1)))
    assert row["result/nll"] == pytest.approx(F.nll_loss(p.log(), labels).item(), rel=1e-4)
    assert found["temperature"]["pictures"] == 24 and row["result/temperature"] == found["temperature"]["value"]
    assert sum(one["train"] for one in found["classes"]) == 96
    wrong = (p.argmax(1) != labels).nonzero()[:, 0].tolist()
    surest = max(wrong, key=lambda i: p[i].max())
    first = found["mistakes"][0]
    assert first["picture"] == f"test/{surest}" and len(found["mistakes"]) == 24
    shown = np.asarray(Image.open(tmp_path / "run" / first["file"]))
    assert np.array_equal(shown, data.test_images[surest].permute(1, 2, 0).numpy())
    assert read_lines(tmp_path / "run" / "metrics.jsonl")[-1] == row
    page = (tmp_path / "run" / "report.html").read_text()
    unapplied = "give probabilities without it"
    for part in ("What is taken for what", "set on 24 held-out", unapplied, f"test/{surest}", "95 % interval"):
        assert part in page, part


def test_no_temperature_without_held_out_pictures_and_the_page_says_so(tmp_path):
    row = main(KNOWN["PDARTS"], TINY, tmp_path / "run", quiet())
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["temperature"]["value"] is None and "result/temperature" not in row
    assert "not set: no held-out pictures" in (tmp_path / "run" / "report.html").read_text()


def run_of_two(rank: int, place: str, kind: str) -> None:
    join(rank, place, 2)
    torch.set_default_dtype(torch.float32)
    config = TINY if kind == "memory" else replace(STREAMED, data_dir=f"{place}/photographs", epochs=1, batch_size=4)
    main(KNOWN["PDARTS"], replace(config, calibration=0.2, balance="sampling"), Path(place) / "run", quiet())
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["memory", "streamed"])
def test_two_workers_measure_each_picture_once_in_order(tmp_path, warm, photographs, kind):
    (tmp_path / "photographs").symlink_to(photographs)
    spawn(warm, run_of_two, str(tmp_path), kind, nprocs=2)
    names = [one["picture"] for one in table(tmp_path / "run")]
    if kind == "memory":
        assert names == [f"test/{i}" for i in range(300)]
    else:
        files = (path for path in (photographs / "val").rglob("*") if path.is_file())
        assert names == sorted(str(path.relative_to(photographs)) for path in files) and len(names) == 13
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["pictures"] == len(names) and found["temperature"]["pictures"] == (24 if kind == "memory" else 7)


def test_a_folders_pictures_have_their_paths_and_its_val_sets_the_temperature(tmp_path):
    for part, n in (("train", 10), ("test", 3), ("val", 4)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(n):
                level = np.full((16, 16, 3), 40 + 120 * label + i, np.uint8)
                Image.fromarray(level).save(tmp_path / "data" / part / name / f"{i}.png")
    data = folder.Config(image_size=16)
    config = replace(TINY, data=data, data_dir=str(tmp_path / "data"), batch_size=8)
    main(KNOWN["PDARTS"], config, tmp_path / "run", quiet())
    names = [f"test/{name}/{i}.png" for name in ("cat", "dog") for i in range(3)]
    assert [one["picture"] for one in table(tmp_path / "run")] == names
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["temperature"]["pictures"] == 8
    (tmp_path / "data" / "val").rename(tmp_path / "unused")
    assert opened(config, "cpu").held_out() is None


# classes of unequal size


def test_balanced_draws_have_each_class_as_often_and_each_picture_nearly_so():
    labels = np.array([0] * 70 + [1] * 25 + [2] * 5)
    orders = [balanced(labels, np.random.default_rng(seed)) for seed in range(30)]
    for order in orders:
        counts = Counter(labels[order].tolist())
        assert len(order) == 100 and sorted(counts.values()) == [33, 33, 34]
        seen = Counter(order.tolist())
        for label, span in ((0, (0, 1)), (1, (1, 2)), (2, (6, 7))):
            assert {seen[i] for i in np.flatnonzero(labels == label)} <= set(span)
    assert orders[0].tolist() != orders[1].tolist()
    assert len({i for order in orders for i in order.tolist()}) == 100


def test_balanced_photographs_are_repeated_with_draws_of_their_own(photographs):
    config = replace(STREAMED, data_dir=str(photographs), balance="sampling")
    data = opened(config, "cpu")
    order, n = data.order(0, 3), len(data.train)
    labels = data.train.labels[order % n]
    assert sorted(Counter(labels.tolist()).values()) == [11, 12, 12] and len(set(order.tolist())) == n
    again = [i for i in order.tolist() if i >= n]
    assert again and all(i % n in order for i in again)
    reader = data.reader(0, 3)
    first, second = (reader(np.array([i])) for i in (again[0] % n, again[0]))
    assert first.labels.tolist() == second.labels.tolist() and not torch.equal(first.draws, second.draws)
    assert np.array_equal(opened(replace(config, balance="none"), "cpu").order(0, 3), data.train.permuted(0, 3))


def test_weighted_loss_is_its_formula_with_smoothing():
    config = replace(TINY, label_smoothing=0.1, auxiliary=0.0, precision="float32")
    one = Training(KNOWN["DARTS_V2"], config, 3, "cpu", 0)
    counts = torch.tensor([6, 3, 1])
    one.weigh(counts)
    x, y = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    loss, logits, _ = one.gradient(x, y)
    target = F.one_hot(y, 3) * 0.9 + 0.1 / 3
    weights = torch.tensor([10 / (3 * 6), 10 / (3 * 3), 10 / (3 * 1)])
    expected = (weights[y] * -(target * logits.log_softmax(1)).sum(1)).sum() / 8
    torch.testing.assert_close(loss, expected)


def test_parquet_is_not_drawn_by_class():
    from dasgm.data._listing import Listing
    from dasgm.data._loader import Photographs

    rows: Any = object()
    part = Listing(rows, ("a", "b"), np.array([0, 1]), np.array([1, 1]), np.array([True, True]))
    with pytest.raises(ValueError, match="^balance sampling: [^\n]*--balance loss$"):
        Photographs(part, part, 32).balancing()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"balance": "both"}, "expected none, sampling or loss"),
        ({"calibration": 1.0}, "expected a number below 1"),
        ({"calibration": 0.001}, "holds none out"),
        ({"calibration": 0.99}, "without training images"),
    ],
)
def test_bad_settings_are_one_line(setting, says):
    with pytest.raises(ValueError, match=f"^{next(iter(setting))} [^\n]*{says}[^\n]*$"):
        opened(replace(TINY, **setting), "cpu")


def test_sizes_are_told_with_a_warning_of_classes_too_small():
    first, second = sizes(["cat", "dog"], torch.tensor([1200, 80]), torch.tensor([200, 30]))
    assert first == "pictures to train on + to measure: cat: 1,200 + 200, dog: 80 + 30"
    assert second.startswith("1 of 2 classes are too small to measure their recall to ± 10 points (95 %)")
    assert second.endswith("93 test pictures are needed: dog has 30, which gives ± 17")
    many = [f"c{i:02d}" for i in range(30)]
    (line,) = sizes(many, torch.arange(100, 130), torch.full((30,), 93))
    assert (
        line == "30 classes; pictures of a class to train on: 100 (c00) to 129 (c29); to measure: 93 (c00) to 93 (c29)"
    )


def test_classes_of_unequal_size_are_told_with_the_option_that_balances_them(tmp_path):
    assert unequal(["a", "b"], torch.tensor([199, 100])) == []
    (line,) = unequal(["cat", "dog", "fox"], torch.tensor([80, 200, 64]))
    assert line == (
        "classes of unequal size: dog has 3.1 times as many pictures to train on as fox; --balance loss, or sampling, "
        "gives all classes the same weight"
    )
    pictures(tmp_path, {"a": 60, "b": 12})
    config = replace(TINY, data=folder.Config(image_size=16), data_dir=str(tmp_path))
    told = ["\n".join(opened(replace(config, balance=how), "cpu").notes) for how in ("none", "loss")]
    assert "a has 5.0 times" in told[0] and "unequal" not in told[1]
    assert all("a: 50 + 10, b: 10 + 2" in notes and "a 60, b 12" not in notes for notes in told)  # once


def test_a_training_tells_no_parts_of_a_search():
    config = replace(TINY, data=digits.Config(holdout=0.1))
    assert opened(config, "cpu").describe().endswith("pixels; 1,497 images to train on, 300 to test on")


# folds


def test_folds_hold_each_class_as_equally_as_scikit_learns():
    labels = torch.tensor([0] * 23 + [1] * 11 + [2] * 5)
    part = folds(labels, 5, 0)
    theirs = StratifiedKFold(5, shuffle=True, random_state=0).split(labels, labels)
    sizes_of_theirs = [labels[test].bincount(minlength=3) for _, test in theirs]
    ours = [labels[part == k].bincount(minlength=3) for k in range(5)]
    for label in range(3):
        assert sorted(int(n[label]) for n in ours) == sorted(int(n[label]) for n in sizes_of_theirs)
    assert {len(labels[part == k]) for k in range(5)} == {7, 8}
    with pytest.raises(ValueError, match="^folds 6: the smallest class has 5 images; choose at most 5$"):
        folds(labels, 6, 0)


def test_each_picture_is_measured_once_over_all_folds_and_the_spread_is_given(tmp_path, capsys):
    words = ["evaluate", "PDARTS", "--dataset=digits", "--cells=3", "--channels=2", "--epochs=1", "--batch-size=32"]
    words += ["--data.limit=100", "--drop-path=0", "--threads=1", "--folds=3", "--storage", str(tmp_path)]
    threads = torch.get_num_threads()
    try:
        assert cli.main([*words, "--name=run"]) == 0
        said = capsys.readouterr().out
        first = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.suffix in (".csv", ".json")}
        assert cli.main([*words, "--name=run"]) == 0  # goes on: nothing is left to do
    finally:
        torch.set_num_threads(threads)
    assert {path: path.read_bytes() for path in first} == first
    rows = table(tmp_path / "run")
    tests = [f"test/{i}" for i in range(300)]
    assert len(rows) == 400 and len({one["picture"] for one in rows}) == 400
    assert {one["picture"] for one in rows} >= set(tests)
    errors = []
    for number in ("1", "2", "3"):
        its = [one for one in rows if one["fold"] == number]
        assert len(its) in (133, 134)
        network = model.load(tmp_path / "run" / f"fold-{number}")  # an export's accuracy is measured on its own fold
        seen = of_the_test(network, tmp_path / "run" / f"fold-{number}", None, opened, print)
        assert [network.classes[label or 0] for _, label in seen] == [one["true"] for one in its]
        errors.append(1 - metrics.accuracy_score([one["true"] for one in its], [one["predicted"] for one in its]))
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    truth, predicted = ([one[name] for one in rows] for name in ("true", "predicted"))
    assert found["confusion"] == metrics.confusion_matrix(truth, predicted).tolist()
    assert found["spread"]["sd"] == pytest.approx(np.std(errors, ddof=1))
    right = torch.tensor([one["true"] == one["predicted"] for one in rows])
    p = torch.tensor([[float(one[f"p({i})"]) for i in range(10)] for one in rows])
    ece = multiclass_calibration_error(p, torch.tensor([int(name) for name in truth]), 10, n_bins=15)
    assert found["ece"]["value"] == pytest.approx(float(ece), abs=1e-4)
    assert f"error {1 - right.float().mean():.2%} on all pictures" in said and "over 3 folds" in said
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Folds" in page and "dasgm.load(" not in page
    ensure_compared(tmp_path / "run", tmp_path / "right", rows)
    with pytest.raises(SystemExit):
        cli.main([word for word in [*words, "--name=run"] if word != "--folds=3"])
    assert "began with folds = 3" in capsys.readouterr().err


# two networks


def ensure_compared(run: Path, other: Path, rows: list[dict[str, str]]) -> None:
    """`run`, of folds, beside one that differs in naming all training pictures rightly: they are of any fold."""
    other.mkdir()
    said = [one["true" if one["picture"].startswith("train/") else "predicted"] for one in rows]
    lines = [f"{one['picture']},{one['true']},{name},1" for one, name in zip(rows, said, strict=True)]
    (other / "predictions.csv").write_text("\n".join(["picture,true,predicted,probability", *lines]))
    against(run, other)
    data, lost = digits.Config(limit=100).load(None), json.loads((run / "against.json").read_text())["lost"]
    assert len(lost) == 12 and len({one["fold"] for one in rows}) == 3
    for one in lost:
        shown = np.asarray(Image.open(run / one["file"]))
        assert np.array_equal(shown, data.images[int(one["picture"].removeprefix("train/"))].permute(1, 2, 0).numpy())


def test_pictures_that_one_of_two_gets_right_and_the_other_wrong(tmp_path):
    for name, config in (("one", TINY), ("two", replace(TINY, seed=1, epochs=2))):
        main(KNOWN["PDARTS"], config, tmp_path / name, quiet())
    against(tmp_path / "one", tmp_path / "two")
    ours, theirs = table(tmp_path / "one"), table(tmp_path / "two")
    pairs = [(a["true"] == a["predicted"], b["true"] == b["predicted"]) for a, b in zip(ours, theirs, strict=True)]
    found = json.loads((tmp_path / "one" / "against.json").read_text())
    counts = [found[key] for key in ("both_right", "only_this", "only_other", "both_wrong")]
    assert counts == [pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
    data, named = digits.Config(limit=120).load(None), {one["picture"]: one for one in theirs}
    for one in found["won"]:
        assert named[one["picture"]]["predicted"] == one["predicted"] != one["true"]
        shown = np.asarray(Image.open(tmp_path / "one" / one["file"]))
        index = int(one["picture"].removeprefix("test/"))
        assert np.array_equal(shown, data.test_images[index].permute(1, 2, 0).numpy())
    report(tmp_path / "one")
    assert "Right here, wrong in two" in (tmp_path / "one" / "report.html").read_text()
    (tmp_path / "two" / "predictions.csv").write_text("picture,true,predicted,probability\ntest/0,0,0,1\n")
    with pytest.raises(ValueError, match="was measured on other pictures"):
        against(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "predictions.csv").unlink()
    with pytest.raises(ValueError, match="there is no predictions.csv"):
        against(tmp_path / "one", tmp_path / "two")
