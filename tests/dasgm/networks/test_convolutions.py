"""Every convolution of every network, on other processors' kernels too: oneDNN chooses them by instruction set."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from ctypes.util import find_library
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TOOLS
from convolutions import convolution, recorded, write

from dasgm.config import override
from dasgm.gans._base import SIZES
from dasgm.measures.judge import JudgeNetwork
from dasgm.networks.network import Network
from dasgm.plugins import keys
from dasgm.presets import preset, with_dataset, with_gan
from dasgm.recipes import RECIPES
from dasgm.search import Search
from dasgm.spaces.darts import KNOWN

SETS = ["SSE41", "AVX2", "DEFAULT"] if platform.machine() in ("x86_64", "AMD64") else ["DEFAULT"]
ROUNDING = 2e-5  # relative; of float32 sums over up to 10^5 products
USUAL = ("dasgm-darts", "dasgm-pdarts", "dasgm-pcdarts")


def iterate(name: str, gan: str, batch: int, size: int = 16, **changes: Any) -> None:
    """One iteration of Algorithm 1 in each stage of the preset's method."""
    config = with_dataset(with_gan(preset(name).config, gan), "digits")
    always = {"data.image_size": size, "batch_size": batch, "method.arch_start_epoch": 0}
    config = override(config, always | changes)
    search = Search(config, config.data.load(None))
    for stage in config.stages:
        search.enter(stage)
        search.schedule()
        search.iterate()


def train_found(recipe: str, genotype: str, batch: int) -> None:
    """The network of a genotype with both heads, as `dasgm evaluate` trains it."""
    config = RECIPES[recipe].config
    network = Network(KNOWN[genotype], config.channels, config.cells, 10, form=config.form, auxiliary=True)
    for logits in network.forward_with_auxiliary(torch.randn(batch, 3, config.data.image_size, config.data.image_size)):
        logits.square().sum().backward(retain_graph=True)


def train_judge() -> None:
    JudgeNetwork(10)(torch.randn(16, 3, 32, 32)).square().sum().backward()


def small() -> None:
    # oneDNN chooses kernels by the batch as well: its fault does not show with 4 images
    iterate("cifar10-smoke-pcdarts", "none", 16)
    iterate("cifar10-smoke-pdarts", "none", 4)
    for gan in keys("gans"):
        iterate("quickstart", gan, 4)
    # "exact" differentiates the backward pass once more, which makes convolutions of other shapes
    iterate("quickstart", "none", 16, **{"method.channels": 2, "hypergradient": "exact"})
    train_found("digits-small", "DARTS_V2", 16)
    train_judge()


def larger_images(gan: str) -> None:
    for size in SIZES:
        iterate("quickstart", gan, 4, size)


def full_gan(gan: str) -> None:
    iterate("dasgm-pcdarts", gan, 2, 32)


def full_supernets() -> None:
    for name in USUAL:
        iterate(name, "none", 4, 32)


WORK = {
    "full supernets": full_supernets,
    "CIFAR": partial(train_found, "cifar", "DARTS_V2", 2),
    "ImageNet": partial(train_found, "imagenet", "PC_DARTS_image", 1),
    "ImageNet, small": partial(train_found, "imagenet-small", "PDARTS", 4),
}
WORK |= {f"{gan}, larger images": partial(larger_images, gan) for gan in keys("gans")}
WORK |= {f"{gan}, full width": partial(full_gan, gan) for gan in keys("gans")}


def limit() -> None:
    """A kernel that never ends is stopped, after seconds of the processor: a busy machine does not matter."""
    resource.setrlimit(resource.RLIMIT_CPU, (600, 600))


def faults(path: Path, instructions: str) -> list[str]:
    """What is wrong with the convolutions of `path` on the kernels for this instruction set, [] if nothing is."""
    environment = os.environ | {
        "ONEDNN_MAX_CPU_ISA": instructions,
        "LD_PRELOAD": find_library("c_malloc_debug") or "",
        "GLIBC_TUNABLES": "glibc.malloc.check=3",  # the process ends at the first write out of bounds that glibc sees
    }
    words = [sys.executable, str(TOOLS / "convolutions.py"), str(path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, preexec_fn=limit)
    lines = done.stdout.splitlines()
    wrong = [
        f"{call}: relative errors {errors}"
        for call, errors in zip(lines[::2], lines[1::2], strict=False)
        if not max(json.loads(errors)) < ROUNDING
    ]
    if done.returncode:
        wrong.append(f"exit {done.returncode} at {lines[-1:]}: {done.stderr[-500:]}")
    return wrong


def test_the_reference_is_the_definition() -> None:
    """By hand: a transposed convolution of one pixel is the kernel, a strided one reads every second pixel."""
    settings = {"stride": [2, 2], "padding": [0, 0], "dilation": [1, 1], "extra": [0, 0], "groups": 1}
    kernel = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    spread = convolution(torch.tensor([[[[5.0]]]]), kernel, settings | {"transposed": True})
    assert spread.flatten().tolist() == [5, 10, 15, 20]
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert convolution(x, kernel, settings | {"transposed": False}).flatten().tolist() == [34, 54, 114, 134]


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("convolutions") / "small.pt"
    with recorded() as calls:
        small()
    kinds = {(tuple(call["stride"]), call["transposed"], call["groups"] > 1) for call in calls.values()}
    assert kinds >= {((1, 1), False, False), ((2, 2), False, True), ((2, 2), True, True)}
    write(path, calls.values())
    return path


@pytest.mark.parametrize("instructions", SETS)
def test_narrow_convolutions(narrow: Path, instructions: str) -> None:
    assert not faults(narrow, instructions)


def test_a_wrong_gradient_is_noticed(narrow: Path, tmp_path: Path) -> None:
    results = torch.load(narrow, weights_only=True)
    call, true = next(result for result in results if len(result[1]) == 4)
    true[2].view(-1)[0] *= 1.01
    torch.save([(call, true)], tmp_path / "wrong.pt")
    assert "relative errors" in faults(tmp_path / "wrong.pt", "DEFAULT")[0]


@pytest.mark.slow
@pytest.mark.parametrize("work", WORK)
def test_usual_convolutions(work: str, tmp_path: Path) -> None:
    with recorded() as calls:
        WORK[work]()
    write(tmp_path / "calls.pt", calls.values())
    assert not [fault for instructions in SETS for fault in faults(tmp_path / "calls.pt", instructions)]
