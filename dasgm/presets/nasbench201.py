"""DARTS and DASGM in NAS-Bench-201 (Dong & Yang 2020, arXiv 2001.00326), with the settings of its authors' searches.
Values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dasgm.methods import darts
from dasgm.presets.field import FIRST
from dasgm.presets.paper import PAPER, Preset

SETTINGS: dict[str, Any] = {
    "search_space": "nasbench201",
    "classifier_nesterov": True,
    "classifier_weight_decay": 5e-4,
    "arch_lr": 3e-4,
    "classifier_lr_min": 0.001,
}
OF_BENCHMARK = (
    "17 cells: its 15 cells and 2 residual blocks; 16 channels, 50 epochs, batch 64",
    "A learns from half of the training images of the data set that is searched; its authors take half of the test "
    "images for CIFAR-100 and ImageNet16-120",
    "batch norm has running statistics in the supernet, by which val/accuracy is measured",
)
LOOKED_UP = "CIFAR-10 45.70, CIFAR-100 84.39, ImageNet16-120 83.68 (the cell of skip connections)"


def _in_benchmark(of: Preset, about: str, published: str = "") -> Preset:
    """A row of the paper in the space of the benchmark."""
    config = replace(of.config, method=darts.Config(cells=17), **SETTINGS)
    return Preset(config, f"NAS-Bench-201, {about}", published, (*OF_BENCHMARK, *of.choices))


NASBENCH201: dict[str, Preset] = {
    "nasbench201-darts-1st": _in_benchmark(PAPER["darts-1st"], "DARTS, first order: J_3 is J_2", LOOKED_UP),
    "nasbench201-darts-2nd": _in_benchmark(PAPER["darts-2nd"], "DARTS, second order: J_3 is J_2", LOOKED_UP),
    "nasbench201-dasgm-darts-1st": _in_benchmark(
        replace(PAPER["dasgm-darts"], config=FIRST), "DASGM+DARTS, first order: end-to-end BigGAN"
    ),
    **{
        f"nasbench201-{name}": _in_benchmark(PAPER[name], PAPER[name].about)
        for name in ("dasgm-darts", *(f"dasgm-darts-val{percent}" for percent in (30, 50, 70)))
    },
}
