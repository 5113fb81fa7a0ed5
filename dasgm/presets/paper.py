"""The paper's rows (Table 2) as configurations, the published error beside each, and what had to be decided. Values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dasgm.config import SearchConfig
from dasgm.data import cifar10
from dasgm.gans import biggan
from dasgm.given import NOTHING, Given
from dasgm.methods import darts, pcdarts, pdarts
from dasgm.presets.published import errors


@dataclass(frozen=True)
class Preset:
    """A configuration, what it is, and the result that the paper publishes for it (test error in %)."""

    config: SearchConfig
    about: str
    published: str = ""
    choices: tuple[str, ...] = ()
    """What the paper leaves open or contradicts, how it is decided here, and why."""
    given: Given = NOTHING
    """Settings that the user's own files name; of the presets here none."""


# Section 5.2 and Algorithm 1: batch 64, 50 epochs, 8 cells, 16 channels, BigGAN, everything of J_3 generated.
# FID and IS every ten epochs: Table 5.
DASGM_DARTS = SearchConfig(method=darts.Config(), gan=biggan.Config(), data=cifar10.Config(), fidelity_every=10)
# "Other hyperparameters like learning weight and decay rate are set in the same way as DARTS and P-DARTS."
FIRST_ORDER = replace(DASGM_DARTS, order="first", search_discriminator=False, classifier_lr_min=0.0, arch_lr=6e-4)
DASGM_PDARTS = replace(FIRST_ORDER, method=pdarts.Config(), arch_clip=5.0)
DASGM_PCDARTS = replace(FIRST_ORDER, method=pcdarts.Config())
CONTIGUOUS = cifar10.Config(split="contiguous")

ALWAYS = (
    "order of steps: W, G and E, then A and B together (Algorithm 1); the original codes step A first",
    "J_1 and J_2: drawn by class from data.split-seed, so that seeds of a search share them; the original codes cut "
    "the files in the middle (-upstream, or --data.split contiguous)",
    "batches of J_2: without replacement within a pass; the original DARTS and PC-DARTS draw anew every step",
)
GENERATED = ("J_3: labels uniform; images cropped and flipped like those of J_1, never cut out",)
SEARCHED = (
    "Eq. 6 and 7: central differences at the place before the step, through the step really taken, clipping included",
    "B: the default operations begin 2 logits ahead; Adam at 3e-4 without weight decay, which would swamp its gradient",
)
END_TO_END = (
    "the GAN sees J_2 alone and has one discriminator step a generator step (Algorithm 1; BigGAN's own recipe: four)",
    "no warm-up: the generator begins with noise, as end-to-end training says",
)
FROZEN = (
    "the GAN is pre-trained on J_2 and frozen (Section 5.3); its moving average makes the images, the real ones are "
    "drawn anew every iteration",
    "how long is not given: 50,000 iterations (gan.pretrain-iterations), where StudioGAN's curves for CIFAR have "
    "flattened, with BigGAN's own four discriminator steps and batches each; all seeds of a search share one",
    "needs: python cluster/pretrain.py with this preset's name, then --gan-checkpoint FILE; --pretrain does both",
)
SECOND_ORDER = "the order is not given: second, since Table 2 has these searches at DARTS-2nd's 4.0 GPU days"
PDARTS = (
    "P-DARTS's three stages of 25 epochs with 5, 11 and 17 cells; the paper's 50 epochs and 8 cells fit DARTS only",
    "skip dropout 0.1, 0.4, 0.7 as its README; its paper has 0, 0.4, 0.7 for CIFAR-10 and 0.1, 0.2, 0.3 for CIFAR-100",
    "A's rate 6e-4 and its gradient clipped at 5, as its code; at most 2 skip connections, as its authors advise",
)
PCDARTS = ("architecture steps from epoch 15 on, A's rate 6e-4, W's rate down to 0: PC-DARTS's",)


def _rows(
    names: tuple[str, str, str], dasgm: SearchConfig, own: tuple[str, ...], suffix: str = ""
) -> dict[str, Preset]:
    """The five rows of one method: DASGM end to end, with 30, 50 and 70 % Val, and the plain method.

    Args:
        names: of the method in the paper, in the presets with DASGM, in the plain one.
        own: choices that the method brings.
    """
    title, key, plain = names
    searched = SEARCHED if dasgm.search_discriminator else ()
    rows = {
        f"dasgm-{key}{suffix}": Preset(
            dasgm,
            f"DASGM+{title}: end-to-end BigGAN",
            errors(f"dasgm-{key}"),
            (*own, *ALWAYS, *GENERATED, *END_TO_END, *searched),
        )
    }
    frozen = (*FROZEN, SECOND_ORDER) if dasgm.order == "second" else FROZEN
    for percent in (30, 50, 70):
        rows[f"dasgm-{key}-val{percent}{suffix}"] = Preset(
            replace(dasgm, val_portion=percent / 100, freeze_gan=True, search_discriminator=False),
            f"DASGM+{title}+{percent}% Val: pre-trained, frozen BigGAN",
            errors(f"dasgm-{key}-val{percent}"),
            (*own, *ALWAYS, *GENERATED, *frozen),
        )
    order = ", second order" if dasgm.order == "second" else ""
    rows[f"{plain}{suffix}"] = Preset(
        replace(dasgm, gan=None, search_discriminator=False),
        f"{title}{order}: J_3 is J_2",
        errors(plain),
        (*own, *ALWAYS),
    )
    return rows


BATCH_64 = "batch 64, as the paper has for all methods"
PAPER: dict[str, Preset] = {
    **_rows(("DARTS", "darts", "darts-2nd"), DASGM_DARTS, ()),
    "darts-1st": Preset(
        replace(DASGM_DARTS, gan=None, search_discriminator=False, order="first"),
        "DARTS, first order: J_3 is J_2",
        errors("darts-1st"),
        ALWAYS,
    ),
    **_rows(
        ("P-DARTS", "pdarts", "pdarts"),
        DASGM_PDARTS,
        (f"{BATCH_64}; P-DARTS's own is 96 (-upstream)", *PDARTS),
    ),
    **_rows(
        ("PC-DARTS", "pcdarts", "pcdarts"),
        DASGM_PCDARTS,
        (f"{BATCH_64}, and DARTS's rate 0.025; PC-DARTS's own 0.1 goes with its 256 (-upstream)", *PCDARTS),
    ),
    **_rows(
        ("P-DARTS", "pdarts", "pdarts"),
        replace(DASGM_PDARTS, batch_size=96, data=CONTIGUOUS),
        ("batch 96 and the split by index, as P-DARTS's code; the paper says 64", *PDARTS),
        "-upstream",
    ),
    **_rows(
        ("PC-DARTS", "pcdarts", "pcdarts"),
        replace(DASGM_PCDARTS, batch_size=256, classifier_lr=0.1, data=CONTIGUOUS),
        ("batch 256, rate 0.1 and the split by index, as PC-DARTS's code; the paper says 64 for all", *PCDARTS),
        "-upstream",
    ),
}
