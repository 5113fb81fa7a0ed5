"""`dasgm lookup`: a cell by its string, and the one that a run has found, from a table of the user's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import truths

from dasgm.cli.main import main
from dasgm.genotype import Genotype

PLACE = 4321


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, and a run's folder with a genotype."""
    storage = tmp_path_factory.mktemp("lookup")
    truths.write_published(storage / "nats_bench.csv", truths.rows())
    (storage / "run").mkdir()
    Genotype.parse(truths.string(PLACE)).save(storage / "run" / "genotype.json")
    return storage


def test_a_cell_and_a_run_are_looked_up(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = str(storage / "nats_bench.csv")
    for source in (truths.string(PLACE), str(storage / "run"), str(storage / "run" / "genotype.json")):
        assert main(["lookup", source, "--truth", table]) == 0
        cell, *lines = capsys.readouterr().out.splitlines()
        assert cell == truths.string(PLACE)
        rows = {words[0]: words[1:] for line in lines if len(words := line.replace("│", " ").split()) == 5}
        many, rising, falling = truths.accuracies(PLACE)
        assert rows["CIFAR-10"][::2] == [f"{many:.2f}", f"{82 - many:.2f}"] and rows["CIFAR-10"][3] == "82.00"
        assert rows["CIFAR-100"] == [f"{rising:.2f}", f"{truths.CELLS - PLACE:,}", f"{63.496 - rising:.2f}", "63.50"]
        assert rows["ImageNet16-120"] == [f"{falling:.2f}", f"{PLACE + 1:,}", f"{63.5 - falling:.2f}", "63.50"]


def test_json_has_fractions(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lookup", str(storage / "run"), "--truth", str(storage / "nats_bench.csv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["architecture"] == truths.string(PLACE) and found["rank_imagenet16_120"] == PLACE + 1
    assert found["cifar100"] == pytest.approx(truths.accuracies(PLACE)[1] / 100)
    assert found["regret_imagenet16_120"] == pytest.approx(4e-5 * PLACE)
    names = ("cifar10", "cifar100", "imagenet16_120")
    assert set(found) == {"architecture", *(f"{kind}{name}" for kind in ("", "rank_", "regret_") for name in names)}
