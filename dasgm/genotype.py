"""Genotype: a discrete architecture, which search, evaluation and pictures exchange.

A genotype belongs to a search space, whose file has the class; what is read is recognised by its form.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dasgm.plugins import keys, nearest, plugin
from dasgm.spellings import CONCAT as CONCAT
from dasgm.spellings import EDGES as EDGES
from dasgm.spellings import INPUTS as INPUTS
from dasgm.spellings import NODES as NODES
from dasgm.spellings import PRIMITIVES as PRIMITIVES
from dasgm.spellings import SKIP as SKIP
from dasgm.store.files import plain, printable, short, text, write_atomic
from dasgm.store.replica import here

if TYPE_CHECKING:
    from dasgm.networks.network import DerivedNetwork, Form
    from dasgm.recipes import EvaluateConfig
    from dasgm.spaces._base import SearchSpace

LARGEST = 2**20  # bytes of a genotype.json
KNOWN_LIBRARIES = ("torchvision", "timm")  # LIBRARY:NAME is a network of one, which has no genotype
DEFAULT_SPACE = "darts"  # of files that name none: they were written before there were others

Edge = tuple[str, int]
"""Operation and the state that it reads."""


def edge_number(inputs: Sequence[int], node: int, state: int) -> int:
    """Number of the edge from a state into a node of a cell: its row of A. Edges are counted by node, then by state.

    Args:
        inputs: number of edges into each node (`SearchSpace.inputs`).
        node: counted from 0, without the inputs of the cell.
    """
    return sum(inputs[:node]) + state


@dataclass(frozen=True)
class Graph:
    """A cell as a graph, for pictures and for people."""

    states: tuple[str, ...]
    """Names of the states: the inputs of the cell, then its nodes. `c_{k-1}` is the output of the last cell."""
    inputs: int
    """Number of states that are inputs."""
    edges: tuple[tuple[str, int, int], ...]
    """Operation, the state that it reads, and the node that it is summed into."""
    output: tuple[int, ...] = ()
    """States whose concatenation is the cell's output. Empty: the last node is."""

    @property
    def connected(self) -> bool:
        """Whether a path of operations other than `none` leads from an input to the output."""
        reached = set(range(self.inputs))
        for name, state, node in self.edges:
            if name != "none" and state in reached:
                reached.add(node)
        return not reached.isdisjoint(self.output or (len(self.states) - 1,))


def to_stderr(line: str) -> None:
    """Say it where it does not mix with a command's output."""
    print(line, file=sys.stderr)


class Genotype:
    """An architecture of a search space, an immutable value. The file of a space derives its own class."""

    @property
    def space(self) -> SearchSpace:
        """The space that it is of."""
        raise NotImplementedError

    @property
    def graphs(self) -> dict[str, Graph]:
        """The cell of each type (`SearchSpace.cell_types`)."""
        raise NotImplementedError

    @property
    def connected(self) -> bool:
        """Whether images reach the classifier. Where they do not, accuracy is that of chance."""
        return all(graph.connected for graph in self.graphs.values())

    # what an evaluation asks of a design (dasgm/designs/design.py)

    kind: ClassVar[str] = "genotype"
    unused: ClassVar[tuple[str, ...]] = ()

    @property
    def recipes(self) -> Mapping[str, str]:
        return self.space.recipes

    def settled(self, config: EvaluateConfig) -> EvaluateConfig:
        return config

    def network(self, config: EvaluateConfig, classes: int) -> DerivedNetwork:
        return self.build(config.channels, config.cells, classes, config.form, config.auxiliary > 0)

    def size(self, config: EvaluateConfig) -> str:
        return f"{config.cells} cells and {config.channels} channels"

    def notes(self, config: EvaluateConfig, classes: int, image_size: int, iterations: int) -> list[str]:
        return []

    def described(self, config: EvaluateConfig) -> dict[str, Any]:
        sizes = {"form": config.form, "cells": config.cells, "channels": config.channels}
        return {"genotype": json.loads(self.to_json())} | sizes

    def rebuilt(self, about: Mapping[str, Any], classes: int) -> DerivedNetwork:
        return self.build(about["channels"], about["cells"], classes, about["form"])

    @property
    def skips_alone(self) -> bool:
        """Whether the cell of the first type (in DARTS's space the normal one) has no operation but skip connections
        and `none`, as a search that has collapsed leaves it.
        """
        cell = next(iter(self.graphs.values()))
        return {name for name, _, _ in cell.edges} - {"none"} == {SKIP}

    def to_json(self) -> str:
        """An object, whose key `space` names the space; without it, it is DARTS's."""
        raise NotImplementedError

    def build(
        self, channels: int, cells: int, classes: int, form: Form = "cifar", auxiliary: bool = False
    ) -> DerivedNetwork:
        """The network of this genotype, which is trained from scratch.

        Args:
            channels: number of channels of the first cells. It doubles where the map is halved.
            cells: number of cells, at least 3, including the two that halve the map.
            form: `cifar` has a stem that keeps the size of the image, `imagenet` one that divides it by 8.
            auxiliary: whether there is a second head, for `forward_with_auxiliary`.

        Raises:
            ValueError: a size, a form or a head that the networks of the space cannot have.
        """
        raise NotImplementedError

    def lines(self) -> dict[str, str]:
        """The cell of each type in a line."""
        return {
            name: "  ".join(f"{operation}({state})" for operation, state, _ in graph.edges)
            for name, graph in self.graphs.items()
        }

    def save(self, path: str | Path) -> None:
        """Writes the JSON form atomically.

        Raises:
            OSError: it cannot be written. The error names the path.
        """
        try:
            write_atomic(Path(path), self.to_json())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None

    @staticmethod
    def from_json(json_text: str) -> Genotype:
        """The genotype that `to_json` wrote.

        Raises:
            ValueError: it is not one. The message is one line.
        """
        try:
            value = plain(json_text)
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from None
        key = value.get("space", DEFAULT_SPACE) if isinstance(value, dict) else DEFAULT_SPACE
        if not isinstance(key, str):
            raise ValueError(f"space {short(key)}: expected one of {', '.join(keys('spaces'))}")
        return space_of(key).from_fields(value)

    @staticmethod
    def parse(written: str, say: Callable[[str], None] = lambda line: None) -> Genotype:
        """Reads a genotype from text, which may be JSON, a log that contains it, or a notation of other programs.
        Nothing in the text is evaluated.

        Args:
            say: is called with a line that tells which genotype is read where there are several, and what was added.

        Raises:
            ValueError: the text has no genotype, or it is not certain which one is meant.
        """
        having = [key for key in keys("spaces") if space_of(key).recognises(written)]
        if len(having) > 1:
            raise ValueError(f"it has genotypes of several search spaces ({', '.join(having)}): keep one of them")
        return space_of(having[0] if having else DEFAULT_SPACE).parse(written, say)

    @staticmethod
    def load(source: str | Path, say: Callable[[str], None] = to_stderr) -> Genotype:
        """Loads a genotype by its built-in name, from a file, from the folder of a run, or from its text.

        Args:
            say: is called with a line where the text alone does not tell how it was read.

        Raises:
            ValueError: it cannot be read. The message names the source.
        """
        if str(source) in known():
            return known()[str(source)]
        if not str(source).strip():
            raise ValueError(f"genotype {str(source)!r}: expected a name, a file, a run's folder or a genotype's text")
        name = printable(str(source)) if len(str(source)) <= 200 else short(str(source), 200)
        if str(source).startswith(tuple(f"{library}:" for library in KNOWN_LIBRARIES)):
            raise ValueError(f"genotype {name}: a known network has no cells; dasgm evaluate and measure take it")
        if written := genotype_text(source):
            name = "text"
        else:
            written = _file(source, name)
        try:
            return Genotype.parse(written, lambda line: say(f"genotype {name}: {line}"))
        except ValueError as error:
            raise ValueError(f"genotype {name}: {error}") from None


def space_of(key: str) -> SearchSpace:
    """The search space called `key`. ValueError: there is none."""
    found: SearchSpace = plugin("spaces", key)()
    return found


def known() -> Mapping[str, Genotype]:
    """The built-in genotypes of all spaces, by name."""
    return {name: found for key in keys("spaces") for name, found in space_of(key).known.items()}


def genotype_text(source: str | Path) -> str:
    """`source` if it is the text of a genotype and not the name of a file, else ''."""
    written = any(space_of(key).is_text(str(source)) for key in keys("spaces"))
    return str(source) if written and not os.path.exists(source) else ""


def name_of(source: str | Path) -> str:
    """A name for what is made from a genotype: the stem of its file or folder, or for a text one that contains its
    digest.
    """
    if written := genotype_text(source):
        return f"genotype-{hashlib.sha256(written.encode(errors='surrogateescape')).hexdigest()[:8]}"
    return Path(source).stem


def fields_to_json(fields: Mapping[str, Any]) -> str:
    """An object with a key in each line."""
    return "{\n" + ",\n".join(f'  "{name}": {json.dumps(value)}' for name, value in fields.items()) + "\n}\n"


def _file(source: str | Path, name: str) -> str:
    """The text of a file, or of genotype.json in the folder of a run. Raises ValueError, which names the source."""
    try:
        path = here(source)
        if path.is_dir():
            if (path / "network.json").is_file():
                raise ValueError("the folder is of a known network, which has no cells")
            path = path / "genotype.json"
            if not path.is_file():
                raise ValueError("the folder has no genotype.json")
        return text(path)
    except FileNotFoundError:
        raise ValueError(f"genotype {name}: {_suggest(str(source))}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        expected = f"expected JSON, text with {space_of(DEFAULT_SPACE).example}, or a run's folder"
        raise ValueError(f"genotype {name}: {reason}; {expected}") from None


def closest(name: object, names: Sequence[str]) -> str:
    """The nearest of `names`, or all of them, as the end of a message."""
    close = difflib.get_close_matches(str(name), names, 1)
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(names)}"


def _suggest(source: str) -> str:
    if "/" in source or source.endswith((".json", ".txt", ".log")):
        return "no such file"
    return f"no such name or file{nearest(source, list(known()))}; `dasgm measure --list` lists the names"
