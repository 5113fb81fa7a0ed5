"""Networks that are known by name, of torchvision and timm: what a found network is compared with.

Free of torch until a name is looked up.
"""

from __future__ import annotations

import hashlib
import importlib.util
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dasgm.genotype import DEFAULT_SPACE, KNOWN_LIBRARIES, fields_to_json, space_of
from dasgm.plugins import nearest
from dasgm.store.files import plain, printable, short, text, write_atomic

if TYPE_CHECKING:
    from torch import nn

    from dasgm.recipes import EvaluateConfig

USUAL = 224  # pixels of the images that these networks were made for
FEW = 64  # pixels, from which on their last maps keep more than one place
REFUSALS = (ValueError, RuntimeError, AssertionError, TypeError, IndexError, ZeroDivisionError)
"""What networks raise where an image has a size that they cannot take."""
FORGOTTEN = 0.05  # largest share of a running statistic that the initial value may keep


@dataclass(frozen=True)
class KnownNetwork:
    """A network of a library, as the library builds it for a number of classes.

    It is a design (`dasgm.designs.design.Design`).
    """

    library: str
    """torchvision or timm."""
    name: str
    weights: str = ""
    """Name of the file that it begins from; '': it is trained from scratch."""
    sha256: str = ""
    """Of that file."""
    place: Path | None = field(default=None, compare=False)
    """Where that file lies. No record says it, so that a run's folder from others does not choose what is read."""

    kind = "network"
    unused = ("form", "cells", "channels", "auxiliary", "drop_path", "compile")
    connected = True

    @property
    def recipes(self) -> Mapping[str, str]:
        return space_of(DEFAULT_SPACE).recipes

    def __str__(self) -> str:
        return f"{self.library}:{self.name}"

    @staticmethod
    def load(source: str, weights: str | Path | None = None) -> KnownNetwork:
        """torchvision:NAME or timm:NAME.

        Args:
            weights: a file of safetensors, or one of torch.save without anything but tensors.

        Raises:
            ValueError: there is no such classifier, its library is not installed, or there is no such file.
        """
        library, _, name = source.partition(":")
        if library != "torchvision" and importlib.util.find_spec(library) is None:
            raise ValueError(f"{short(source, 200)}: {library} is not installed; pip install 'dasgm[{library}]'")
        known = names(library)
        if name not in known:
            why = "is no classifier of images" if name in _others(library) else "is not known"
            raise ValueError(
                f"{library}:{short(name, 200)} {why}{nearest(name, list(known))}; {library}'s own function "
                "list_models() lists the names"
            )
        return KnownNetwork(library, name).beginning(weights)

    def beginning(self, weights: str | Path | None) -> KnownNetwork:
        """The same network, beginning from a file of weights.

        Raises:
            ValueError: there is no such file, or a record says that the network begins from another one.
        """
        if weights is None:
            if self.weights:
                raise ValueError(f"{self} begins from {short(self.weights)}: give that file as --weights FILE")
            return self
        path = Path(weights).expanduser().absolute()
        sha256 = _digest(path)
        if self.sha256 not in ("", sha256):
            raise ValueError(
                f"--weights {path}: not the file from which this {self} began, {short(self.weights)} (its sha256 is "
                f"another); give that one, or begin anew with {self}"
            )
        return replace(self, weights=path.name, sha256=sha256, place=path)

    @staticmethod
    def from_fields(fields: Mapping[str, Any]) -> KnownNetwork:
        """The network of a network.json or model.json. ValueError: it is none."""
        source, begun = fields.get("network"), fields.get("weights") or {"file": "", "sha256": ""}
        if not isinstance(source, str) or not source.startswith(tuple(f"{one}:" for one in KNOWN_LIBRARIES)):
            raise ValueError(f"network {short(source)}: expected torchvision:NAME or timm:NAME")
        if not isinstance(begun, dict) or not all(isinstance(begun.get(key), str) for key in ("file", "sha256")):
            raise ValueError(f"weights {short(begun)}: expected a file and its sha256")
        return replace(KnownNetwork.load(source), weights=Path(begun["file"]).name, sha256=begun["sha256"])

    @staticmethod
    def read(path: Path) -> KnownNetwork:
        """The network of a run's network.json. ValueError: it is none."""
        found = plain(text(path))
        return KnownNetwork.from_fields(found if isinstance(found, dict) else {})

    def fields(self) -> dict[str, Any]:
        begun = {"weights": {"file": self.weights, "sha256": self.sha256}} if self.weights else {}
        return {"network": str(self)} | begun

    def to_json(self) -> str:
        return fields_to_json(self.fields())

    def save(self, path: str | Path) -> None:
        """Writes the JSON form atomically."""
        write_atomic(Path(path), self.to_json())

    def settled(self, config: EvaluateConfig) -> EvaluateConfig:
        return replace(config, auxiliary=0.0, drop_path=0.0, compile=False)

    def network(self, config: EvaluateConfig, classes: int) -> nn.Module:
        network = self.built(classes)
        if self.weights:
            self._begin(network, classes)
        return network

    def size(self, config: EvaluateConfig) -> str:
        return str(self)

    def notes(self, config: EvaluateConfig, classes: int, image_size: int, iterations: int) -> list[str]:
        network = self.rebuilt({}, classes)
        said = [
            f"{self} is as {self.library} builds it: the recipe's cells, channels, form, auxiliary head and drop-path "
            "have no part in it"
        ]
        if self.weights:
            fresh = self._begin(network, classes)
            of = f"; of random weights: {', '.join(fresh)}, for {classes} classes" if fresh else ""
            said.append(printable(f"{self} begins from the weights of {self.place}{of}"))
        if image_size < FEW:
            said.append(
                f"{self} was made for images of {USUAL} pixels: at {image_size} its last maps are a pixel or so, which "
                "costs it accuracy"
            )
        momenta: list[Any] = [m.momentum for m in network.modules() if getattr(m, "running_mean", None) is not None]
        slowest = min((momentum for momentum in momenta if momentum), default=1.0)
        if (kept := (1 - slowest) ** iterations) > FORGOTTEN:
            said.append(
                f"{self}: {iterations} steps are few for its batch norms, whose momentum is {slowest:.2g}: {kept:.0%} "
                "of each running statistic will be the initial value, and the test error may be near chance"
            )
        return said

    def described(self, config: EvaluateConfig) -> dict[str, Any]:
        return self.fields()

    def rebuilt(self, about: Mapping[str, Any], classes: int) -> nn.Module:
        from dasgm.bilevel import replay

        with replay("never drawn from"):
            return self.built(classes)

    def built(self, classes: int) -> nn.Module:
        """With random weights, on the CPU."""
        from dasgm.designs.libraries import build

        return build(self.library, self.name, classes)

    def _begin(self, network: nn.Module, classes: int) -> list[str]:
        """Load the file's weights. Returns the names of those that stay random: a head for other classes."""
        from dasgm.designs.libraries import begin

        path = self.place or self.beginning(None).place
        if path is None or _digest(path) != self.sha256:
            raise ValueError(f"--weights {path}: the file has changed since the run began; use another --name")
        try:
            return begin(network, path, classes)
        except ValueError as error:
            raise ValueError(f"--weights {path}: {error}; expected a file of {self}'s weights") from None


def is_known(source: str | Path) -> bool:
    """Whether it names a network of a library rather than a genotype."""
    return str(source).startswith(tuple(f"{library}:" for library in KNOWN_LIBRARIES))


@cache
def names(library: str) -> tuple[str, ...]:
    """The classifiers of a library."""
    if library == "timm":
        import timm

        return tuple(timm.list_models())
    from torchvision import models

    return tuple(models.list_models(module=models))


def _others(library: str) -> list[str]:
    """Its networks that are no classifiers of images."""
    if library == "timm":
        return []
    from torchvision import models

    return models.list_models()


def _digest(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or /dev/zero would be read for ever
            raise ValueError(f"--weights {path}: not a regular file; expected a local file of weights")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"--weights {path}: {error.strerror}; expected a local file of weights") from None
