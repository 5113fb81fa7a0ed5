"""--gpus-per-trial auto: how many searches share a GPU, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import ROOT, finish, start
from nullgpu import NullGpu

from cluster import connection
from cluster.room import Workers
from dasgm.config import override
from dasgm.presets import preset
from tuning import sharing, sweep
from tuning.sharing import gpus_per_search, searches_per_gpu, share_of

GIB = 2**30
CONFIG = preset("dasgm-darts").config


@pytest.mark.parametrize(
    ("peak", "free", "number"),
    [(4.7, 24, 3), (8.1, 24, 2), (4.7, 80, 11), (8.1, 80, 7), (8.1, 139, 12), (8.1, 11, 1), (8.1, 8, 1)],
)
def test_as_many_share_a_gpu_as_fit_with_a_margin(peak, free, number):
    """Peaks of the paper's searches, first order without a GAN and second order with BigGAN, on GPUs that there are."""
    assert searches_per_gpu(int(peak * GIB), free * GIB, 99) == number
    assert searches_per_gpu(int(peak * GIB), free * GIB, 2) == min(number, 2)
    assert number == 1 or number * (peak + 0.6) < 0.9 * free  # CUDA's own: some hundred MiB for each


@pytest.mark.parametrize("number", range(1, 13))
def test_rays_shares_are_those_of_so_many(number):
    share = share_of(number)
    assert round(share, 4) == share and share * number <= 1
    assert Workers(1, share).slots(cpus=64, gpus=2) == 2 * number


def test_the_choice_is_said_in_a_line(monkeypatch):
    peaks = {"none": 4.7, "biggan": 8.1}
    configs = [override(CONFIG, {"gan": "none"}), CONFIG]
    monkeypatch.setattr(connection, "visible_gpus", lambda: 2)
    monkeypatch.setattr(
        sharing, "_measured", lambda config, pretrain: (int(GIB * peaks["biggan" if config.gan else "none"]), 24 * GIB)
    )
    share, line = gpus_per_search(configs, 1, 16, False)
    assert share == 0.5 and line == (
        "gpus-per-trial auto: 0.5, 2 searches share a GPU: one takes 8.10 GiB (measured; with a margin 11.12), "
        "24.0 GiB are free, 8 may run at once on each"
    )
    assert gpus_per_search(configs[:1], 1, 16, False)[0] == 0.3333
    assert gpus_per_search(configs[:1], 1, 4, False)[0] == 0.5  # no more than there are
    share, line = gpus_per_search(configs, 1, 2, False)
    assert share == 1 and "a GPU for each of the 2 searches" in line
    share, line = gpus_per_search(configs, 2, 16, False)
    assert share is None and "NCCL" in line
    share, line = gpus_per_search([override(CONFIG, {"device": "cpu"})], 1, 16, False)
    assert share == 0 and line == "gpus-per-trial auto has no effect: the device is cpu"
    monkeypatch.setattr(connection, "visible_gpus", lambda: 0)
    share, line = gpus_per_search(configs, 1, 16, False)
    assert share == 0 and line == "gpus-per-trial auto has no effect: this machine has no GPU"


def test_a_search_that_does_not_fit_has_a_gpu_of_its_own(monkeypatch):
    def full(config, pretrain):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(connection, "visible_gpus", lambda: 1)
    monkeypatch.setattr(sharing, "_measured", full)
    assert gpus_per_search([CONFIG], 1, 4, False)[0] == 1
    monkeypatch.setattr(sharing, "_measured", lambda *_: (_ for _ in ()).throw(RuntimeError("no kernel image")))
    with pytest.raises(connection.Failed, match=r"nothing was measured \(no kernel image\); give a number"):
        gpus_per_search([CONFIG], 1, 4, False)


def test_what_cannot_be_measured_is_refused(monkeypatch, capsys, tmp_path):
    words = ["--gpus-per-trial=auto", "--dry-run", "--dataset=digits", f"--storage={tmp_path}"]
    with pytest.raises(SystemExit) as end:
        sweep.main([*words, "--space=tuning.spaces:gans"])
    assert end.value.code == 2 and "what tuning.spaces:gans proposes; give a number" in capsys.readouterr().err
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ValueError, match="the searches run on the cluster at RAY_ADDRESS; give a number"):
        gpus_per_search([CONFIG], 1, 4, False)


@pytest.mark.nullgpu
def test_a_sweep_measures_on_a_gpu_before_it_begins(null_gpu: NullGpu, tmp_path: Path) -> None:
    words = ["--dataset=digits", "--gan=none", "--method.epochs=2", "--method.channels=2", "--batch-size=8"]
    words += ["--data.limit=200", "--proxy.epochs=1", "--proxy.channels=4", "--num-trials=6", "--max-concurrent=2"]
    words += [f"--storage={tmp_path}", "--dry-run", "--gpus-per-trial=auto"]
    code, out, err = finish(start(str(ROOT / "tuning" / "sweep.py"), *words, **null_gpu.environment(mib=8192)))
    assert (code, err) == (0, ""), err
    (line,) = [line for line in out.splitlines() if line.startswith("gpus-per-trial auto: ")]
    assert "auto: 0.5, 2 searches share a GPU: one takes 0." in line and "8.0 GiB are free" in line, line
