"""Searches in NAS-Bench-201 (Dong & Yang 2020, arXiv 2001.00326), each method plain and with DASGM, with the settings
that its authors have for DARTS there. Values.

What a method's own authors change in this space stands beside it; where nothing is known, nothing is changed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dasgm.config import SearchConfig
from dasgm.methods import betadarts, darts, dartsminus, drnas, dropnas, gdas, random, rdarts, sdarts
from dasgm.methods._base import MethodConfig
from dasgm.presets.field import FIRST
from dasgm.presets.paper import ALWAYS, DASGM_DARTS, END_TO_END, FROZEN, GENERATED, PAPER, SEARCHED, Preset

SETTINGS: dict[str, Any] = {
    "search_space": "nasbench201",
    "classifier_nesterov": True,
    "classifier_weight_decay": 5e-4,
    "arch_lr": 3e-4,
    "classifier_lr_min": 0.001,
}
OF_BENCHMARK = (
    "17 cells: its 15 cells and 2 residual blocks; 16 channels, batch 64; 50 epochs where nothing else is said",
    "A learns from half of the training images of the data set that is searched; its authors take half of the test "
    "images for CIFAR-100 and ImageNet16-120",
    "batch norm has running statistics in the supernet, by which val/accuracy is measured",
    "order of steps: W, G and E, then A and B together (Algorithm 1); the benchmark's own searches step W first too",
    "J_1 and J_2: drawn by class from data.split-seed, so that seeds of a search share them",
)
LOOKED_UP = "CIFAR-10 45.70, CIFAR-100 84.39, ImageNet16-120 83.68 (the cell of skip connections)"
SAME_CELL = "CIFAR-10 5.64, CIFAR-100 26.49, ImageNet16-120 53.66"
AS_DARTS = "the settings are those of DARTS in this space: what its authors use here was not found"


def _in_benchmark(
    of: SearchConfig, method: MethodConfig, about: str, choices: tuple[str, ...], published: str = ""
) -> Preset:
    """A search in the space of the benchmark, at its size and with its settings of W and A."""
    config = replace(of, method=replace(method, cells=17, channels=16), **SETTINGS)
    own = (choice for choice in choices if choice not in ALWAYS)  # which are of the codes for DARTS's space
    return Preset(config, f"NAS-Bench-201, {about}", published, (*OF_BENCHMARK, *own))


def _of_paper(name: str, published: str = "") -> Preset:
    """A row of the paper."""
    of = PAPER[name]
    return _in_benchmark(of.config, darts.Config(), of.about, of.choices, published)


def _rows(
    name: str, title: str, of: SearchConfig, method: MethodConfig, own: tuple[str, ...], published: str = ""
) -> dict[str, Preset]:
    """A method alone, and with end-to-end BigGAN."""
    plain = replace(of, gan=None, search_discriminator=False)
    generated = (*GENERATED, *END_TO_END, *(SEARCHED if of.search_discriminator else ()))
    return {
        f"nasbench201-{name}": _in_benchmark(plain, method, f"{title}: J_3 is J_2", own, published),
        f"nasbench201-dasgm-{name}": _in_benchmark(of, method, f"DASGM+{title}: end-to-end BigGAN", (*own, *generated)),
    }


NASBENCH201: dict[str, Preset] = {
    **{f"nasbench201-{name}": _of_paper(name, LOOKED_UP) for name in ("darts-1st", "darts-2nd")},
    **{
        f"nasbench201-{name}": _of_paper(name)
        for name in ("dasgm-darts", *(f"dasgm-darts-val{percent}" for percent in (30, 50, 70)))
    },
    "nasbench201-dasgm-darts-1st": _in_benchmark(
        FIRST,
        darts.Config(),
        "DASGM+DARTS, first order: end-to-end BigGAN",
        (*GENERATED, *END_TO_END),
    ),
    **{
        f"nasbench201-dasgm-darts-1st-val{percent}": _in_benchmark(
            replace(FIRST, val_portion=percent / 100, freeze_gan=True),
            darts.Config(),
            f"DASGM+DARTS+{percent}% Val, first order: pre-trained, frozen BigGAN",
            (*GENERATED, *FROZEN),
        )
        for percent in (30, 50, 70)
    },
    **_rows(
        "betadarts",
        "beta-DARTS",
        FIRST,
        betadarts.Config(epochs=100),
        ("100 epochs, and a weight of the regulariser from 0 to 50 over them, as its code for this space",),
        f"{SAME_CELL} (as others cite it; DrNAS's authors publish the same cell)",
    ),
    **_rows(
        "sdarts-rs", "SDARTS-RS", FIRST, sdarts.Config(), (AS_DARTS, "epsilon from 0.03 to 0.3, as in DARTS's space")
    ),
    **_rows(
        "sdarts-adv",
        "SDARTS-ADV",
        FIRST,
        sdarts.Config(perturbation="adversarial"),
        (AS_DARTS, "epsilon from 0.03 to 0.3 and 7 steps of ascent, as in DARTS's space"),
    ),
    **_rows(
        "gdas",
        "GDAS",
        FIRST,
        gdas.Config(gradient="all"),
        (
            "250 epochs, and tau from 10 to 0.1, as in the benchmark's code",
            "all operations reach the gradient of A, as in the benchmark's code; in DARTS's space only the drawn one",
            "the genotype is of the epoch that ends the search",
        ),
    ),
    **_rows(
        "drnas",
        "DrNAS",
        FIRST,
        drnas.Config(epochs=100, arch_start_epoch=0, partial=1, kept=0),
        (
            "100 epochs in one stage, all channels and all five operations throughout, as its code for this space; its "
            "progressive form (50 + 50 epochs, a quarter of the channels, then half) is not a preset",
            "A learns from the first epoch on; weight decay of A, not its kl",
        ),
        f"{SAME_CELL} (its authors)",
    ),
    **_rows(
        "dropnas",
        "DropNAS",
        FIRST,
        dropnas.Config(epochs=50),
        (
            AS_DARTS,
            "r = 3e-5 as in DARTS's space, so operations are dropped with probability r^(1/2) = 0.0055 in the group of "
            "two convolutions and r^(1/3) = 0.031 in that of the three others",
            "J_1 and J_2 apart, and A learns from J_3; its authors search on one level, on all images",
        ),
    ),
    **_rows(
        "rdarts",
        "R-DARTS",
        DASGM_DARTS,
        rdarts.Config(),
        (
            AS_DARTS,
            "early stopping as in DARTS's space; R-DARTS(L2) is a larger --classifier-weight-decay than the "
            "benchmark's 5e-4",
        ),
    ),
    **_rows(
        "dartsminus",
        "DARTS-",
        FIRST,
        dartsminus.Config(),
        (AS_DARTS, "beta falls from 1 to 0 over the epochs, as in DARTS's space"),
    ),
    "nasbench201-random": _in_benchmark(
        replace(FIRST, gan=None),
        random.Config(),
        "random search: one architecture a seed, no supernet is trained",
        ("any of the five operations on each edge, all equally likely",),
    ),
}
