"""Whole configurations by name: the paper's rows (paper.py), other methods (field.py), and small sizes of both.

A user's own preset is a JSON file {"parent": NAME, "overrides": {"gan.generator_lr": 1e-4}}; its path serves as a name.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from dasgm.config import ProxyConfig, SearchConfig, override, settings
from dasgm.data import cifar10, digits, folder
from dasgm.gans import biggan, contragan, stylegan2ada
from dasgm.gans._base import SIZES, GanConfig
from dasgm.genotype import DEFAULT_SPACE, space_of
from dasgm.given import after
from dasgm.methods import darts, pcdarts, pdarts
from dasgm.methods._base import MethodConfig
from dasgm.plugins import key_of, nearest, plugin
from dasgm.presets.field import FIELD
from dasgm.presets.nasbench201 import NASBENCH201
from dasgm.presets.paper import PAPER, Preset
from dasgm.store.files import plain, text

# Learns the digits in some 700 iterations of 16: small batches, labels that show from the start, the default operations
# of the discriminator well ahead (measured: see BENCHMARKS.md).
SMALL_BIGGAN = biggan.Config(
    channels=4,
    shared_dim=64,
    embedding_std=1.0,
    z_dim=768,
    average_decay=0.99,  # the published 0.9999 would show, after 1,500 iterations, the generator of iteration 1,000
    average_start=100,
    b_init=4.0,
    generator_lr=5e-4,
    discriminator_lr=5e-4,
    warmup=750,
    warmup_lr=5e-4,
    warmup_batch_size=16,
    pretrain_discriminator_steps=1,  # as the warm-up: minutes count
)

SMALL_GANS: dict[str, GanConfig] = {
    "biggan": replace(SMALL_BIGGAN, channels=8, warmup=1000),
    # measured on the digits: proxies alone, or labels are permuted (BENCHMARKS.md)
    "contragan": contragan.Config(
        channels=8,
        shared_dim=64,
        embedding_std=1.0,
        z_dim=768,
        average_decay=0.99,
        average_start=100,
        b_init=4.0,
        contrast_dim=64,
        temperature=0.3,
        pretrain_discriminator_steps=1,
        generator_lr=1e-3,
        discriminator_lr=2e-3,
        warmup=1000,
        warmup_lr=2e-3,
        warmup_batch_size=16,
    ),
    "stylegan2ada": stylegan2ada.Config(
        channels=32,
        z_dim=64,
        w_dim=64,
        b_init=4.0,
        r1_gamma=0.5,
        generator_lr=5e-3,
        discriminator_lr=5e-3,
        warmup=1000,
        warmup_lr=5e-3,
        warmup_batch_size=16,
    ),
}
"""Of a width for CPUs."""
CIFAR10_SMOKE = SearchConfig(
    method=darts.Config(epochs=5, cells=3, channels=4, arch_start_epoch=1),
    gan=SMALL_GANS["biggan"],
    data=cifar10.Config(holdout=0.1, image_size=16, limit=6000),
    batch_size=64,
    classifier_lr=0.05,
    arch_lr=1e-2,
    discriminator_arch_lr=1e-2,
    proxy=ProxyConfig(epochs=8, cells=3, channels=8, batch_size=64, lr=0.05),
    threads=1,
    pictures_every=2,
)

CIFAR10_SMOKE_201 = replace(
    CIFAR10_SMOKE,
    search_space="nasbench201",
    method=darts.Config(epochs=5, cells=5, channels=8, arch_start_epoch=1),
    classifier_nesterov=True,
    classifier_weight_decay=5e-4,
    proxy=replace(CIFAR10_SMOKE.proxy, cells=5),
)
SMOKE = (CIFAR10_SMOKE, CIFAR10_SMOKE_201)

PRESETS: dict[str, Preset] = {
    **PAPER,
    **FIELD,
    **NASBENCH201,
    # Small sizes of the same search. Learning rates are higher because there are fewer steps; one thread, because two
    # searches share two cores and operations this small gain nothing from more.
    "quickstart": Preset(
        SearchConfig(
            method=darts.Config(epochs=4, cells=3, channels=4, arch_start_epoch=1),
            gan=SMALL_BIGGAN,
            data=digits.Config(holdout=0.1),
            batch_size=32,
            classifier_lr=0.05,
            arch_lr=2e-2,
            discriminator_arch_lr=2e-2,
            proxy=ProxyConfig(epochs=6, cells=3, channels=8, batch_size=16, lr=0.05),
            threads=1,
            pictures_every=1,
        ),
        "the whole pipeline in minutes on two cores: digits at 16x16, 3 cells of 4 channels",
    ),
    "fit-small": Preset(
        SearchConfig(
            method=darts.Config(epochs=8, cells=3, channels=4, arch_start_epoch=1),
            gan=None,
            data=folder.Config(image_size=32, limit=1000),
            order="first",
            search_discriminator=False,
            batch_size=32,
            classifier_lr=0.05,
            arch_lr=1e-2,
            pictures_every=5,
        ),
        "your own pictures at 32 pixels (at most 1,000), in minutes on two cores: DARTS of first order, 3 cells of 4 "
        "channels; what `dasgm fit` takes on a CPU",
        choices=(
            "no GAN and first order, whose steps take a fraction of the time; --search.order second has both halves",
            "higher rates, because there are fewer steps",
        ),
    ),
    "cifar10-smoke": Preset(
        CIFAR10_SMOKE,
        "6,000 real CIFAR-10 pictures, within half an hour on two cores: 16x16, 3 cells of 4 channels",
    ),
    "cifar10-smoke-nasbench201": Preset(
        CIFAR10_SMOKE_201,
        "the same pictures in NAS-Bench-201's space: a cell a stage, 8 channels",
    ),
    "cifar10-smoke-pdarts": Preset(
        replace(
            CIFAR10_SMOKE,
            method=pdarts.Config(epochs=2, cells=3, channels=4, arch_start_epoch=1, added_cells=(0, 1, 2)),
            order="first",
            search_discriminator=False,
            arch_clip=5.0,
        ),
        "the same pictures with P-DARTS: three stages of 2 epochs with 3, 4 and 5 cells",
    ),
    "cifar10-smoke-pcdarts": Preset(
        replace(
            CIFAR10_SMOKE,
            method=pcdarts.Config(epochs=5, cells=3, channels=8, arch_start_epoch=1),
            order="first",
            search_discriminator=False,
        ),
        "the same pictures with PC-DARTS: 8 channels, of which 2 pass through the operations",
    ),
}


MOST_PARENTS = 8
SMALL = {"pdarts": "cifar10-smoke-pdarts", "pcdarts": "cifar10-smoke-pcdarts"}
"""Methods whose size is not that of DARTS."""


def _smoke(space: str) -> SearchConfig:
    """The cifar10-smoke preset of a search space. One that has none gets DARTS's, with as many cells as it needs."""
    if own := next((found for found in SMOKE if found.search_space == space), None):
        return own
    least = space_of(space).smallest
    proxy = replace(CIFAR10_SMOKE.proxy, cells=max(CIFAR10_SMOKE.proxy.cells, least))
    method = replace(CIFAR10_SMOKE.method, cells=max(CIFAR10_SMOKE.method.cells, least))
    return replace(CIFAR10_SMOKE, search_space=space, method=method, proxy=proxy)


def _at_small_size(config: SearchConfig) -> MethodConfig:
    """The method of a search at the size of the cifar10-smoke preset of its space."""
    method, stages = config.method, len(config.stages)
    if key_of(method) in SMALL:
        return PRESETS[SMALL[key_of(method)]].config.method
    size = _smoke(config.search_space).method
    channels = max(8, size.channels) if hasattr(method, "partial") else size.channels  # a part of them passes through
    return replace(method.shortened(max(2, 5 // stages)), cells=size.cells, channels=channels, arch_start_epoch=1)


def small(config: SearchConfig) -> SearchConfig:
    """The same row at the size of the cifar10-smoke preset of its space, with its order, GAN, validation portion and
    clipping.
    """
    kept = ("order", "search_discriminator", "val_portion", "freeze_gan", "arch_clip", "seed")
    gan = None if config.gan is None else SMALL_GANS[key_of(config.gan)]
    own = {name: getattr(config, name) for name in kept}
    return replace(_smoke(config.search_space), method=_at_small_size(config), gan=gan, **own)


def preset(name: str, children: tuple[str, ...] = ()) -> Preset:
    """The preset called `name`, or of the user's JSON file at that path; `children`: the files that lead to it.

    Raises:
        ValueError: no such preset (the nearest is named), or a file that is not a preset.
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if path.suffix != ".json" and not path.is_file():
        raise ValueError(f"preset {name!r} is not known{nearest(name, list(PRESETS))}; dasgm presets lists them")
    try:
        own = plain(text(path))
    except OSError as error:
        raise ValueError(f"preset {name}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"preset {name}: not JSON ({error})") from None
    except ValueError as error:
        raise ValueError(f"preset {name}: {error}; expected a JSON file") from None
    overrides = own.get("overrides", {}) if isinstance(own, dict) else None
    if not isinstance(overrides, dict) or set(own) - {"parent", "overrides"} or not isinstance(own.get("parent"), str):
        raise ValueError(f'preset {name}: expected {{"parent": NAME, "overrides": {{"gan.generator_lr": 1e-4}}}}')
    if name in children:
        raise ValueError(f"preset {name}: it is its own ancestor ({' -> '.join((*children, name))})")
    if len(children) == MOST_PARENTS:
        raise ValueError(f"preset {name}: a chain of more than {MOST_PARENTS} parents; expected fewer")
    parent = preset(own["parent"], (*children, name))
    try:
        config = override(parent.config, overrides)
    except ValueError as error:
        raise ValueError(f"preset {name}: {error}") from None
    given = after(parent.given, parent.config, config, overrides)
    return Preset(config, f"{name}, from {own['parent']}", given=given)


def difference(one: SearchConfig, other: SearchConfig) -> dict[str, tuple[Any, Any]]:
    """{path: (of one, of the other)} of the settings that set two searches apart; None: one has no such setting."""
    left, right = settings(one, younger=True), settings(other, younger=True)
    paths = dict.fromkeys((*left, *right))
    return {path: (left.get(path), right.get(path)) for path in paths if left.get(path) != right.get(path)}


def with_gan(config: SearchConfig, key: str) -> SearchConfig:
    """The same search with another GAN, or 'none'; a small search gets it at its small width."""
    if key in SMALL_GANS and config.gan in (SMALL_BIGGAN, *SMALL_GANS.values()) and key != key_of(config.gan):
        return replace(config, gan=SMALL_GANS[key])
    return override(config, {"gan": key})


def row_config(name: str) -> SearchConfig:
    """The search of a table's row, a preset or PRESET:GAN. ValueError: there is no such preset or GAN."""
    key, _, gan = name.partition(":")
    config = preset(key).config
    return with_gan(config, gan) if gan else config


def without_gan(config: SearchConfig) -> SearchConfig:
    """The plain search of the same method: J_3 is J_2."""
    return replace(config, gan=None, search_discriminator=False, freeze_gan=False, gan_checkpoint=None, val_portion=0.0)


def with_method(config: SearchConfig, key: str) -> SearchConfig:
    """The same search by another method; a small search gets it at its small size.

    The numbers of cells and channels that a method has are for DARTS's cells, so in another space those of the search
    stay.
    """
    changed = override(config, {"method": key})
    if changed == config:
        return config
    small_methods = PRESETS["quickstart"].config.method, _at_small_size(config)
    method = _at_small_size(changed) if config.method in small_methods else changed.method
    if config.search_space != DEFAULT_SPACE:
        method = replace(method, cells=config.method.cells, channels=config.method.channels)
    return replace(changed, method=method)


def with_dataset(config: Any, key: str) -> Any:
    """The same search (or evaluation) on another data set: what both kinds of settings share (size, split) is kept."""
    kind = plugin("data", key)
    if isinstance(config.data, kind):
        return config
    own = kind()
    shared = ("split_seed", "split", "weight_portion", "holdout", "limit", "cutout", "image_size")
    kept = {name: getattr(config.data, name) for name in shared}
    if own.streamed:
        kept["cutout"] = 0
    elif config.data.streamed:
        kept["image_size"] = min(max(SIZES), config.data.image_size)
    return replace(config, data=replace(own, **kept))
