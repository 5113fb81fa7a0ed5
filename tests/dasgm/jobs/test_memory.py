"""What is said to fit does in every stage, and is a size that a supernet can have."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dasgm import device
from dasgm.config import override
from dasgm.jobs import memory
from dasgm.networks.supernet import Supernet
from dasgm.presets import preset


class Hungry:
    """Stands in for `Search`: an iteration needs a byte for each of batch x cells x channels, and 10,000 are there."""

    def __init__(self, config, data):
        assert config.cuda_graph == "off"
        self.config = config

    def enter(self, stage):
        self.stage = stage

    def schedule(self):
        pass

    def iterate(self):
        if self.config.batch_size * self.stage.cells * self.stage.channels > 10_000:
            raise MemoryError


def test_the_deepest_stage_has_to_fit_too(monkeypatch):
    """64 x 5 x 16 = 5,120 would, 64 x 17 x 16 = 17,408 does not, 32 x 17 x 16 = 8,704 does."""
    monkeypatch.setattr(memory, "Search", Hungry)
    said = memory.advice(preset("pdarts").config, None)
    assert said.startswith("out of memory: batch 64, 5 cells and 16 channels do not fit; batch 32, 5 cells"), said


@pytest.mark.parametrize("form", ["on", "auto"])
def test_a_graph_is_named_where_the_step_fits_without_one(monkeypatch, form):
    monkeypatch.setattr(memory, "Search", Hungry)
    fits = override(preset("darts-1st").config, {"batch_size": 8})
    assert memory.advice(fits, None).startswith("out of memory beside the search's own step")
    said = memory.advice(override(fits, {"cuda_graph": form}), None)
    assert said == "out of memory with a CUDA graph; without one the search's own step fits: --cuda-graph off"
    larger = override(fits, {"cuda_graph": form, "batch_size": 128})
    assert "batch 128, 8 cells and 16 channels do not fit; batch 64, 8 cells" in memory.advice(larger, None)


@pytest.mark.parametrize(("name", "widths"), [("pcdarts", [8, 4]), ("darts-1st", [8, 4, 2])])
def test_widths_that_are_tried_are_those_of_supernets(name, widths):
    tried = [config for config in memory._smaller(preset(name).config) if config.method.channels < 16]
    assert [config.method.channels for config in tried] == widths
    for config in tried:
        Supernet(config.stages[0], 10)


def test_gan_is_looked_at_without_torchs_compiler():
    """Each search and each driver does it when it starts: the compiler's import takes longer than all the rest."""
    code = """
import sys
from dasgm.jobs.memory import ensure_gan
from dasgm.presets import SMALL_GANS
for gan in SMALL_GANS.values():
    ensure_gan(gan, 10, 16, True, "cpu")
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_weights_of_a_large_gan_are_counted_before_they_take_memory(monkeypatch):
    """BigGAN at 32 pixels and 10 classes has 4,373,251 and 4,207,361 weights; each needs 12 bytes."""
    config, weights = preset("dasgm-darts").config.gan, 4_373_251 + 4_207_361
    pages = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 12 * weights - 1}
    monkeypatch.setattr(device.os, "sysconf", pages.__getitem__)
    monkeypatch.setattr(memory, "LARGE", weights // 2)
    with pytest.raises(ValueError, match=f"a GAN of {weights:,} weights .* choose fewer channels"):
        memory.ensure_gan(config, 10, 32, False, "cpu")
    pages["SC_PHYS_PAGES"] += 1
    memory.ensure_gan(config, 10, 32, False, "cpu")
