"""What an evaluation trains: the network of a genotype, or one that is known by name. Both are asked the same.

Free of torch until a network is built.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dasgm.designs.known import KnownNetwork, is_known
from dasgm.genotype import Genotype, to_stderr
from dasgm.methods._base import MOST_CELLS, WIDEST
from dasgm.store.files import plain, short
from dasgm.store.replica import here

if TYPE_CHECKING:
    from torch import nn

    from dasgm.given import Given
    from dasgm.recipes import EvaluateConfig

MOST_EDGES = 32  # of a cell that is read
MOST_CLASSES = 50_000  # of a known network that is read, which is built in memory


class Design(Protocol):
    """What an evaluation trains."""

    @property
    def kind(self) -> str:
        """Either "genotype" or "network": its entry in run.json, and the name of its file in the run's folder."""

    @property
    def unused(self) -> tuple[str, ...]:
        """Settings of an evaluation that have no part in its network."""

    @property
    def recipes(self) -> Mapping[str, str]:
        """The usual recipe by the key of the data set; "": of all others."""

    @property
    def connected(self) -> bool:
        """Whether images reach the classifier."""

    def settled(self, config: EvaluateConfig) -> EvaluateConfig:
        """The configuration with the unused settings of the step turned off."""

    def network(self, config: EvaluateConfig, classes: int) -> nn.Module:
        """The network that is trained: normalised images [N, 3, S, S] -> logits [N, classes].

        Raises:
            ValueError: a size that it cannot have, or a file that cannot be read.
        """

    def size(self, config: EvaluateConfig) -> str:
        """Which network it is, for messages."""

    def notes(self, config: EvaluateConfig, classes: int, image_size: int, iterations: int) -> list[str]:
        """What is said before a training begins.

        Args:
            iterations: of the whole training.
        """

    def to_json(self) -> str: ...

    def save(self, path: str | Path) -> None: ...

    def described(self, config: EvaluateConfig) -> dict[str, Any]:
        """Its entries in model.json."""

    def rebuilt(self, about: Mapping[str, Any], classes: int) -> nn.Module:
        """The network of such entries, without auxiliary head. Its weights are any."""


def load_design(
    source: str | Path, weights: str | Path | None = None, say: Callable[[str], None] = to_stderr
) -> Design:
    """What `source` names: torchvision:NAME, timm:NAME, the folder of a run of one, or whatever `Genotype.load` takes.

    Args:
        weights: file of weights that a known network begins from.
        say: see `Genotype.load`.

    Raises:
        ValueError: there is no such thing. The message suggests the nearest name.
    """
    if is_known(source):
        return KnownNetwork.load(str(source), weights)
    saved = here(source) / "network.json" if str(source).strip() and not _is_long(source) else None
    if saved is not None and saved.is_file():
        return KnownNetwork.read(saved).beginning(weights)
    if weights is not None:
        raise ValueError(
            f"--weights {weights}: only a known network begins from weights, as in torchvision:resnet18; leave it out"
        )
    return Genotype.load(source, say)


def _is_long(source: str | Path) -> bool:
    """Whether it is the text of a genotype rather than a path."""
    return "\n" in str(source) or len(str(source)) > 255


def read_design(written: str) -> Design:
    """What `to_json` wrote. ValueError: it is neither."""
    found = plain(written)
    if isinstance(found, dict) and "network" in found:
        return KnownNetwork.from_fields(found)
    return Genotype.from_json(written)


def design_of_model(about: Mapping[str, Any]) -> Design:
    """The design that a model.json describes, once its sizes are found to be such as a network may have.

    Raises:
        ValueError: they are not, or it describes none.
    """
    from dasgm.networks.network import SHRINKS, check_image_size

    if "network" in about:
        if len(about["classes"]) > MOST_CLASSES:
            raise ValueError(f"{len(about['classes'])} classes: expected at most {MOST_CLASSES}")
        return KnownNetwork.from_fields(about)
    for name, most in (("cells", MOST_CELLS), ("channels", WIDEST)):
        value = about.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ValueError(f"{name} {short(value)}: expected a whole number from 1 to {most}")
    if about.get("form") not in tuple(SHRINKS):
        raise ValueError(f"form {short(about.get('form'))}: expected {' or '.join(SHRINKS)}")
    check_image_size(about["form"], about["image_size"])
    if not isinstance(about.get("genotype"), dict):
        raise ValueError("genotype is missing")
    genotype = Genotype.from_json(json.dumps(about["genotype"]))
    if max(len(cell.edges) for cell in genotype.graphs.values()) > MOST_EDGES:
        raise ValueError(f"a cell of more than {MOST_EDGES} edges")
    return genotype


def ensure_effect(given: Given, designs: Iterable[Design]) -> None:
    """ValueError for a given setting that no network of these designs has."""
    unused = set.intersection(*(set(design.unused) for design in designs))
    if odd := sorted(given & unused):
        raise ValueError(
            f"--{odd[0].replace('_', '-')} is given, but a known network has no such setting: it is as its library "
            "builds it; leave it out"
        )
