"""Genotype: a discrete cell architecture, the unit of exchange between search, evaluation and pictures."""

from __future__ import annotations

import ast
import difflib
import json
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dasgm.files import plain, text, write_atomic
from dasgm.mirror import here

PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""Candidate operations in the order of the alphas' columns. `none` has a weight in a search, but is never chosen."""
CHOOSABLE = PRIMITIVES[1:]
FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
NODES = 4
LARGEST = 2**20  # bytes of a file

Edge = tuple[str, int]
"""Operation and the state it reads: 0 is the output of the cell before the last, 1 of the last, 2 + i node i."""


@dataclass(frozen=True)
class Genotype:
    """Both cells: two edges a node, nodes in order, and the states that a cell's output concatenates.

    Lists are accepted and become tuples. Raises ValueError, in one line, for what is no cell.
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
            raise ValueError(f"a genotype is an object with the keys {', '.join(FIELDS)}, not {_short(value)}")
        return cls._from_fields(value)

    @classmethod
    def _from_fields(cls, fields: dict[str, object]) -> Genotype:
        missing, unknown = set(FIELDS) - fields.keys(), fields.keys() - set(FIELDS)
        if missing:
            raise ValueError(f"a genotype needs {', '.join(FIELDS)}; missing: {', '.join(sorted(missing))}")
        if unknown:
            raise ValueError(f"a genotype has {', '.join(FIELDS)} only; not {_short(', '.join(sorted(unknown)))}")
        return cls(**fields)  # type: ignore[arg-type]  # checked in __post_init__

    @classmethod
    def parse(cls, written: str) -> Genotype:
        """From JSON, or from the field's `Genotype(normal=[('sep_conv_3x3', 1), ...], ...)`; never evaluated.

        What stands before it on the line (a name, the time in a log) is ignored.
        """
        start = written.find("Genotype(")
        return cls.from_json(written) if start < 0 else cls._from_fields(_call(written[start:]))

    @classmethod
    def load(cls, source: str | Path) -> Genotype:
        """The built-in genotype of that name, or the one in that file or run's folder. ValueError names the source."""
        if str(source) in KNOWN:
            return KNOWN[str(source)]
        path = here(source)
        if path.is_dir():
            path = path / "genotype.json"
            if not path.is_file():
                raise ValueError(f"genotype {source}: no genotype.json there; expected a JSON file or a run's folder")
        try:
            written = text(path, LARGEST)
        except FileNotFoundError:
            raise ValueError(f"genotype {_short(str(source))}: {_suggest(str(source))}") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"genotype {source}: {reason}; expected a JSON file") from None
        try:
            return cls.parse(written)
        except ValueError as error:
            raise ValueError(f"genotype {source}: {error}") from None

    @classmethod
    def random(cls, seed: int) -> Genotype:
        """Uniform over the cells of the DARTS space: two different inputs into each of four nodes, any operation but
        `none` on each edge. The same for the same seed, a number of at least 0 (else ValueError)."""
        if seed < 0:  # Random(-7) is Random(7)
            raise ValueError(f"seed {seed}: expected at least 0")
        draw = random.Random(seed)

        def cell() -> tuple[Edge, ...]:
            pairs = (sorted(draw.sample(range(2 + node), 2)) for node in range(NODES))
            return tuple((draw.choice(CHOOSABLE), state) for pair in pairs for state in pair)

        nodes = tuple(range(2, 2 + NODES))
        return cls(cell(), nodes, cell(), nodes)

    def save(self, path: str | Path) -> None:
        """Write the JSON form, whole or not at all. OSError names the path."""
        try:
            write_atomic(Path(path), self.to_json())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None


def derive(
    operations: Sequence[Sequence[str]], weights: Sequence[Sequence[float]], edges: Sequence[float] | None = None
) -> tuple[Edge, ...]:
    """The 8 edges of one cell: the two strongest into each node, the stronger first (DARTS, Section 2.4).

    `operations` and `weights` [14][operations] hold each edge's candidates and their softmax. An edge is as strong
    as its best operation other than `none`; with PC-DARTS's `edges` [14] that strength times the edge's weight.
    Of equals the earlier input and the earlier operation win.
    """
    cell: list[Edge] = []
    first = 0
    for node in range(NODES):
        found = []
        for state in range(2 + node):
            edge = first + state
            candidates = [c for c in zip(weights[edge], operations[edge], strict=True) if c[1] != "none"]
            if candidates:
                weight, name = max(candidates, key=lambda c: c[0])
                found.append((weight * (edges[edge] if edges is not None else 1.0), name, state))
        assert len(found) >= 2, f"node {2 + node} has fewer than two edges with an operation"
        found.sort(key=lambda f: -f[0])
        cell += [(name, state) for _, name, state in found[:2]]
        first += 2 + node
    return tuple(cell)


def _edges(kind: str, value: object) -> tuple[Edge, ...]:
    if not isinstance(value, list | tuple) or not value or len(value) % 2:
        raise ValueError(f"{kind}: expected a list of [operation, input], two for each node, not {_short(value)}")
    edges: list[Edge] = []
    for position, pair in enumerate(value):
        where, node = f"{kind}, edge {position}", 2 + position // 2
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"{where}: expected [operation, input], not {_short(pair)}")
        name, state = pair
        if name not in CHOOSABLE:
            raise ValueError(f"{where}: unknown operation {_short(name)}; {_nearest(name, CHOOSABLE)}")
        if not isinstance(state, int) or isinstance(state, bool) or not 0 <= state < node:
            raise ValueError(f"{where}: input {_short(state)} into node {node}; expected 0 to {node - 1}")
        edges.append((name, state))
    return tuple(edges)


def _concat(field: str, value: object, states: int) -> tuple[int, ...]:
    """The states that a cell puts out: any of the nodes, each once."""
    nodes = range(2, states)
    if not isinstance(value, list | tuple) or not value or len(set(map(repr, value))) < len(value):
        raise ValueError(f"{field}: expected a list of nodes like {list(nodes)}, not {_short(value)}")
    for state in value:
        if not isinstance(state, int) or isinstance(state, bool) or state not in nodes:
            raise ValueError(f"{field}: {_short(state)} is no node; expected {nodes[0]} to {nodes[-1]}")
    return tuple(value)


def _call(written: str) -> dict[str, object]:
    """The keywords of `Genotype(...)`, literals and range(a, b) only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, about what stands there
            call = ast.parse(written.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("only keywords are read")
        return {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ValueError(
            f"not one Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=range(2, 6), ...): {_short(reason)}"
        ) from None


def _literal(node: ast.expr) -> object:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("range", "list"):
        arguments = [_literal(argument) for argument in node.args]
        if node.func.id == "list" and len(arguments) == 1:
            return arguments[0]
        bounds = [a for a in arguments if isinstance(a, int) and abs(a) < 100]
        if len(bounds) == len(arguments) == 2:
            return list(range(*bounds))
        raise ValueError("expected range(first, last + 1)")
    return ast.literal_eval(node)


def _nearest(name: object, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name), names, 1)
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(names)}"


def _suggest(source: str) -> str:
    if "/" in source or source.endswith((".json", ".txt")):
        return "no such file"
    return f"no such name or file; {_nearest(source, list(KNOWN))}"


def _short(value: object) -> str:
    try:
        found = repr(value)
    except (ValueError, RecursionError):  # a number of too many digits, too many brackets
        found = type(value).__name__
    return found if len(found) <= 60 else found[:57] + "..."


def _cell(text: str) -> tuple[Edge, ...]:
    """Edges from the shorthand of the table below."""
    names = {
        "max": "max_pool_3x3",
        "avg": "avg_pool_3x3",
        "skip": "skip_connect",
        "sep3": "sep_conv_3x3",
        "sep5": "sep_conv_5x5",
        "dil3": "dil_conv_3x3",
        "dil5": "dil_conv_5x5",
    }
    pairs = [edge.rstrip(")").split("(") for edge in text.split()]
    return tuple((names[name], int(state)) for name, state in pairs)


def _known(normal: str, reduce: str) -> Genotype:
    return Genotype(_cell(normal), (2, 3, 4, 5), _cell(reduce), (2, 3, 4, 5))


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
