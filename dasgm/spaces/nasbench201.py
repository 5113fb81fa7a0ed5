"""The space of NAS-Bench-201 (arXiv 2001.00326): a cell of three nodes, each the sum of one operation on every earlier
state, so that there are 5^6 architectures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from dasgm.genotype import SKIP, Edge, Genotype, Graph, closest, fields_to_json
from dasgm.options import option
from dasgm.spaces import _base
from dasgm.store.files import short

if TYPE_CHECKING:
    from torch import nn

    from dasgm.methods._base import Operations, Stage, Weights
    from dasgm.networks.nasbench201 import Network, Supernet
    from dasgm.networks.network import Form

OPERATIONS = ("none", SKIP, "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
INPUTS = (1, 2, 3)
PAIRS = tuple((source, node) for node in (1, 2, 3) for source in range(node))
"""(source, target) of each edge. State 0 is the cell's input, state 3 its output."""
EXAMPLE = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"

_CELL = re.compile(r"\+".join(r"\|" + r"\|".join(rf"(\w+)~{i}" for i in range(n)) + r"\|" for n in INPUTS))
_FORM = re.compile(r"\|\w+~0\|\+")


@dataclass(frozen=True)
class CellGenotype(Genotype):
    """The operation of each of the six edges, in the order 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2. `none` is one of them.

    Raises:
        ValueError: the values do not describe a cell. The message is one line.
    """

    operations: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.operations, list | tuple) or len(self.operations) != len(PAIRS):
            raise ValueError(f"cell: expected {len(PAIRS)} operations, not {short(self.operations)}")
        for (source, target), name in zip(PAIRS, self.operations, strict=True):
            if name not in OPERATIONS:
                raise ValueError(
                    f"cell, node {target}, input {source}: unknown operation {short(name)}; {closest(name, OPERATIONS)}"
                )
        object.__setattr__(self, "operations", tuple(self.operations))

    def __str__(self) -> str:
        """The notation of NAS-Bench-201, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`."""
        edges = [f"{name}~{source}" for name, (source, _) in zip(self.operations, PAIRS, strict=True)]
        return f"|{edges[0]}|+|{'|'.join(edges[1:3])}|+|{'|'.join(edges[3:])}|"

    @property
    def space(self) -> SearchSpace:
        return SearchSpace()

    @property
    def graphs(self) -> dict[str, Graph]:
        edges = ((name, source, target) for name, (source, target) in zip(self.operations, PAIRS, strict=True))
        return {"cell": Graph(SearchSpace.states, 1, tuple(edges))}

    def lines(self) -> dict[str, str]:
        return {"cell": str(self)}

    def to_json(self) -> str:
        return fields_to_json({"space": "nasbench201", "cell": str(self)})

    def build(self, channels: int, cells: int, classes: int, form: Form = "cifar", auxiliary: bool = False) -> Network:
        self.space.usual(form)
        if auxiliary:
            raise ValueError(f"auxiliary: a network of nasbench201 has no auxiliary head; set {option('auxiliary')} 0")
        from dasgm.networks.nasbench201 import Network

        return Network(self, channels, cells, classes)


class SearchSpace(_base.SearchSpace):
    """One cell, five operations on six edges. All edges are kept, and `none` may be chosen."""

    cell_types = ("cell",)
    titles = ("cell",)
    about = (
        "Blue: the output of the preceding cell. Yellow: the output of this one. Each node is the sum of its edges; an "
        "edge without an operation (<code>none</code>) is left out."
    )
    inputs = INPUTS
    states = ("c_{k-1}", "1", "2", "c_{k}")
    operations = OPERATIONS
    dearest = ("nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3", SKIP, "none")
    sizes = {"cifar": (17, 16)}
    recipes = {"": "nasbench201", "digits": "nasbench201-small"}
    smallest = 5
    ranked_by = "naswot"
    drops_paths = True
    example = EXAMPLE

    def supernet(self, stage: Stage, classes: int) -> Supernet:
        from dasgm.networks.nasbench201 import Supernet

        return Supernet(stage, classes)

    def places(self, cells: int, channels: int) -> Iterator[_base.Place]:
        from dasgm.networks.operations import reductions

        shrinks = 1
        for index in range(cells):
            if index in reductions(cells):  # a residual block, which is not searched
                channels, shrinks = 2 * channels, 2 * shrinks
            else:
                yield from (_base.Place(0, edge, channels, 1, shrinks) for edge in range(self.edges))

    def operation(self, name: str, channels: int, stride: int) -> nn.Module:
        from dasgm.networks.nasbench201 import operation

        return operation(name, channels)

    def derive(
        self, operations: Operations, weights: Weights, edges: Sequence[float] | None = None
    ) -> tuple[Edge, ...]:
        """The strongest operation of each edge, `none` included; of two equally strong ones the earlier."""
        assert edges is None, "edges have no weights here"
        cell = []
        for (source, _), names, row in zip(PAIRS, operations, weights, strict=True):
            _, name = max(zip(row, names, strict=True), key=lambda candidate: candidate[0])
            cell.append((name, source))
        return tuple(cell)

    def genotype(self, cells: Sequence[Sequence[Edge]]) -> CellGenotype:
        (cell,) = cells
        return CellGenotype(tuple(name for name, _ in cell))

    def random(self, seed: int) -> CellGenotype:
        """Any of the five operations on each edge."""
        draw = self.stream(seed)
        return CellGenotype(tuple(draw.choice(OPERATIONS) for _ in PAIRS))

    def architectures(self) -> Iterator[str]:
        return (str(CellGenotype(operations)) for operations in product(OPERATIONS, repeat=len(PAIRS)))

    def canonical(self, written: str) -> str:
        """The edges of a node may be in any order: the string says from where they come."""
        nodes = [node.removeprefix("|").removesuffix("|").split("|") for node in written.strip().split("+")]
        ordered = [sorted(edges, key=lambda edge: edge.rpartition("~")[2]) for edges in nodes]
        match = _CELL.fullmatch("+".join(f"|{'|'.join(edges)}|" for edges in ordered))
        if match is None:
            raise ValueError(f"cell {short(written, 200)}: expected a string such as {EXAMPLE}")
        return str(CellGenotype(match.groups()))

    def is_text(self, source: str) -> bool:
        return self.recognises(source)

    def recognises(self, written: str) -> bool:
        return bool(_FORM.search(written))

    def parse(self, written: str, say: Callable[[str], None]) -> CellGenotype:
        """Of several genotypes, as in a log, the last is read."""
        found = list(_CELL.finditer(written))
        if not found:
            raise ValueError(f"expected {EXAMPLE}")
        if others := len({match[0] for match in found}) - 1:
            line = written.count("\n", 0, found[-1].start()) + 1
            say(f"{others + 1} genotypes; the last one is taken (line {line})")
        return CellGenotype(found[-1].groups())

    def from_fields(self, fields: object) -> CellGenotype:
        if not isinstance(fields, dict) or fields.keys() != {"space", "cell"}:
            raise ValueError(f"a genotype of nasbench201 has the keys space and cell, not {short(fields)}")
        cell = fields["cell"]
        match = _CELL.fullmatch(cell) if isinstance(cell, str) else None
        if match is None:
            raise ValueError(f"cell {short(cell)}: expected {EXAMPLE}")
        return CellGenotype(match.groups())
