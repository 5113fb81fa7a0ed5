"""The space of DARTS (arXiv 1806.09055): a normal and a reduction cell of four nodes with two inputs each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dasgm.genotype import Edge, Genotype, Graph, closest, edge_number, fields_to_json
from dasgm.spaces import _base
from dasgm.spaces._released import RELEASED
from dasgm.spellings import CHOOSABLE, CONCAT, EXAMPLE, FIELDS, INPUTS, NODES, PRIMITIVES, SKIP, has_call, is_text, read
from dasgm.store.files import short

if TYPE_CHECKING:
    from torch import nn

    from dasgm.methods._base import Operations, Stage, Weights
    from dasgm.networks.network import Form, Network
    from dasgm.networks.supernet import Supernet


class SearchSpace(_base.SearchSpace):
    """DARTS's cells: eight operations on 14 edges, of which each node keeps two."""

    cell_types = ("normal", "reduce")
    titles = ("normal cell", "reduction cell")
    about = (
        "Blue: the outputs of the two preceding cells. Each numbered node is the sum of its two edges. c<sub>k</sub> "
        "concatenates the four nodes."
    )
    inputs = INPUTS
    kept, drops_paths = 2, True
    states = ("c_{k-2}", "c_{k-1}", *map(str, range(NODES)))
    operations = PRIMITIVES
    dearest = (
        "sep_conv_5x5", "sep_conv_3x3", "dil_conv_5x5", "dil_conv_3x3", SKIP, "max_pool_3x3", "avg_pool_3x3", "none"
    )  # fmt: skip
    sizes = {"cifar": (20, 36), "imagenet": (14, 48)}
    smallest = 3
    auxiliary = True
    recipes = {"": "cifar", "digits": "digits-small", "imagenet": "imagenet", "photographs": "photographs"}
    example = EXAMPLE

    @property
    def known(self) -> Mapping[str, DartsGenotype]:
        return KNOWN

    @property
    def sources(self) -> Mapping[str, str]:
        return SOURCES

    def supernet(self, stage: Stage, classes: int) -> Supernet:
        from dasgm.networks.supernet import Supernet

        return Supernet(stage, classes)

    def places(self, cells: int, channels: int) -> Iterator[_base.Place]:
        from dasgm.networks.operations import reductions

        shrinks = 1
        for index in range(cells):
            reduction = index in reductions(cells)
            channels, after = (2 * channels, 2 * shrinks) if reduction else (channels, shrinks)
            for edge, state in enumerate(state for inputs in INPUTS for state in range(inputs)):
                halves = reduction and state < 2  # what leaves the inputs
                yield _base.Place(reduction, edge, channels, 2 if halves else 1, shrinks if halves else after)
            shrinks = after

    def operation(self, name: str, channels: int, stride: int) -> nn.Module:
        from dasgm.networks.operations import operation

        return operation(name, channels, stride, affine=True)

    def derive(
        self, operations: Operations, weights: Weights, edges: Sequence[float] | None = None
    ) -> tuple[Edge, ...]:
        """The two strongest edges into each node, each with its strongest operation (DARTS, Section 2.4)."""
        return derive(operations, weights, edges)

    def genotype(self, cells: Sequence[Sequence[Edge]]) -> DartsGenotype:
        """A cell's output concatenates its nodes, but those whose edges are all `none`."""
        normal, reduce = map(tuple, cells)
        return DartsGenotype(normal, _fed(normal), reduce, _fed(reduce))

    def random(self, seed: int) -> DartsGenotype:
        """Two different inputs into each of four nodes, and any operation but `none` on each edge."""
        draw = self.stream(seed)

        def cell() -> tuple[Edge, ...]:
            pairs = (sorted(draw.sample(range(inputs), 2)) for inputs in INPUTS)
            return tuple((draw.choice(CHOOSABLE), state) for pair in pairs for state in pair)

        return DartsGenotype(cell(), CONCAT, cell(), CONCAT)

    def is_text(self, source: str) -> bool:
        return is_text(source)

    def recognises(self, written: str) -> bool:
        return has_call(written)

    def parse(self, written: str, say: Callable[[str], None]) -> DartsGenotype:
        fields, said = read(written)
        if said:
            say(said)
        return self.from_fields(fields)

    def from_fields(self, fields: object) -> DartsGenotype:
        if not isinstance(fields, dict):
            raise ValueError(f"a genotype is an object with the keys {', '.join(FIELDS)}, not {short(fields)}")
        missing, unknown = set(FIELDS) - fields.keys(), fields.keys() - {*FIELDS, "space"}
        if missing:
            raise ValueError(f"a genotype needs {', '.join(FIELDS)}; missing: {', '.join(sorted(missing))}")
        if unknown:
            raise ValueError(f"a genotype has {', '.join(FIELDS)} only; not {short(', '.join(sorted(unknown)))}")
        return DartsGenotype(**{name: fields[name] for name in FIELDS})


@dataclass(frozen=True)
class DartsGenotype(Genotype):
    """A normal and a reduction cell: two edges per node, in the order of the nodes, and the states that the output
    concatenates.

    An edge with the operation `none` is no edge: a node may have two, one or none. A node without edges is 0 where it
    is read. Lists are accepted and become tuples.

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

    @property
    def space(self) -> SearchSpace:
        return SearchSpace()

    @property
    def graphs(self) -> dict[str, Graph]:
        return {"normal": _graph(self.normal, self.normal_concat), "reduce": _graph(self.reduce, self.reduce_concat)}

    def to_json(self) -> str:
        return fields_to_json({name: getattr(self, name) for name in FIELDS})

    def build(
        self,
        channels: int,
        cells: int,
        classes: int,
        form: Form = "cifar",
        auxiliary: bool = False,
    ) -> Network:
        from dasgm.networks.network import Network

        return Network(self, channels, cells, classes, form=form, auxiliary=auxiliary)


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
    for node in range(NODES):
        found = []
        for state in range(INPUTS[node]):
            edge = edge_number(INPUTS, node, state)
            candidates = [c for c in zip(weights[edge], operations[edge], strict=True) if c[1] != "none"]
            if candidates:
                weight, name = max(candidates, key=lambda c: c[0])
                found.append((weight * (edges[edge] if edges is not None else 1.0), name, state))
        assert len(found) >= 2, f"node {2 + node} has fewer than two edges with an operation"
        found.sort(key=lambda f: -f[0])
        cell += [(name, state) for _, name, state in found[:2]]
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
        if name not in PRIMITIVES:
            raise ValueError(f"{where}: unknown operation {short(name)}; {closest(name, PRIMITIVES)}")
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


def _graph(edges: Sequence[Edge], concat: Sequence[int]) -> Graph:
    nodes = len(edges) // 2
    return Graph(
        states=("c_{k-2}", "c_{k-1}", *map(str, range(nodes))),
        inputs=2,
        edges=tuple((name, state, 2 + position // 2) for position, (name, state) in enumerate(edges) if name != "none"),
        output=tuple(concat),
    )


def _fed(edges: Sequence[Edge]) -> tuple[int, ...]:
    """The nodes that have an edge."""
    return tuple(dict.fromkeys(2 + position // 2 for position, (name, _) in enumerate(edges) if name != "none"))


def _cell(written: str) -> tuple[tuple[Edge, ...], tuple[int, ...]]:
    """The edges and the concatenated nodes of a cell in the shorthand of `RELEASED`."""
    names = {
        "max": "max_pool_3x3",
        "avg": "avg_pool_3x3",
        "skip": SKIP,
        "sep3": "sep_conv_3x3",
        "sep5": "sep_conv_5x5",
        "dil3": "dil_conv_3x3",
        "dil5": "dil_conv_5x5",
        "none": "none",
    }
    words = written.split()
    pairs = (("none(0)" if word == "-" else word).rstrip(")").split("(") for word in words)
    edges = tuple((names[name], int(state)) for name, state in pairs)
    concat = (2 + i // 2 for i in range(0, len(words), 2) if words[i : i + 2] != ["-", "-"])
    return edges, tuple(concat)


KNOWN: dict[str, DartsGenotype] = {
    name: DartsGenotype(*_cell(normal), *_cell(reduce))
    for cells in RELEASED.values()
    for name, (normal, reduce) in cells.items()
}
SOURCES = {name: paper for paper, cells in RELEASED.items() for name in cells}
