"""Devices: which one is taken, what is refused before work starts, and out of memory in every library's words."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from commands import ROOT

from cluster import connection, job
from cluster.driver import payload
from cluster.room import Workers
from dasgm.cli import main as cli
from dasgm.config import override
from dasgm.data import digits
from dasgm.device import device_of, is_out_of_memory
from dasgm.jobs.evaluate import in_memory
from dasgm.jobs.training import Training
from dasgm.presets import preset
from dasgm.recipes import EvaluateConfig
from dasgm.spaces.darts import KNOWN


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two GPUs, as far as torch tells; the list has those that became the current one."""
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    return taken


def test_the_gpu_that_is_named_is_the_current_one(gpus: list[int]) -> None:
    assert [device_of(name) for name in ("auto", "cuda", "cpu", "cuda:1")] == ["cuda", "cuda", "cpu", "cuda:1"]
    assert gpus == [1]


def test_a_gpu_that_is_not_there_is_refused(gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="device 'cuda:5': PyTorch finds 2 GPUs here, cuda:0 to cuda:1$"):
        device_of("cuda:5")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ValueError, match=f"device '{name}': PyTorch finds no such device here; use --device cpu"):
            device_of(name)


@pytest.mark.parametrize("name", ["cpu:1", "mps:1", "gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "", "meta", "x" * 999])
@pytest.mark.parametrize("words", [["search", "quickstart"], ["pretrain", "quickstart"], ["evaluate", "DARTS_V2"]])
def test_what_is_no_device_is_one_line(
    words: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*words, f"--device={name}", "--storage", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and "expected auto, cpu, cuda, cuda:N or mps" in line and len(line) < 200


def test_workers_do_not_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    for number, asked, says in (
        (2, 1.0, "2 workers on 1 GPUs: NCCL cannot put two workers on one GPU"),
        (3, 0.5, "3 workers on 0.5 GPUs"),
        (2, 3.0, "3 GPUs for 2 worker"),
    ):
        with pytest.raises(ValueError, match=says):
            job.workers_for(number, asked)
    for number, asked in ((1, 0.25), (2, 2.0), (2, 0.0), (2, 4.0)):
        assert job.workers_for(number, asked).gpus == asked / number
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(connection, "visible_gpus", lambda: 1)
    assert job.workers_for(2, None, 0.1).gpus == 0  # two do not fit on one


@pytest.mark.parametrize(
    ("device", "workers", "says"),
    [
        ("auto", Workers(2), ""),
        ("cpu", Workers(2, gpus=1.0), ""),
        ("cuda", Workers(2, gpus=1.0), ""),
        ("cuda", Workers(2), "the workers have no GPU"),
        ("cuda:0", Workers(1), "the workers have no GPU"),
        ("cuda:1", Workers(1, gpus=1.0), "Ray chooses each worker's GPU"),
        ("mps", Workers(2), "one worker"),
    ],
)
def test_a_device_that_workers_do_not_have_is_refused(device: str, workers: Workers, says: str) -> None:
    config = replace(preset("quickstart").config, device=device)
    if says:
        with pytest.raises(ValueError, match=says):
            job.ensure_device(config, workers)
    else:
        job.ensure_device(config, workers)


@pytest.mark.parametrize(
    ("asked", "reserved", "taken"), [("auto", 0.0, "cpu"), ("auto", 1.0, "auto"), ("cpu", 1.0, "cpu")]
)
def test_a_worker_without_a_gpu_of_its_own_takes_none(
    asked: str, reserved: float, taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    import ray.train

    monkeypatch.setattr(ray.train, "report", lambda row: None)
    config = override(preset("quickstart").config, {"device": asked})
    found: list[str] = []
    its = payload(config, tmp_path / "run", tmp_path, {}) | {"gpus": reserved, "driver": "a"}
    assert json.loads(its["config"])["device"] == asked
    assert job._work(its, type(config), lambda config, folder, hooks: found.append(config.device)) is None
    assert found == [taken]


def test_ray_hides_gpus_from_who_asks_for_none_and_a_private_one_stays_on_loopback() -> None:
    for name in ("gpu.yaml", "local.yaml"):
        commands = yaml.safe_load((ROOT / "cluster" / name).read_text())
        starts = [
            line
            for where in ("head_start_ray_commands", "worker_start_ray_commands")
            for line in commands[where]
            if "ray start" in line
        ]
        assert len(starts) == 2
        assert all("export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=1;" in line.split("ray start")[0] for line in starts)
    assert connection.QUIET["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] == "1"
    assert connection.PRIVATE["NCCL_SOCKET_IFNAME"] == connection.PRIVATE["GLOO_SOCKET_IFNAME"] == "lo"


OUT_OF_MEMORY = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cuFFT error: CUFFT_ALLOC_FAILED",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'",
    "MPS backend out of memory (MPS allocated: 17.94 GiB, other allocations: 1.23 GiB, max allowed: 18.13 GiB)",
    "[enforce fail at alloc_cpu.cpp:75] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4000000000000 bytes. Error code 12 (Cannot allocate memory)",
    "[enforce fail at alloc_cpu.cpp:115] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.",
    "unable to mmap 1048576 bytes from file </torch_1_2>: Cannot allocate memory (12)",
    "std::bad_alloc",
]


@pytest.mark.parametrize("words", OUT_OF_MEMORY)
def test_out_of_memory_in_every_librarys_words(words: str) -> None:
    assert is_out_of_memory(RuntimeError(words))


def test_what_judges_a_generator_computes_without_tf32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dasgm.measures import fidelity, judge
    from dasgm.search import Search

    for module, name, n in ((judge, "ITERATIONS", 2), (fidelity, "JUDGED", 20)):
        monkeypatch.setattr(module, name, n)
    changes = {"gan.channels": 2, "data.limit": 100, "batch_size": 8, "method.channels": 2}
    config, seen = override(preset("quickstart").config, changes), set[bool]()
    data = config.data.load()
    its = judge.judge(data, tmp_path)
    conv = next(module for module in its.network.modules() if isinstance(module, torch.nn.Conv2d))
    conv.register_forward_hook(lambda *_: seen.add(torch.backends.cudnn.allow_tf32))
    its.measure(data.raw(data.J2[:8]), data.labels[data.J2[:8]], data)
    assert seen == {False}
    seen.clear()
    fidelity.Fidelity(config, data, Search(config, data).gan, its).proxy()
    assert seen == {False} and torch.backends.cudnn.allow_tf32


def test_out_of_memory_for_real_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError())
    assert is_out_of_memory(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    for other in (RuntimeError("CUDA error: device-side assert triggered"), OSError(errno.ENOSPC, "full")):
        assert not is_out_of_memory(other)
    monkeypatch.setitem(cli.VERBS, "draw", lambda argv: torch.empty(2**58, dtype=torch.uint8))
    with pytest.raises(SystemExit) as end:
        cli.main(["draw"])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 1 and line.startswith("error: out of memory: ") and line.endswith("choose smaller sizes")


@pytest.mark.parametrize(("precision", "tf32"), [("float32", False), ("auto", False), ("bfloat16", True)])
def test_float32_is_no_tf32_and_errors_are_counted_so(precision: str, tf32: bool) -> None:
    """PyTorch allows TF32 in convolutions unless told otherwise. auto: on a CPU."""
    config = EvaluateConfig(data=digits.Config(limit=100), cells=3, channels=2, batch_size=8, precision=precision)
    data, seen = config.data.load(), set[bool]()
    training = Training(KNOWN["DARTS_V2"], config, len(data.classes), "cpu", 0)
    for module in training.network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda *_: seen.add(torch.backends.cudnn.allow_tf32))
            module.weight.register_hook(lambda _: seen.add(torch.backends.cudnn.allow_tf32))
    batches = in_memory(data, config)
    x, y = next(batches.training(0))
    assert torch.backends.cudnn.allow_tf32
    training.step(x, y, 0, 0)
    assert seen == {tf32}
    seen.clear()
    training.counts(batches)
    assert seen == {False} and torch.backends.cudnn.allow_tf32
