"""The GPU path, on a GPU that does nothing (tests/tools/nullgpu): devices, launches, synchronisations, full memory."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import finish, start
from nullgpu import NullGpu, missing

MOST = {"first order": 5_800, "second order": 11_600, "with BigGAN": 14_200}
"""Kernels that an iteration of the preset dasgm-darts launches, at most. Who lowers the number lowers the bound."""
MOST_OF_EVALUATION = 4_850
"""Kernels that a training step of the CIFAR recipe launches, at most."""


@pytest.fixture(scope="module")
def found(null_gpu: NullGpu, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return null_gpu("plain.py", str(tmp_path_factory.mktemp("runs")), gpus=3, old=2)


def test_where_the_null_gpu_cannot_be_built_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for whose, name, value, says in (
        (torch, "__version__", "2.99.0", "2.99.0"),
        (torch.version, "cuda", None, "CUDA build"),
        (platform, "system", lambda: "Darwin", "not for Darwin"),
    ):
        monkeypatch.setattr(whose, name, value)
        assert says in missing()
    monkeypatch.undo()
    before = missing()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert before or missing() == "the null GPU needs g++, gcc, nm"


def test_the_null_gpu_tells_what_a_graph_cannot_hold(found: Any) -> None:
    tool = found["tool"]
    assert tool["kernel"] == tool["pinned copy"] == tool["while another graph is freed"] == ""
    assert "operation not permitted when stream is capturing" in tool["item"]
    assert "unless the CPU tensor is pinned" in tool["copy"]


def test_all_players_are_on_the_gpu(found: Any) -> None:
    assert all(step["devices"] == ["cuda:0"] for step in found["steps"].values())


@pytest.mark.parametrize("name", MOST)
def test_launches_of_an_iteration_are_bounded(name: str, found: Any) -> None:
    assert 0.8 * MOST[name] < found["steps"][name]["launches"] <= MOST[name]


def test_an_iteration_never_waits_for_the_device(found: Any) -> None:
    """Its draws reach the device in one copy of pinned memory."""
    for step in found["steps"].values():
        assert step["lines"] == {} and step["sync"] == step["d2h"] == step["pageable"] == 0
        assert step["h2d"] == 1


def test_a_graph_holds_every_kernel_of_an_iteration(found: Any) -> None:
    for name, step in found["graphs"].items():
        assert step["graph"] == 1 and step["graphs"] == step["kinds"] and step["sync"] == step["pageable"] == 0
        assert step["h2d"] == 1, name
        assert step["blas"] == step["dnn"] == 0
        assert step["launch"] == 0 or "P-DARTS" in name and step["launch"] < 200, "the masks of its dropout"
        iteration, W, A, G, E, B = step["counts"]
        more = step["kinds"] - 1  # with R1, G begins after a step, and E takes two more
        assert iteration == W == A == 3 * step["kinds"] + 2
        assert (0 if name in ("first order", "second order") else W + more) == G
        assert (G and W + 2 * more) == E and (W if name == "with BigGAN" else 0) == B
        assert step["elsewhere"] == [], "a graph would read and write memory that others have by then"


def test_a_step_of_an_evaluation_never_waits_and_a_graph_holds_it(found: Any) -> None:
    batch, plain, graph = (found["evaluation"][name] for name in ("batch", "off", "on"))
    assert batch["lines"] == {} and batch["sync"] == batch["d2h"] == batch["pageable"] == 0
    assert batch["h2d"] == 1, "the indices and the draws of the augmentation"
    for step in (plain, graph):
        assert step["lines"] == {} and step["sync"] == step["d2h"] == step["pageable"] == 0 and step["steps"] == 5
        assert step["h2d"] == 1, "the draws of drop-path"
    assert 0.8 * MOST_OF_EVALUATION < plain["launches"] <= MOST_OF_EVALUATION
    assert graph["graph"] == 1 and graph["launches"] == 1, "a batch is laid out channels last before it"


def test_a_graph_outlasts_the_epoch_whose_numbers_it_was_recorded_with(found: Any) -> None:
    """The learning rate, P-DARTS's dropout, R-DARTS's drop path and cutout, which are other ones in the next epoch."""
    for name, epochs in found["epochs"].items():
        (lr, skips, paths, cutout), (later, *others) = epochs["numbers"]
        assert lr > later and (skips > others[0] > 0 if name == "P-DARTS" else skips == others[0] == 0)
        if name == "R-DARTS":
            assert 0 < paths < others[1] and 0 < cutout < others[2] < 1
        else:
            assert (paths, cutout) == tuple(others[1:]) == (0, 1)
        assert epochs["recorded"] == 1


def test_a_graph_takes_no_second_iterations_memory(found: Any) -> None:
    """Beside an iteration's: cuBLAS's workspace for the stream of the recording (64 MiB), and gaps."""
    for epochs in found["epochs"].values():
        assert epochs["peak"]["on"] - epochs["peak"]["off"] < 100 * 2**20 < epochs["peak"]["off"]


def test_where_no_graph_is_possible_the_reason_is_told(found: Any) -> None:
    reasons = {
        "waits": "the iteration cannot be recorded: CUDA error: operation not permitted when stream is capturing",
        "draws": "something draws random numbers without dasgm.bilevel.draw",
        "unknown": "the GAN does not say which losses an iteration takes (Gan.phase)",
    }
    for kind, reason in reasons.items():
        taken, said = found["without graphs"][f"{kind}, auto"]
        assert taken == 4 and said == f"cuda-graph auto: iterations are taken without a graph: {reason}"
        (taken, said) = found["without graphs"][f"{kind}, on"]
        assert taken < 4 and said == f"{taken}: cuda-graph on: {reason}; use --cuda-graph auto or off"


@pytest.mark.parametrize("verb", ["search", "pretrain", "evaluate"])
def test_a_gpu_that_is_not_there_is_one_line(verb: str, found: Any) -> None:
    assert found["no device"][verb] == [
        2,
        "error: device 'cuda:5': PyTorch finds 3 GPUs here, cuda:0 to cuda:2\n",
    ]


def test_bfloat16_is_refused_where_a_gpu_lacks_it(found: Any) -> None:
    says = "error: precision bfloat16: cuda:2 (null GPU) does not compute in it; choose --precision auto or float32\n"
    assert found["no bfloat16"] == [2, says]


def test_another_gpu_than_the_first_is_measured_and_the_first_left_alone(found: Any) -> None:
    """Its peak is what the estimate used, not the 8 GiB that were there before."""
    second = found["second"]
    assert second["device"] == "cuda:1 (null GPU)" and second["elsewhere"] == 0
    assert 2**20 < second["peak"] < 2**32


def test_what_fits_is_named_where_memory_does_not_suffice(found: Any) -> None:
    code, said = found["advice"]
    assert code == 1 and said.count("\n") == 1
    assert "batch 64, 3 cells and 16 channels do not fit; batch " in said and " do: --batch-size " in said


@pytest.mark.parametrize("kind", ["memory", "launch", "blas", "dnn"])
@pytest.mark.parametrize("verb", ["search", "pretrain", "evaluate"])
def test_every_way_to_be_out_of_memory_is_one_line(verb: str, kind: str, found: Any) -> None:
    code, said = found["memory"][f"{verb}, {kind}"]
    assert code == 1 and said.count("\n") == 1 and "out of memory" in said, said


def test_torchs_own_warnings_do_not_come_before_that_line(null_gpu: NullGpu, tmp_path: Path) -> None:
    words = ["-m", "dasgm", "search", "quickstart", "--data.limit=100", "--storage", str(tmp_path)]
    code, _, said = finish(start(*words, **null_gpu.environment(mib=1)))
    assert code == 1 and said.count("\n") == 1 and said.startswith("error: out of memory: CUDA out of memory"), said


def test_pinned_memory_and_nccl_say_it_as_well(found: Any) -> None:
    assert found["libraries"] == {"pinned": True, "nccl": True}


def test_a_recording_that_fails_leaves_no_trace(found: Any) -> None:
    """Else the next iterations would be computed in the stream of the recording, which waits for no other."""
    assert found["after failure"] == {
        "said": [
            "cuda-graph auto: iterations are taken without a graph: the iteration cannot be recorded: "
            "CUDA error: operation not permitted when stream is capturing"
        ],
        "same stream": True,
        "taken": 3,
    }


def test_the_graphs_of_a_stage_are_freed_as_the_next_begins(found: Any) -> None:
    assert found["freed"]
