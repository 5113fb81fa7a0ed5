"""Parameters and multiply-adds (Tables 2 and 3), exact, for one image in eval mode.

Networks are built and run on torch's meta device, which has shapes only: nothing is computed and no memory is used.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dasgm.bilevel import replay
from dasgm.config import SearchConfig
from dasgm.data._base import DataConfig
from dasgm.designs.design import Design
from dasgm.designs.known import REFUSALS, USUAL, KnownNetwork, is_known
from dasgm.gans._base import GanConfig
from dasgm.genotype import Genotype, genotype_text, known, name_of
from dasgm.methods._base import Stage
from dasgm.networks.network import Form, check_image_size
from dasgm.networks.operations import reductions
from dasgm.networks.supernet import Architecture
from dasgm.plugins import key_of, keys, nearest, plugin
from dasgm.presets import PRESETS, preset, with_dataset
from dasgm.spaces._base import SearchSpace
from dasgm.store.files import first_line, plain, short, text

if TYPE_CHECKING:
    from dasgm.recipes import EvaluateConfig

POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
Counts = dict[str, Any]  # plain data, as `dasgm measure --json` prints it


class Cost(NamedTuple):
    """The cost of one layer for one image."""

    parameters: int
    multiply_adds: int
    """Those of convolutions and linear layers (convention A)."""
    others: int
    """Convention B minus A (the rule of ptflops): 2 per element of a batch norm, 1 per element that a ReLU or a pooling
    reads. Sums, concatenations and drop-path count nothing."""


def count(module: nn.Module) -> int:
    """Number of parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def layer_costs(module: nn.Module, *inputs: Any) -> dict[str, Cost]:
    """The cost of every layer of `module(*inputs)`, by name. The module is left in eval mode.

    Args:
        inputs: they hold one image. The multiply-adds of a layer follow from its definition, not from the kernels that
            compute it.
    """
    work: dict[str, list[int]] = defaultdict(lambda: [0, 0])

    def hook(name: str, layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            work[name][0] += output.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.BatchNorm2d):
            work[name][1] += 2 * output.numel()
        elif isinstance(layer, (nn.ReLU, *POOLS)):
            work[name][1] += given[0].numel()

    layers = dict(module.named_modules())
    handles = [layer.register_forward_hook(partial(hook, name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            module.eval()(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    own = {name: sum(p.numel() for p in layer.parameters(recurse=False)) for name, layer in layers.items()}
    return {name: Cost(own[name], *work[name]) for name in layers}


def summed(costs: Iterable[Cost]) -> Cost:
    """The sum of the costs of several layers."""
    return Cost(*map(sum, zip(*costs, strict=True)))


def measure_genotype(
    genotype: Genotype,
    form: Form = "cifar",
    channels: int = 36,
    cells: int = 20,
    classes: int = 10,
    image_size: int = 32,
) -> Counts:
    """Counts the network of a genotype, as it is trained from scratch.

    Returns:
        `parameters` (without the auxiliary head, as published tables count), `parameters_with_auxiliary` (where the
        space has such a head), `multiply_adds` (convention A) and `multiply_adds_all` (convention B).

    Raises:
        ValueError: a size that the network cannot have.
    """
    with torch.device("meta"):
        network = genotype.build(channels, cells, classes, form, auxiliary=genotype.space.auxiliary)
        total = summed(layer_costs(network, torch.empty(1, 3, image_size, image_size)).values())
    with_auxiliary = {"parameters_with_auxiliary": total.parameters} if network.auxiliary else {}
    return {
        "parameters": total.parameters - (count(network.auxiliary) if network.auxiliary else 0),
        **with_auxiliary,
        "multiply_adds": total.multiply_adds,
        "multiply_adds_all": total.multiply_adds + total.others,
    }


def measure_network(design: Design, config: EvaluateConfig, classes: int, image_size: int) -> Counts:
    """Counts the network that an evaluation trains, without an auxiliary head.

    Returns:
        `parameters` and `multiply_adds`: those of convolutions and linear layers (convention A), and of the matrix
        products of attention.

    Raises:
        ValueError: a size that the network cannot have.
    """
    with torch.device("meta"), replay("never drawn from"):
        network = design.rebuilt(design.described(config), classes).to("meta").eval()
    return {"parameters": count(network), "multiply_adds": multiply_adds(network, image_size)}


def multiply_adds(network: nn.Module, image_size: int) -> int:
    """The multiply-adds of a network on the meta device for one image, from the operators that compute it.

    Raises:
        ValueError: it does not take images of this size.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:  # which counts two for each
        try:
            network(torch.empty(1, 3, image_size, image_size, device="meta"))
        except REFUSALS as error:
            raise ValueError(f"images of {image_size} pixels: {first_line(error)[:160]}; choose another size") from None
    return counter.get_total_flops() // 2


def measure_search(config: SearchConfig, classes: int, image_size: int) -> Counts:
    """Counts the supernet of a search.

    Returns:
        `supernet_parameters`, `architecture_parameters` and `multiply_adds` (convention A) of the first stage, and
        `stages`. In stages whose operations the search decides, counts are [smallest, largest] over all operations that
        an edge may keep, each count by itself.

    Raises:
        ValueError: a size that the supernet cannot have.
    """
    check_image_size("cifar", image_size)
    first, *later = config.stages
    space = config.space
    total = summed(_supernet_costs(space, first, classes, image_size).values())
    with torch.device("meta"):
        architecture = count(Architecture(first, space))
    begun = {"supernet_parameters": total.parameters, "multiply_adds": total.multiply_adds}
    stages = [begun, *(_bounds(space, stage, first, classes, image_size) for stage in later)]
    outline = [
        {"cells": stage.cells, "operations_per_edge": len(stage.operations[0][0])} | counts
        for stage, counts in zip((first, *later), stages, strict=True)
    ]
    return {**begun, "architecture_parameters": architecture, "stages": outline}


def _supernet_costs(space: SearchSpace, stage: Stage, classes: int, image_size: int) -> dict[str, Cost]:
    with torch.device("meta"):
        supernet: Any = space.supernet(stage, classes)
        costs = layer_costs(supernet, torch.empty(1, 3, image_size, image_size), Architecture(stage, space)())
    # a cell computes the layers of its fans together, so they are not seen; each gives a map of the nodes' size
    for index, cell in enumerate(supernet.cells):
        side = image_size >> sum(reduction <= index for reduction in reductions(stage.cells))
        for name, layer in cell.named_modules(prefix=f"cells.{index}"):
            if ".fans." in name and isinstance(layer, nn.Conv2d):
                costs[name] = costs[name]._replace(multiply_adds=layer.weight.numel() * side**2)
    return costs


def _bounds(space: SearchSpace, stage: Stage, first: Stage, classes: int, image_size: int) -> Counts:
    """[smallest, largest] counts over the operations that an edge may keep: the cheapest and the most expensive of the
    first stage's.
    """
    costs = _supernet_costs(space, replace(stage, operations=first.operations), classes, image_size)
    kept = [len(cell[0]) for cell in stage.operations]  # in DARTS's space of a normal cell, of a reduction cell

    def bounds(of: dict[str, int]) -> list[int]:
        fixed = 0
        fans: dict[tuple[bool, str], dict[str, int]] = defaultdict(lambda: dict.fromkeys(first.operations[0][0], 0))
        for name, value in of.items():
            match name.split("."):
                # the edges from one state cost the same, and all cells of a type have the same operations
                case ["cells", cell, "fans", state, "convolutions", operation, *_]:
                    fans[int(cell) in reductions(stage.cells), state][operation] += value
                case _:
                    fixed += value
        ordered = [(sorted(fan.values()), kept[reduction]) for (reduction, _), fan in fans.items()]
        return [fixed + sum(sum(fan[:k]) for fan, k in ordered), fixed + sum(sum(fan[-k:]) for fan, k in ordered)]

    return {
        "supernet_parameters": bounds({name: cost.parameters for name, cost in costs.items()}),
        "multiply_adds": bounds({name: cost.multiply_adds for name, cost in costs.items()}),
    }


def measure_gan(config: GanConfig, classes: int, image_size: int) -> Counts:
    """Counts a GAN.

    Returns:
        `generator_parameters`, `discriminator_parameters` (of the stock discriminator) and, where B is searched,
        `searched_discriminator_parameters` and `discriminator_architecture_parameters`.

    Raises:
        ValueError: the GAN does not make images of this size.
    """
    with replay("never drawn from"):
        stock, searched = (config.build(classes, image_size, relaxed) for relaxed in (False, True))
    return {
        "generator_parameters": count(stock.generator),
        "discriminator_parameters": count(stock.discriminator),
        "searched_discriminator_parameters": count(searched.discriminator),
        "discriminator_architecture_parameters": count(searched.architecture),
    }


# by name, for the command line


@dataclass(frozen=True)
class MeasureOptions:
    """Settings of what is measured. None takes the default of what is measured."""

    form: Form | None = None
    cells: int | None = None
    channels: int | None = None
    classes: int | None = None
    image_size: int | None = None
    dataset: str | None = None
    """Key of a data set, whose number of classes and image size become the defaults."""

    def __post_init__(self) -> None:
        for name in ("cells", "channels", "classes", "image_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value}: expected at least 1")


def measure(name: str, asked: MeasureOptions = MeasureOptions()) -> Counts:
    """The settings and counts of what `name` stands for.

    Args:
        name: a built-in genotype, a preset or a GAN; the file of a genotype or of a preset; the folder of a run; the
            text of a genotype; torchvision:NAME or timm:NAME.

    Raises:
        ValueError: an unknown name (the message suggests the nearest), or a setting that does not apply.
    """
    found = subject(name)
    if isinstance(found, Genotype):
        return {"genotype": name_of(name) if genotype_text(name) else name} | _measured_genotype(found, asked)
    if isinstance(found, KnownNetwork):
        return {"network": str(found)} | _measured_known(found, asked)
    if isinstance(found, SearchConfig):
        return {"preset": name} | _measured_search(found, asked)
    return {"gan": name} | _measured_gan(found, asked)


def subject(name: str) -> Genotype | KnownNetwork | SearchConfig | GanConfig:
    """What `name` stands for; see `measure`."""
    if is_known(name):
        return KnownNetwork.load(name)
    if name in known() or genotype_text(name):
        return Genotype.load(name)
    path = Path(name)
    if name in PRESETS or _is_preset(path):
        return preset(name).config
    if name in keys("gans"):
        return plugin("gans", name)()
    there = bool(name.strip()) and os.path.exists(path)  # Path("") would be the current folder
    if there and (path / "network.json").is_file():
        return KnownNetwork.read(path / "network.json")
    if there and os.path.isdir(path) and not (path / "genotype.json").is_file():
        raise ValueError(f"{name}: this folder has no genotype.json; give the folder of a finished run, or a file")
    if there:
        return Genotype.load(path)
    names = [*known(), *PRESETS, *keys("gans")]
    raise ValueError(
        f"{short(name, 200)} is no genotype, preset, GAN, file or run{nearest(name, names)}; "
        "`dasgm presets` lists the presets, `dasgm measure --list` the genotypes"
    )


def _is_preset(path: Path) -> bool:
    try:
        content = plain(text(path))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "parent" in content


def _measured_genotype(genotype: Genotype, asked: MeasureOptions) -> Counts:
    form = asked.form or "cifar"
    usual = dict(zip(("cells", "channels"), genotype.space.usual(form), strict=True))
    images = {"classes": 1000, "image_size": 224} if form == "imagenet" else {"classes": 10, "image_size": 32}
    if asked.dataset:
        images = _images(plugin("data", asked.dataset)(), asked)
    sizes = _overridden(usual | images, asked)
    return {"form": form} | sizes | measure_genotype(genotype, form, **sizes)


def _measured_known(network: KnownNetwork, asked: MeasureOptions) -> Counts:
    _refuse(asked, "a known network", "form", "cells", "channels")
    images = {"classes": 1000, "image_size": USUAL}
    if asked.dataset:
        images = _images(plugin("data", asked.dataset)(), asked)
    images = _overridden(images, asked)
    with replay("never drawn from"):
        built = network.built(images["classes"]).to("meta").eval()
    return images | {"parameters": count(built), "multiply_adds": multiply_adds(built, images["image_size"])}


def _measured_search(config: SearchConfig, asked: MeasureOptions) -> Counts:
    _refuse(asked, "a search's supernet", "form")
    if asked.dataset:
        config = with_dataset(config, asked.dataset)
    method = replace(config.method, **_overridden({n: getattr(config.method, n) for n in ("cells", "channels")}, asked))
    images = _overridden(_images(config.data, asked), asked)
    counts = measure_search(replace(config, method=method), **images)
    return {"cells": method.cells, "channels": method.channels} | images | counts


def _measured_gan(config: GanConfig, asked: MeasureOptions) -> Counts:
    _refuse(asked, "a GAN", "form", "cells")
    images = {"classes": 10, "image_size": 32}
    if asked.dataset:
        images = _images(plugin("data", asked.dataset)(), asked)
    config, images = replace(config, **_overridden({"channels": config.channels}, asked)), _overridden(images, asked)
    return {"channels": config.channels} | images | measure_gan(config, **images)


def _images(data: DataConfig, asked: MeasureOptions) -> Counts:
    """Number of classes and size of the images of a data set, without reading it."""
    classes = asked.classes or data.class_count()
    if classes is None:
        raise ValueError(f"data set {key_of(data)!r}: its files tell how many classes it has; give --classes")
    return {"classes": classes, "image_size": data.image_size}


def _overridden(settings: Counts, asked: MeasureOptions) -> Counts:
    return {name: getattr(asked, name) or value for name, value in settings.items()}


def _refuse(asked: MeasureOptions, what: str, *names: str) -> None:
    for name in names:
        if getattr(asked, name) is not None:
            raise ValueError(f"--{name}: {what} has no such setting; leave it out")
