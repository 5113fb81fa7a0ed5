"""A run's folder: exact resume after any kill, refusals, locks. The real command, killed for real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import finish, start, wait_for
from outcomes import rows_of
from patience import rest
from warm import Command, Warm

from dasgm.config import override
from dasgm.jobs import inspection, session
from dasgm.jobs import search as search_job
from dasgm.measures.judge import collapse
from dasgm.presets import preset
from dasgm.search import SearchFailed
from dasgm.store.records import read_lines
from dasgm.store.run import Run, state_of

SMALL = [
    "--method.epochs=3",
    "--proxy.epochs=1",
    "--gan.warmup=3",
    "--gan.channels=4",
    "--gan.shared-dim=8",
    "--data.limit=300",
    "--pictures-every=2",
    "--method.channels=2",
    "--proxy.channels=4",
    "--val-portion=0.3",
]


@pytest.fixture
def storage(undisturbed, tmp_path) -> Path:
    """A fresh one, but for the judge, which every search with these data shares."""
    (tmp_path / "cache").mkdir()
    for judge in (undisturbed.parent / "cache").glob("judge-*.safetensors"):
        shutil.copy(judge, tmp_path / "cache")
    return tmp_path


def words(storage: Path) -> list[str]:
    """The command, small."""
    return ["-m", "dasgm", "search", "quickstart", "--storage", str(storage), "--name", "run", *SMALL]


@pytest.fixture
def search(warm: Warm, storage: Path) -> Callable[..., Command]:
    """Begins it, with more words."""
    return lambda *more: warm.start(*words(storage), *more)


def results(folder: Path) -> dict[str, object]:
    """All that must not depend on where a run was interrupted."""
    state = Run(folder).load()
    assert state is not None
    return {
        "metrics": rows_of(folder),
        "alphas": read_lines(folder / "alphas.jsonl"),
        "genotype": json.loads((folder / "genotype.json").read_text()),
        "A": {k: v.tolist() for k, v in state["search"]["A"]["module"].items()},
        "B": {k: v.tolist() for k, v in state["search"]["B"]["module"].items()},
        "pictures": sorted(p.name for p in (folder / "pictures").iterdir()),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    storage = tmp_path_factory.mktemp("undisturbed")
    code, out, err = finish(start(*words(storage)))
    assert code == 0, err
    return storage / "run"


def test_run_folder_has_what_was_promised(undisturbed):
    for name in ("config.json", "run.json", "metrics.jsonl", "genotype.json", "report.html"):
        assert (undisturbed / name).is_file(), name
    rows = read_lines(undisturbed / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 3] and rows[-1]["phase"] == "best"
    for key in (
        *(f"loss/{name}" for name in ("classifier", "generator", "discriminator", "architecture")),
        *("val/accuracy", "gan/synthetic_accuracy", "arch/entropy_normal", "arch/skips_reduce", "grad/B"),
        "grad/rms_images",
    ):
        assert key in rows[1], key
    assert {"best/proxy", "best/proxy_error", "best/naswot", "cost/gpu_hours"} <= set(rows[-1])
    about = Run(undisturbed).about
    assert about["state"] == "finished" and about["threads"] == 1 and "cpu" in about["device"]
    assert len(Run(undisturbed).checkpoints()) <= 4  # the last two, the best, and the proxy's
    assert (undisturbed / "pictures" / "samples-000.png").is_file()


def test_killed_search_goes_on_to_the_same_bits(undisturbed, storage, search):
    """Three times, in its warm-up, its first epoch and its last short training; the last checkpoint is torn besides."""
    folder = storage / "run"
    for moment in (
        lambda: list((storage / "cache").glob("gan-*.lock")),
        lambda: (folder / "alphas.jsonl").exists(),
        lambda: len(read_lines(folder / "metrics.jsonl")) >= 3,
    ):
        process = search()
        wait_for(process, moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert state_of(folder) == "interrupted"
    last = Run(folder).checkpoints()[-1]
    last.write_bytes(last.read_bytes()[:1000])
    code, out, err = finish(search())
    assert code == 0, err
    assert sum("is torn; going on from the one before" in line for line in out.splitlines()) == 1
    assert results(folder) == results(undisturbed)


def test_first_ctrl_c_saves_and_says_how_to_go_on(undisturbed, storage, search):
    folder = storage / "run"
    process = search()
    wait_for(process, lambda: len(read_lines(folder / "metrics.jsonl")) >= 1)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert code == 130 and " -m dasgm search quickstart" in out.partition("To continue: ")[2] and not err, (
        code,
        out[-300:],
        err,
    )
    code, out, err = finish(search())
    assert code == 0 and "going on after epoch" in out, err
    assert results(folder) == results(undisturbed)


def test_ctrl_c_in_the_warm_up_keeps_it(storage, search):
    process = search("--gan.warmup=100000")
    wait_for(process, lambda: list((storage / "cache").glob("gan-*.lock")))
    rest(1)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert code == 130 and f"stopped; everything is saved in {storage / 'run'}. To continue: " in out and not err, (
        code,
        out[-300:],
        err,
    )
    assert list((storage / "cache").glob("gan-*.part"))


def test_second_ctrl_c_ends_at_once_and_the_run_goes_on_all_the_same(undisturbed, storage, search):
    process = search("--gan.warmup=100000")
    wait_for(process, lambda: list((storage / "cache").glob("gan-*.lock")))
    rest(1)
    os.kill(process.pid, signal.SIGSTOP)  # so that it cannot answer the first before the second comes
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)
    code, out, err = finish(process)
    assert code == 130 and "Traceback" not in err, (code, err)
    assert state_of(storage / "run") == "interrupted"


def test_finished_run_called_again_prints_its_result_and_more_epochs_continue(undisturbed, storage, search):
    shutil.copytree(undisturbed.parent, storage, dirs_exist_ok=True)
    before = (storage / "run" / "metrics.jsonl").read_bytes()
    code, out, err = finish(search())
    assert code == 0 and "finished" in out and (storage / "run" / "metrics.jsonl").read_bytes() == before
    code, out, err = finish(search("--method.epochs=4"))
    assert code == 0, err
    rows = read_lines(storage / "run" / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 4]
    code, out, err = finish(search("--arch-lr=0.5"))
    assert code == 2 and "arch_lr" in err and len(err.strip().splitlines()) == 1


def test_a_finished_run_without_its_checkpoints_keeps_its_results(undisturbed, storage, search):
    shutil.copytree(undisturbed, storage / "run")
    shutil.rmtree(storage / "run" / "checkpoints")
    record, metrics = ((storage / "run" / name).read_bytes() for name in ("run.json", "metrics.jsonl"))
    code, out, err = finish(search())
    assert code == 2 and err.startswith("error: ") and len(err.splitlines()) == 1
    assert "is finished, and its checkpoints are gone" in err and "use another --name" in err
    assert (storage / "run" / "run.json").read_bytes() == record
    assert (storage / "run" / "metrics.jsonl").read_bytes() == metrics


def test_an_unfinished_run_without_its_checkpoints_says_that_it_begins_anew(undisturbed, tmp_path):
    (tmp_path / "metrics.jsonl").write_text((undisturbed / "metrics.jsonl").read_text().splitlines()[0] + "\n")
    said: list[str] = []
    assert Run(tmp_path).load(said.append) is None
    assert said == [f"no checkpoint is left in {tmp_path}; beginning anew"]
    (tmp_path / "metrics.jsonl").unlink()
    assert Run(tmp_path).load(pytest.fail) is None


def test_second_command_on_a_folder_is_refused_and_a_dead_lock_taken_over(storage, search):
    run = Run(storage / "run")
    for held in (run, run.driven()):  # the second by a driver whose workers are to come
        with held:
            code, out, err = finish(search())
            assert code == 2 and f"process {os.getpid()} on " in err and len(err.strip().splitlines()) == 1, err
    (storage / "run" / "lock").write_text("process 1 on a machine long gone")
    with Run(storage / "run") as run:
        assert run.busy
    assert not Run(storage / "run").busy


def test_nan_is_named_and_ends_the_run_as_failed(storage, search):
    code, out, err = finish(search("--classifier-lr=1e30", "--classifier-clip=1e30"))
    assert code == 1 and len(err.strip().splitlines()) == 1, err
    assert "epoch 1, stage 1 (classifier)" in err or "epoch 1, stage 4 (architecture)" in err, err
    about = Run(storage / "run").about
    assert about["state"] == "failed" and "stage" in about["reason"]


def test_collapsed_generator_is_named_and_ends_the_run_as_failed(storage, monkeypatch):
    """Its images of one class, from epoch 0 on, are one picture to the eye."""

    def collapsed(gan, G, labels, seed):
        noise = torch.rand(len(labels), 3, 16, 16, generator=torch.Generator().manual_seed(0))
        return 0.3 * (labels - 4.5).view(-1, 1, 1, 1) / 4.5 + 0.01 * noise

    monkeypatch.setattr(inspection, "sample", collapsed)
    small = {"method.epochs": 4, "method.channels": 2, "gan.channels": 2, "gan.warmup": 0, "data.limit": 300}
    small |= {"order": "first", "method.arch_start_epoch": 9}  # how W and A are trained does not matter
    config = override(preset("quickstart").config, small)
    with pytest.raises(SearchFailed, match=r"^epoch 3: the generator has collapsed: .* \d\.\d %"):
        search_job.main(config, storage / "run", search_job.Hooks(say=lambda line: None))
    about, rows = Run(storage / "run").about, read_lines(storage / "run" / "metrics.jsonl")
    assert about["state"] == "failed" and "lower --gan.generator-lr" in about["reason"]
    assert [row["epoch"] for row in rows] == [1, 2, 3], "two epochs to get going; the last is on the page"
    assert "the generator has collapsed" in (storage / "run" / "report.html").read_text()


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device")], ids=repr)
def test_why_a_run_failed_is_told_without_its_page_too(storage, monkeypatch, error):
    def without_room(folder):
        raise error

    monkeypatch.setattr(session, "write_report", without_room)
    said = []
    small = {"method.channels": 2, "gan": "none", "data.limit": 300, "classifier_lr": 1e30, "classifier_clip": 1e30}
    with pytest.raises(SearchFailed, match="^epoch 1, stage "):
        search_job.main(
            override(preset("quickstart").config, small), storage / "run", search_job.Hooks(say=said.append)
        )
    assert said[-1].startswith("how it ended is not written down: ") and Run(storage / "run").about["state"] == "failed"


@pytest.mark.parametrize("epoch, diversity, ends", [(2, 0.0, False), (3, 0.049, True), (3, 0.05, False), (9, 0, True)])
def test_collapse_counts_below_a_twentieth_and_after_two_epochs(epoch, diversity, ends):
    assert bool(collapse(epoch, diversity)) == ends and not collapse(9, float("nan"))


def test_out_of_memory_is_one_line_that_says_what_fits(tmp_path):
    """For real: the process may take 150 MB more than it has when the search begins."""
    code = """
import resource, sys, torch
from pathlib import Path
from dasgm import search
from dasgm.jobs import search as search_job
from dasgm.pages import report
from dasgm.measures import judge
from dasgm.config import override
from dasgm.presets import preset
config = override(preset("quickstart").config, {"gan": "none", "batch_size": 256, "method.channels": 16})
search.Search(override(config, {"batch_size": 2, "method.channels": 2}), config.data.load(None)).iterate()
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 150 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    search_job.main(config, Path(sys.argv[1]))
except search.SearchFailed as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
    )
    said = done.stdout.strip().splitlines()[-1]
    assert said.startswith("out of memory: batch 256, 3 cells and 16 channels do not fit; batch "), done.stderr[-2000:]
    assert "--batch-size" in said and Run(tmp_path / "run").about["state"] == "failed"
