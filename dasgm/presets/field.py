"""Methods beside the paper's, each plain and with DASGM, with their authors' settings. Values.

Published errors are those of the plain method, by its authors' own recipe of retraining, which is not always DARTS's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dasgm.methods import betadarts, dartsminus, drnas, dropnas, fairdarts, gdas, random, rdarts, sdarts, sgas
from dasgm.presets.paper import ALWAYS, DASGM_DARTS, END_TO_END, GENERATED, SEARCHED, Preset

FIRST = replace(DASGM_DARTS, order="first", search_discriminator=False)
"""As the paper pairs them: first order, and the GAN's own discriminator. DARTS's settings otherwise."""
SPLIT = ALWAYS[1:]  # of the order of the steps GDAS's code has Algorithm 1's

SGAS = "batch 64 throughout; the authors let it grow by 8 after each decision"


def _rows(name: str, title: str, config: Any, published: str, own: tuple[str, ...]) -> dict[str, Preset]:
    """A method alone, and with end-to-end BigGAN."""
    plain = replace(config, gan=None, search_discriminator=False)
    generated = (*GENERATED, *END_TO_END, *(SEARCHED if config.search_discriminator else ()))
    return {
        name: Preset(plain, f"{title}: J_3 is J_2", published, own),
        f"dasgm-{name}": Preset(config, f"DASGM+{title}: end-to-end BigGAN", "", (*own, *generated)),
    }


FIELD: dict[str, Preset] = {
    **_rows(
        "betadarts",
        "beta-DARTS",
        replace(FIRST, method=betadarts.Config()),
        "CIFAR-10 2.53, CIFAR-100 16.52 (as others cite it)",
        (
            "the authors' code for DARTS's space does not run: the mean over 14 edges and the sum over both types of "
            "cells are our reading, as is a weight from 0 to 50 over 50 epochs",
            *ALWAYS,
        ),
    ),
    **_rows(
        "sdarts-rs",
        "SDARTS-RS",
        replace(FIRST, method=sdarts.Config()),
        "CIFAR-10 2.49 (its released cell, a comment in its authors' code)",
        ("DARTS's space and first order; the authors' code searches another space by default (S1)", *ALWAYS),
    ),
    **_rows(
        "sdarts-adv",
        "SDARTS-ADV",
        replace(FIRST, method=sdarts.Config(perturbation="adversarial")),
        "CIFAR-10 2.61 ± 0.02 (as others cite it)",
        (
            "the attack sees running statistics of batch norm, as the authors' code; the projection comes before the "
            "clip, so a weight may end outside epsilon",
            *ALWAYS,
        ),
    ),
    **_rows(
        "gdas",
        "GDAS",
        replace(FIRST, method=gdas.Config(), batch_size=256, classifier_nesterov=True, classifier_weight_decay=5e-4),
        "CIFAR-10 2.93, CIFAR-100 18.38 (as others cite it)",
        (
            "batch 256, 250 epochs, weight decay 5e-4 and Nesterov's momentum, as its code for DARTS's space",
            "the genotype is of the epoch that ends the search; the authors also keep the best one by accuracy",
            *SPLIT,
        ),
    ),
    **_rows(
        "drnas",
        "DrNAS",
        replace(FIRST, method=drnas.Config(), classifier_lr=0.1, classifier_lr_min=0.0, arch_lr=6e-4),
        "CIFAR-10 2.46 ± 0.03 (its authors)",
        (
            "K is 4 in both halves; the authors begin with 6 and copy random channels to widen the supernet",
            "batch 64, rates 0.1 to 0 and 6e-4, 20 cells of 36 channels, as its code; weight decay of A, not its kl",
            *ALWAYS,
        ),
    ),
    **_rows(
        "dropnas",
        "DropNAS",
        replace(
            FIRST,
            method=dropnas.Config(),
            batch_size=96,
            classifier_lr=0.0375,
            classifier_lr_min=0.0015,
            classifier_clip=3.0,
        ),
        "CIFAR-10 2.58 ± 0.14, CIFAR-100 16.95 ± 0.41 (its authors)",
        (
            "J_1 and J_2 apart, and A learns from J_3; the authors search on one level, on all images",
            "weight decay of all parameters, in the step; the authors decay what was not dropped, in a second step",
            *ALWAYS,
        ),
    ),
    **_rows(
        "rdarts",
        "R-DARTS",
        replace(DASGM_DARTS, method=rdarts.Config()),
        "CIFAR-10 2.95 ± 0.21, CIFAR-100 18.01 ± 0.26 for R-DARTS(L2), the best of its strengths (as others cite it)",
        (
            "early stopping with weight decay 3e-4; R-DARTS(L2) searches with 3, 9, 27, 81 and 243e-4 in turn "
            "(--classifier-weight-decay)",
            "the eigenvalue is that of the loss on J_2, by Lanczos's method; the authors compute the whole matrix",
            "without drop path; R-DARTS(DP) is --method.drop-path 0.2, 0.4 or 0.6 with --data.cutout 16",
            "without ADA, which goes back to an earlier epoch with more weight decay",
            *ALWAYS,
        ),
    ),
    **_rows(
        "sgas-cri1",
        "SGAS (criterion 1)",
        replace(FIRST, method=sgas.Config()),
        "CIFAR-10 2.66 ± 0.24 over ten searches (its authors)",
        (SGAS, *ALWAYS),
    ),
    **_rows(
        "sgas-cri2",
        "SGAS (criterion 2)",
        replace(FIRST, method=sgas.Config(criterion=2)),
        "CIFAR-10 2.67 ± 0.21 over ten searches (its authors)",
        (SGAS, *ALWAYS),
    ),
    **_rows(
        "dartsminus",
        "DARTS-",
        replace(FIRST, method=dartsminus.Config()),
        "CIFAR-10 2.59 ± 0.08, CIFAR-100 17.51 ± 0.25 (as others cite it)",
        ("first order, as its code by default; beta falls linearly, as its script", *ALWAYS),
    ),
    **_rows(
        "fairdarts",
        "Fair DARTS",
        replace(FIRST, method=fairdarts.Config(), batch_size=128, classifier_lr=0.005, arch_lr=3e-3, arch_beta1=0.9),
        "CIFAR-10 2.54 ± 0.05 over seven runs (its authors)",
        (
            "batch 128, rates 0.005 to 0.001 and 3e-3, and Adam's betas of A 0.9 and 0.999, as its code",
            "a cell in which no operation reaches the threshold keeps its strongest edge from an input",
            *ALWAYS,
        ),
    ),
    "random": Preset(
        replace(FIRST, method=random.Config(), gan=None),
        "random search: one architecture a seed, no supernet is trained",
        "",
        ("two different inputs of each node and an operation but none on each edge, all equally likely",),
    ),
}
