"""Everything that runs on a GPU, on GPUs that do nothing (tests/tools/nullgpu): pytest -m nullgpu."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from commands import ROOT, finish, start
from nullgpu import NullGpu

from dasgm.store.records import read_json

pytestmark = [pytest.mark.nullgpu, pytest.mark.timeout(900)]

SEARCH = [str(ROOT / "cluster" / "search.py"), "quickstart", "--gan=none", "--method.epochs=2", "--method.channels=2"]
SEARCH += ["--proxy.epochs=0", "--data.limit=200", "--batch-size=8", "--workers=2"]


PAIRS = [*product(("dasgm-darts", "dasgm-pdarts", "dasgm-pcdarts"), ("none", "biggan", "contragan", "stylegan2ada"))]
FIELD = (
    "betadarts",
    "sdarts-rs",
    "sdarts-adv",
    "gdas",
    "drnas",
    "dropnas",
    "rdarts",
    "sgas-cri1",
    "dartsminus",
    "fairdarts",
)
PAIRS += product((*(f"dasgm-{name}" for name in FIELD), "nasbench201-dasgm-darts"), ("none", "biggan"))


@pytest.mark.parametrize(("preset", "gan"), PAIRS)
def test_every_search_stays_on_its_device(preset: str, gan: str, null_gpu: NullGpu, tmp_path: Path) -> None:
    found = null_gpu("matrix.py", str(tmp_path), preset, gan)
    assert len(found) == 4 and not any(found.values()), found


def test_jobs_from_the_first_line_to_the_last(null_gpu: NullGpu, tmp_path: Path) -> None:
    found = null_gpu("jobs.py", str(tmp_path))
    assert found["codes"] == dict.fromkeys(("search", "pretrain", "frozen", "evaluate"), 0)
    assert found["model"] == "cuda:0"
    assert found["types"] == dict.fromkeys(("cifar", "imagenet"), ["torch.bfloat16", "torch.float32"])
    assert {read_json(tmp_path / name / "run.json")["device"] for name in found["codes"]} == {"cuda (null GPU)"}


def test_two_workers_with_a_gpu_each(null_gpu: NullGpu, tmp_path: Path) -> None:
    for rank, found in enumerate(null_gpu("workers.py", str(tmp_path), gpus=2)):
        assert found["timeouts"] == [30, 30] and found["agree"] == []
        assert found["messages"] == 1 and found["launches"] > 0
        assert found["device"] == [f"cuda:{rank}"]


@pytest.mark.parametrize(("gpus", "device"), [(2, "cuda (null GPU)"), (1, "cpu")])
def test_workers_of_ray_train_have_a_gpu_each_or_none(
    gpus: int, device: str, null_gpu: NullGpu, tmp_path: Path
) -> None:
    process = start(*SEARCH, "--storage", str(tmp_path), "--name", "run", **null_gpu.environment(gpus))
    code, out, error = finish(process)
    assert (code, error) == (0, ""), out + error
    about = read_json(tmp_path / "run" / "run.json")
    assert about["workers"] == 2 and about["device"].startswith(device), json.dumps(about)


def test_two_workers_on_one_gpu_are_refused(null_gpu: NullGpu, tmp_path: Path) -> None:
    process = start(*SEARCH, "--gpus=1", "--storage", str(tmp_path), **null_gpu.environment())
    code, _, error = finish(process)
    assert code == 2 and error.count("\n") == 1 and "NCCL cannot put two workers on one GPU" in error
