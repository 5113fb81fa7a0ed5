"""A search that is killed or stopped within its GAN's warm-up or its proxy goes on there, to the same bits."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from buckets import Server, serve
from forked import begin, said
from outcomes import rows_of
from patience import until
from warm import Command, Warm

from dasgm.config import override
from dasgm.jobs.session import Interrupted
from dasgm.jobs.warmup import warm_up
from dasgm.presets import preset
from dasgm.search import Search
from dasgm.store.bucket import local
from dasgm.store.files import version
from dasgm.store.run import Run, state_of
from dasgm.store.tensors import packed, unpacked

SMALL: dict[str, Any] = {
    "method.epochs": 1,
    "method.arch_start_epoch": 9,
    "method.channels": 2,
    "threads": 1,
    "pictures_every": 9,
}
SMALL |= {"data.limit": 200, "data.holdout": 0.2, "batch_size": 16}
WITH_GAN = SMALL | {"gan.channels": 4, "gan.shared_dim": 8, "gan.z_dim": 24, "gan.warmup": 40, "proxy.epochs": 0}
WITH_PROXY = SMALL | {"gan": "none", "proxy.epochs": 4, "proxy.channels": 4, "proxy.cells": 3, "proxy.batch_size": 8}
SECONDS = {"no number of seconds": math.nan, "endless seconds": math.inf, "negative seconds": -1.0}


@pytest.fixture(scope="module")
def undisturbed(warm_process: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search with a GAN, and one with a proxy."""
    storage = tmp_path_factory.mktemp("undisturbed")
    for name, overrides in (("gan", WITH_GAN), ("proxy", WITH_PROXY)):
        assert begin(warm_process, overrides, storage / name).wait() == 0, said(storage / name)
    return storage


@pytest.fixture
def storage(undisturbed: Path, tmp_path: Path) -> Path:
    """A fresh one, but for the judge."""
    shutil.copytree(undisturbed / "cache", tmp_path / "cache", ignore=shutil.ignore_patterns("gan-*"))
    return tmp_path


def tensors(state: Any) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    inside = state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()
    return [t for one in inside for t in tensors(one)]


def same(folder: Path, other: Path) -> bool:
    """Whether two runs ended with the same bits: tensors, rows and genotype."""
    states = [Run(place).load() or {} for place in (folder, other)]
    pairs = list(zip(*(tensors([state["search"], state.get("proxy")]) for state in states), strict=True))
    rows = [rows_of(place) for place in (folder, other)]
    found = [(place / "genotype.json").read_text() for place in (folder, other)]
    return all(torch.equal(a, b) for a, b in pairs) and rows[0] == rows[1] and found[0] == found[1] and len(pairs) > 10


def part(storage: Path) -> Path:
    """Where the warm-up is kept as long as it is no whole."""
    return next((storage / "cache").glob("gan-*.part"), storage / "none")


def end(search: Command, moment: Callable[[], Any], number: int) -> int | None:
    """Send a search the signal at a moment; its exit code."""
    until(moment, 0.005)
    search.send_signal(number)
    return search.wait()


def test_a_warm_up_goes_on_after_each_kill_and_stop(warm: Warm, undisturbed: Path, storage: Path) -> None:
    run = storage / "gan"
    for number, code in ((signal.SIGKILL, -9), (signal.SIGKILL, -9), (signal.SIGINT, 130)):
        before = version(part(storage))
        search = begin(warm, WITH_GAN, run)
        assert end(search, lambda before=before: version(part(storage)) != before, number) == code, said(run)
        assert state_of(run) == "interrupted"
        assert {path.suffix for path in (storage / "cache").glob("gan-*")} == {".lock", ".part"}
    done = unpacked(part(storage))
    assert begin(warm, WITH_GAN, run).wait() == 0, said(run)
    assert same(run, undisturbed / "gan")
    begun = [int(line.split()[-3]) for line in said(run) if line.startswith("GAN warm-up: going on after iteration")]
    assert len(begun) == 3 and 0 < begun[0] < begun[1] < begun[2] == done["iteration"] < 40
    assert said(run).count("stopped, nothing begins anew") == 1 and not part(storage).exists()
    assert Run(run).rows()[-1]["cost/warmup_gpu_hours"] * 3600 > done["seconds"] > 0  # of all parts together


def test_another_search_takes_over_the_warm_up_of_one_that_is_killed(
    warm: Warm, undisturbed: Path, storage: Path
) -> None:
    first = begin(warm, WITH_GAN, storage / "first")
    until(lambda: part(storage).exists(), 0.005)
    second = begin(warm, WITH_GAN, storage / "gan")
    until(lambda: any(line.startswith("judge: ") for line in said(storage / "gan")))  # before it waits
    before = version(part(storage))
    assert end(first, lambda: version(part(storage)) != before, signal.SIGKILL) == -9
    assert second.wait() == 0, said(storage / "gan")
    assert any(line.startswith("GAN warm-up: going on after iteration") for line in said(storage / "gan"))
    assert same(storage / "gan", undisturbed / "gan")


@pytest.mark.parametrize("torn", ["cut", "empty", "no warm-up", "beyond the end", "endless", *SECONDS])
def test_a_torn_part_of_a_warm_up_is_begun_anew(tmp_path: Path, torn: str) -> None:
    config = override(preset("quickstart").config, WITH_GAN | {"gan.warmup": 4})
    data = config.data.load(None)
    whole = Search(config, data)
    warm_up(whole, tmp_path / "whole", lambda line: None)
    with pytest.raises(Interrupted):
        warm_up(Search(config, data), tmp_path / "cache", lambda line: None, stop=[2])
    path, content = part(tmp_path), part(tmp_path).read_bytes()
    changed = {"cut": content[: len(content) // 2], "empty": b"", "no warm-up": packed({"iteration": 1})}
    entries = {"beyond the end": {"iteration": 5}, "endless": {"iteration": math.inf}}
    entries |= {name: {"seconds": value} for name, value in SECONDS.items()}
    path.write_bytes(changed[torn] if torn in changed else packed(unpacked(path) | entries[torn]))
    said: list[str] = []
    search = Search(config, data)
    warm_up(search, tmp_path / "cache", said.append)
    assert "it is torn or none of ours" in said[0] and str(path) in said[0] and said[0].endswith("; it is begun anew")
    assert said[1:] == ["GAN warm-up: 4 iterations on J_2, once for all searches with this GAN"] and not path.exists()
    pairs = zip(tensors(search.state_dict()), tensors(whole.state_dict()), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


server = pytest.fixture(scope="module")(serve)


def test_a_warm_up_goes_on_on_another_machine_from_object_storage(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def machine(name: str) -> None:
        for variable, value in server.machine(tmp_path / name).items():
            monkeypatch.setenv(variable, value)

    config = override(preset("quickstart").config, WITH_GAN | {"gan.warmup": 3})
    data, said = config.data.load(None), list[str]()
    machine("a")
    with pytest.raises(Interrupted):
        warm_up(Search(config, data), local("s3://bucket/warm/cache"), lambda line: None, stop=[2])
    assert [name.rpartition(".")[2] for name in server.names("warm/cache/")] == ["part"]
    machine("b")
    search = Search(config, data)
    seconds = warm_up(search, local("s3://bucket/warm/cache"), said.append)
    assert said == ["GAN warm-up: going on after iteration 1 of 3"] and seconds > 0
    (whole,) = filter(None, server.names("warm/cache/"))
    assert not whole.endswith(".part")
    machine("a")
    found = Search(config, data)
    assert warm_up(found, local("s3://bucket/warm/cache"), said.append) == seconds and len(said) == 1
    assert not list(local("s3://bucket/warm/cache").glob("*.part")), "what this machine had kept"
    pairs = zip(tensors(search.state_dict()), tensors(found.state_dict()), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def of_proxy(run: Path) -> list[str]:
    """The names of the checkpoints that were written within the proxy."""
    return [path.name for path in Run(run).checkpoints() if path.name.endswith(".proxy.safetensors")]


def test_a_proxy_goes_on_after_its_last_whole_epoch(warm: Warm, undisturbed: Path, storage: Path) -> None:
    run = storage / "proxy"
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        before = of_proxy(run)
        search = begin(warm, WITH_PROXY, run)
        assert end(search, lambda before=before: of_proxy(run) != before, number) == code, said(run)
        assert state_of(run) == "interrupted" and [row["phase"] for row in Run(run).rows()] == ["search 1"]
    assert begin(warm, WITH_PROXY, run).wait() == 0, said(run)
    begun = [int(line.split()[-3]) for line in said(run) if line.startswith("proxy: going on after epoch")]
    assert len(begun) == 2 and 0 < begun[0] < begun[1] <= 4
    assert any(line.startswith("stopped, epoch ") and " of the proxy begins anew" in line for line in said(run)) or (
        "stopped, nothing begins anew" in said(run)  # between two epochs
    )
    assert same(run, undisturbed / "proxy")
    # of a longer search the proxy is another, for what that has found
    assert begin(warm, WITH_PROXY | {"method.epochs": 2}, run).wait() == 0, said(run)
    assert sum(line.startswith("proxy: going on") for line in said(run)) == 2
    assert [(row["epoch"], row["phase"]) for row in Run(run).rows()] == [(1, "search 1"), (2, "search 1"), (2, "best")]
    numbers = [(int(path.name[:9]), path.name.count(".")) for path in Run(run).checkpoints()]
    assert numbers == [(5, 1), (10, 1), (10, 2)], "two of the search, by its iterations, and the last of the proxy"


def test_a_proxy_leaves_the_searchs_checkpoints_and_its_torn_one_is_said(
    warm: Warm, undisturbed: Path, storage: Path
) -> None:
    run = storage / "proxy"
    assert end(begin(warm, WITH_PROXY, run), lambda: of_proxy(run), signal.SIGKILL) == -9
    of_search, torn = Run(run).checkpoints()
    assert of_search.name[:9] == torn.name[:9] == "000000005" and [torn.name] == of_proxy(run)
    torn.write_bytes(torn.read_bytes()[:-1])
    assert begin(warm, WITH_PROXY, run).wait() == 0, said(run)
    assert f"checkpoint {torn.name} is torn; going on from the one before" in said(run)
    assert not any(line.startswith("proxy: going on") for line in said(run))
    assert same(run, undisturbed / "proxy") and Run(run).checkpoints()[0] == of_search
    assert begin(warm, WITH_PROXY, run).wait() == 0 and len(Run(run).rows()) == 2, said(run)


def test_checkpoints_are_kept_and_ordered_by_what_they_are_of(tmp_path: Path) -> None:
    run, kept = Run(tmp_path), list[tuple[int, str]]()
    for i in range(40):  # so many, that the digits of some come in the other order
        run.save({"n": i}, 7, 1, best=False)
        run.save({"n": -i}, 7, 1, best=False, part="proxy")
        *_, last = run.checkpoints()
        assert last.name.endswith(".proxy.safetensors") and (run.load() or {})["n"] == -i
        for path in run.checkpoints():
            path.unlink()
    for iteration, part in ((1, ""), (2, ""), (3, ""), (3, "proxy"), (3, "proxy"), (3, "proxy")):
        run.save({"n": len(kept)}, iteration, 2, best=iteration == 1, part=part)
        kept = [(int(path.name[:9]), path.name.count(".")) for path in run.checkpoints()]
    assert kept == [(1, 1), (2, 1), (3, 1), (3, 2)] and (tmp_path / "checkpoints" / "best").is_file()
    run.save({"n": 9}, 4, 2, best=False)  # it went on: the proxy was of what it had found by then
    assert [int(path.name[:9]) for path in run.checkpoints()] == [1, 3, 4]
