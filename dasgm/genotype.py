"""Genotype: a discrete cell architecture, which search, evaluation and pictures exchange."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dasgm.spellings import CHOOSABLE, EXAMPLE, FIELDS, is_text, read
from dasgm.spellings import PRIMITIVES as PRIMITIVES
from dasgm.spellings import SKIP as SKIP
from dasgm.store.files import plain, printable, short, text, write_atomic
from dasgm.store.replica import here

NODES = 4  # intermediate nodes of a cell
INPUTS = tuple(2 + node for node in range(NODES))  # edges into each node: from the two inputs and all earlier nodes
EDGES = sum(INPUTS)  # 14
CONCAT = tuple(range(2, 2 + NODES))  # states that a cell's output concatenates: all of its nodes
LARGEST = 2**20  # bytes of a genotype.json

Edge = tuple[str, int]
"""Operation and the state that it reads: 0 is the output of the cell before the last, 1 that of the last cell, and
2 + i node i."""


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell: two edges per node, in the order of the nodes, and the states that the output
    concatenates.

    Lists are accepted and become tuples.

    Raises:
        ValueError: the values do not describe a cell. The message is one line.
    """

    normal: tuple[Edge, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Edge, ...]
    reduce_concat: tuple[int, ...]

    def __post_init__(self) -> None:
        for kind in ("normal", "reduce"):
            edges = _edges(kind, getattr(self, kind))
            object.__setattr__(self, kind, edges)
            concat = f"{kind}_concat"
            object.__setattr__(self, concat, _concat(concat, getattr(self, concat), 2 + len(edges) // 2))

    def to_json(self) -> str:
        fields = {name: json.dumps(getattr(self, name)) for name in FIELDS}
        return "{\n" + ",\n".join(f'  "{name}": {value}' for name, value in fields.items()) + "\n}\n"

    @classmethod
    def from_json(cls, json_text: str) -> Genotype:
        try:
            value = plain(json_text)
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from None
        if not isinstance(value, dict):
            raise ValueError(f"a genotype is an object with the keys {', '.join(FIELDS)}, not {short(value)}")
        return cls._from_fields(value)

    @classmethod
    def _from_fields(cls, fields: dict[str, object]) -> Genotype:
        missing, unknown = set(FIELDS) - fields.keys(), fields.keys() - set(FIELDS)
        if missing:
            raise ValueError(f"a genotype needs {', '.join(FIELDS)}; missing: {', '.join(sorted(missing))}")
        if unknown:
            raise ValueError(f"a genotype has {', '.join(FIELDS)} only; not {short(', '.join(sorted(unknown)))}")
        return cls(**fields)  # type: ignore[arg-type]  # checked in __post_init__

    @classmethod
    def parse(cls, written: str, say: Callable[[str], None] = lambda line: None) -> Genotype:
        """Reads a genotype from text: JSON, the usual `Genotype(normal=[('sep_conv_3x3', 1), ...], ...)`, a log that
        contains it, or the notation of pt.darts, NASLib or NNI. Nothing in the text is evaluated.

        Args:
            say: is called with a line that tells which genotype is read where there are several, and what was added.

        Raises:
            ValueError: the text has no genotype, or it is not certain which one is meant.
        """
        fields, said = read(written)
        if said:
            say(said)
        return cls._from_fields(fields)

    @classmethod
    def load(cls, source: str | Path, say: Callable[[str], None] = _to_stderr) -> Genotype:
        """Loads a genotype by its built-in name, from a file, from the folder of a run, or from its text.

        Args:
            say: is called with a line where the text alone does not tell how it was read.

        Raises:
            ValueError: it cannot be read. The message names the source.
        """
        if str(source) in KNOWN:
            return KNOWN[str(source)]
        if not str(source).strip():
            raise ValueError(f"genotype {str(source)!r}: expected a name, a file, a run's folder or a genotype's text")
        name = printable(str(source)) if len(str(source)) <= 200 else short(str(source), 200)
        if written := genotype_text(source):
            name = "text"
        else:
            written = _file(source, name)
        try:
            return cls.parse(written, lambda line: say(f"genotype {name}: {line}"))
        except ValueError as error:
            raise ValueError(f"genotype {name}: {error}") from None

    @classmethod
    def random(cls, seed: int) -> Genotype:
        """Draws a genotype uniformly from the DARTS space: two different inputs into each of four nodes, and any
        operation but `none` on each edge.

        Args:
            seed: at least 0. The same seed gives the same genotype.

        Raises:
            ValueError: the seed is negative.
        """
        if seed < 0:  # random.Random(-7) equals random.Random(7)
            raise ValueError(f"seed {seed}: expected at least 0")
        draw = random.Random(seed)

        def cell() -> tuple[Edge, ...]:
            pairs = (sorted(draw.sample(range(inputs), 2)) for inputs in INPUTS)
            return tuple((draw.choice(CHOOSABLE), state) for pair in pairs for state in pair)

        return cls(cell(), CONCAT, cell(), CONCAT)

    def save(self, path: str | Path) -> None:
        """Writes the JSON form atomically.

        Raises:
            OSError: it cannot be written. The error names the path.
        """
        try:
            write_atomic(Path(path), self.to_json())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None


def derive(
    operations: Sequence[Sequence[str]], weights: Sequence[Sequence[float]], edges: Sequence[float] | None = None
) -> tuple[Edge, ...]:
    """The 8 edges of a cell: the two strongest into each node, the stronger one first (DARTS, Section 2.4).

    An edge is as strong as its strongest operation other than `none`. If two are equally strong, the earlier input and
    the earlier operation are taken.

    Args:
        operations: names of the candidate operations of each of the 14 edges.
        weights: their softmax weights, [14][operations].
        edges: weight of each edge, [14], by which its strength is multiplied (PC-DARTS); None: all count alike.
    """
    cell: list[Edge] = []
    first = 0
    for node in range(NODES):
        found = []
        for state in range(INPUTS[node]):
            edge = first + state
            candidates = [c for c in zip(weights[edge], operations[edge], strict=True) if c[1] != "none"]
            if candidates:
                weight, name = max(candidates, key=lambda c: c[0])
                found.append((weight * (edges[edge] if edges is not None else 1.0), name, state))
        assert len(found) >= 2, f"node {2 + node} has fewer than two edges with an operation"
        found.sort(key=lambda f: -f[0])
        cell += [(name, state) for _, name, state in found[:2]]
        first += INPUTS[node]
    return tuple(cell)


def _edges(kind: str, value: object) -> tuple[Edge, ...]:
    if not isinstance(value, list | tuple) or not value or len(value) % 2:
        raise ValueError(f"{kind}: expected a list of [operation, input], two for each node, not {short(value)}")
    edges: list[Edge] = []
    for position, pair in enumerate(value):
        where, node = f"{kind}, edge {position}", 2 + position // 2
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"{where}: expected [operation, input], not {short(pair)}")
        name, state = pair
        if name not in CHOOSABLE:
            raise ValueError(f"{where}: unknown operation {short(name)}; {_nearest(name, CHOOSABLE)}")
        if not isinstance(state, int) or isinstance(state, bool) or not 0 <= state < node:
            raise ValueError(f"{where}: input {short(state)} into node {node}; expected 0 to {node - 1}")
        edges.append((name, state))
    return tuple(edges)


def _concat(field: str, value: object, states: int) -> tuple[int, ...]:
    """The states that a cell concatenates: any of its nodes, each at most once."""
    nodes = range(2, states)
    if not isinstance(value, list | tuple) or not value or len(set(map(repr, value))) < len(value):
        raise ValueError(f"{field}: expected a list of nodes like {list(nodes)}, not {short(value)}")
    for state in value:
        if not isinstance(state, int) or isinstance(state, bool) or state not in nodes:
            raise ValueError(f"{field}: {short(state)} is no node; expected {nodes[0]} to {nodes[-1]}")
    return tuple(value)


def genotype_text(source: str | Path) -> str:
    """`source` if it is the text of a genotype and not the name of a file, else ''."""
    return str(source) if is_text(str(source)) and not os.path.exists(source) else ""


def name_of(source: str | Path) -> str:
    """A name for what is made from a genotype: the stem of its file or folder, or for a text one that contains its
    digest.
    """
    if written := genotype_text(source):
        return f"genotype-{hashlib.sha256(written.encode(errors='surrogateescape')).hexdigest()[:8]}"
    return Path(source).stem


def _file(source: str | Path, name: str) -> str:
    """The text of a file, or of genotype.json in the folder of a run. Raises ValueError, which names the source."""
    try:
        path = here(source)
        if path.is_dir():
            path = path / "genotype.json"
            if not path.is_file():
                raise ValueError("the folder has no genotype.json")
        return text(path)
    except FileNotFoundError:
        raise ValueError(f"genotype {name}: {_suggest(str(source))}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        expected = f"expected JSON, text with {EXAMPLE}, or a run's folder"
        raise ValueError(f"genotype {name}: {reason}; {expected}") from None


def _nearest(name: object, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name), names, 1)
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(names)}"


def _suggest(source: str) -> str:
    if "/" in source or source.endswith((".json", ".txt", ".log")):
        return "no such file"
    return f"no such name or file; {_nearest(source, list(KNOWN))}"


def _cell(text: str) -> tuple[Edge, ...]:
    """The edges written in the shorthand of the table below."""
    names = {
        "max": "max_pool_3x3",
        "avg": "avg_pool_3x3",
        "skip": SKIP,
        "sep3": "sep_conv_3x3",
        "sep5": "sep_conv_5x5",
        "dil3": "dil_conv_3x3",
        "dil5": "dil_conv_5x5",
    }
    pairs = [edge.rstrip(")").split("(") for edge in text.split()]
    return tuple((names[name], int(state)) for name, state in pairs)


def _known(normal: str, reduce: str) -> Genotype:
    return Genotype(_cell(normal), CONCAT, _cell(reduce), CONCAT)


# As published with DARTS (Liu et al., 2019), P-DARTS (Chen et al., 2019) and PC-DARTS (Xu et al., 2020).
KNOWN: dict[str, Genotype] = {
    "DARTS_V1": _known(
        "sep3(1) sep3(0)  skip(0) sep3(1)  skip(0) sep3(1)  sep3(0) skip(2)",
        "max(0) max(1)  skip(2) max(0)  max(0) skip(2)  skip(2) avg(0)",
    ),
    "DARTS_V2": _known(
        "sep3(0) sep3(1)  sep3(0) sep3(1)  sep3(1) skip(0)  skip(0) dil3(2)",
        "max(0) max(1)  skip(2) max(1)  max(0) skip(2)  skip(2) max(1)",
    ),
    "PDARTS": _known(
        "skip(0) dil3(1)  skip(0) sep3(1)  sep3(1) sep3(3)  sep3(0) dil5(4)",
        "avg(0) sep5(1)  sep3(0) dil5(2)  max(0) dil3(1)  dil3(1) dil5(3)",
    ),
    "PC_DARTS_cifar": _known(
        "sep3(1) skip(0)  sep3(0) dil3(1)  sep5(0) sep3(1)  avg(0) dil3(1)",
        "sep5(1) max(0)  sep5(1) sep5(2)  sep3(0) sep3(3)  sep3(1) sep3(2)",
    ),
    "PC_DARTS_image": _known(
        "skip(1) sep3(0)  sep3(0) skip(1)  sep3(1) sep3(3)  sep3(1) dil5(4)",
        "sep3(0) skip(1)  dil5(2) max(1)  sep3(2) sep3(1)  sep5(0) sep3(3)",
    ),
}
