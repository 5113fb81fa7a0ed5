"""The operations and nodes of DARTS's cells, and the notations of other programs for its genotypes.

Text is read as plain data: nothing in it is evaluated. Imports no torch.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dasgm.store.files import plain, short

SKIP = "skip_connect"
PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    SKIP,
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""Candidate operations in the order of the alphas' columns. In a genotype, `none` is no edge."""
CHOOSABLE = PRIMITIVES[1:]
NODES = 4  # intermediate nodes of a cell
INPUTS = tuple(2 + node for node in range(NODES))  # edges into each node: from the two inputs and all earlier nodes
EDGES = sum(INPUTS)  # 14
CONCAT = tuple(range(2, 2 + NODES))  # states that a cell's output concatenates: all of its nodes
FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
NAMES = {name.replace("_", ""): name for name in CHOOSABLE}
NAMES |= {"maxpool": "max_pool_3x3", "avgpool": "avg_pool_3x3"}  # NNI, NASLib
NAMES |= dict.fromkeys(("skip", "identity", "factorizedreduce"), SKIP)
EXAMPLE = "Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=range(2, 6), ...)"
UNUSED = ("connectN", "connects")  # fields of AutoDL-Projects, None in cells
SKIPS = 2  # skip connections that P-DARTS's authors leave in a normal cell
LONGEST = 2**20  # characters of one genotype
MOST = 10_000  # genotypes in one text

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_CALL = re.compile(r"\bGenotype\w*[ \t]*\(")
_TOKEN = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|#[^\n]*|[()\[\]{}]")
_LIMIT = re.compile(r"Number of skip-connect: (\d+)")
_NNI_HUB = re.compile(r"(normal|reduce)/(?:op|input)_(\d{1,2})_\d")
_NNI = re.compile(r"(normal|reduce)_n(\d{1,2})_(?:p\d|switch)")
_SAME = {"int", "str", "str_", "list", "tuple", "array", "asarray", "tensor", "intp", "intc"}
_SAME |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def has_call(written: str) -> bool:
    """Whether there is a call `Genotype(...)` in a text."""
    return bool(_CALL.search(_COLOUR.sub("", written)))


def is_text(source: str) -> bool:
    """Whether `source` looks like the text of a genotype, rather than its name or a path."""
    return has_call(source) or bool(re.match(r"\s*[\[({]", source))


def read(written: str) -> tuple[dict[str, Any], str]:
    """Finds the genotype in `written`, which may be a whole log, the text of one genotype, or JSON.

    All common spellings of operations and lists are understood. Values that are not are returned unchanged.

    Returns:
        The fields of the genotype, and a line that tells the user how they were found ('' if there is nothing to tell).

    Raises:
        ValueError: there is no genotype, or it is not certain which one is meant. The message is one line with the
            place.
    """
    written = _COLOUR.sub("", written)  # of a terminal's log
    if not written.strip():
        raise ValueError(f"it is empty; expected {EXAMPLE} or JSON")
    if calls := _calls(written):
        call, said = _chosen(calls)
        return _fields(_parsed(call), said)
    if len(written) > LONGEST:
        raise ValueError(f"no genotype in {len(written):,} characters; expected {EXAMPLE} or JSON")
    return _fields(_value(written), "")


@dataclass(frozen=True)
class _Call:
    """A call `Genotype(...)` in a text."""

    written: str
    closed: bool
    name: str = ""
    """What it is assigned to, if anything."""
    line: int = 1
    column: int = 1
    limit: int = SKIPS
    """The number of skip connections that P-DARTS allowed it."""

    def at(self, row: int, column: int) -> str:
        """A place within it, line and column counted from 1, as a place in the whole text."""
        return f"line {self.line + row - 1}, column {column + (self.column - 1 if row == 1 else 0)}"


def _calls(written: str) -> list[_Call]:
    found: list[_Call] = []
    starts = [match.start() for match in islice(_CALL.finditer(written), MOST + 1)]
    if len(starts) > MOST:
        raise ValueError(f"more than {MOST:,} genotypes: keep one in the file")
    line, line_start, before = 1, 0, 0
    for start, end in zip(starts, [*starts[1:], len(written)], strict=False):
        if newlines := written.count("\n", before, start):
            line, line_start = line + newlines, written.rfind("\n", before, start) + 1
        name = re.search(r"(\w+)[ \t]*=[ \t]*$", written[max(line_start, before, start - 200) : start])
        limits = _LIMIT.findall(written, before, start)
        text, closed = _up_to_bracket(written[start:end])
        limit = int(limits[-1][:4]) if limits else SKIPS
        found.append(_Call(text, closed, name[1] if name else "", line, start - line_start + 1, limit))
        before = start
    return found


def _up_to_bracket(written: str) -> tuple[str, bool]:
    """The text up to the bracket that closes the first one; the whole text and False if none does."""
    depth = 0
    for token in _TOKEN.finditer(written):
        depth += (token[0] in "([{") - (token[0] in ")]}")
        if not depth and token[0] in ")]}":
            return written[: token.end()], True
    return written, False


def _chosen(calls: Sequence[_Call]) -> tuple[_Call, str]:
    """The last genotype, and a line that says so if the others differ from it.

    Raises:
        ValueError: they are assigned to different names, so they come from different searches.
    """
    limited = [call for call in calls if call.limit >= SKIPS] or calls
    last = limited[-1]
    if len({call.written for call in calls}) == 1:
        return last, ""
    if len({call.name for call in calls}) > 1:
        named = ", ".join(f"{call.name or 'without a name'} in line {call.line}" for call in calls[:8])
        more = ", ..." if len(calls) > 8 else ""
        raise ValueError(
            f"{len(calls)} genotypes ({named}{more}): keep one in the file, or give its text itself as the argument"
        )
    of_pdarts = "" if len(limited) == len(calls) else f" with {SKIPS} skip connections or more, as P-DARTS chooses it,"
    return last, f"{len(calls)} genotypes; the last one{of_pdarts} is taken (line {last.line})"


def _parsed(call: _Call) -> dict[str, Any]:
    if not call.closed:
        raise ValueError(f"{call.at(1, 1)}: the bracket of Genotype( is not closed; is the text cut off?")
    if len(call.written) > LONGEST:
        raise ValueError(f"{call.at(1, 1)}: more than {LONGEST:,} characters in one genotype")
    tree = _tree(call)
    if not isinstance(tree, ast.Call) or len(tree.args) > len(FIELDS) or any(k.arg is None for k in tree.keywords):
        raise ValueError(f"{call.at(1, 1)}: not {EXAMPLE}")
    given = [*zip(FIELDS, tree.args, strict=False), *((str(k.arg), k.value) for k in tree.keywords)]
    names = [name for name, _ in given]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{call.at(1, 1)}: {short(twice)} is given twice")
    return {name: _literal(node, call) for name, node in given}


def _value(written: str) -> Any:
    """Plain data in JSON or in Python's notation."""
    try:
        return plain(written)
    except ValueError as error:
        wrong = f"neither {EXAMPLE} nor JSON: {error}"
    if not re.match(r"\s*[\[({]", written):
        raise ValueError(wrong)
    start = len(written) - len(written.lstrip())
    line_start = written.rfind("\n", 0, start) + 1
    whole = _Call(written.strip(), True, "", written.count("\n", 0, start) + 1, start - line_start + 1)
    try:
        tree = _tree(whole)
    except ValueError:
        raise ValueError(wrong) from None
    return _literal(tree, whole)


def _tree(call: _Call) -> ast.expr:
    """The syntax tree of an expression."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, about the text
            return ast.parse(call.written, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{call.at(error.lineno or 1, error.offset or 1)}: {error.msg:.200}") from None
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{call.at(1, 1)}: {str(error) or 'too deeply nested':.200}") from None


def _literal(node: ast.expr, call: _Call) -> Any:
    """Lists, names, numbers, range(a, b) and NumPy's scalars and arrays."""
    match node:
        case ast.Constant(value=str() | int() | float() | None):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List() | ast.Tuple():
            return [_literal(one, call) for one in node.elts]
        case ast.Dict() if all(isinstance(key, ast.Constant) for key in node.keys):
            names = [str(key.value) for key in node.keys if isinstance(key, ast.Constant)]
            return dict(zip(names, [_literal(one, call) for one in node.values], strict=True))
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(value=ast.Name(), attr=name)):
            given = [_literal(one, call) for one in node.args]
            if name in _SAME and len(given) == 1:
                return given[0]
            bounds = [one for one in given if type(one) is int and abs(one) < 100]
            if name == "range" and len(bounds) == len(given) and 1 <= len(given) <= 2:
                return list(range(*bounds))
    raise ValueError(
        f"{call.at(node.lineno, node.col_offset + 1)}: only lists, quoted names, whole numbers and range(first, last "
        f"+ 1) are read here, not {short(ast.get_source_segment(call.written, node))}"
    )


def _fields(value: Any, said: str) -> tuple[dict[str, Any], str]:
    """The four fields of a genotype from the value that was read."""
    found = _with_darts_names(value)
    for kind in {"normal", "reduce"} & found.keys():
        found[kind] = _edges(kind, found[kind])
    for kind in ("normal", "reduce"):
        concat = f"{kind}_concat"
        if not isinstance(found.get(kind), list) or found.get(concat) is not None:
            continue
        if concat not in found:
            said += f"{'; ' if said else ''}no {concat}: all nodes of the {kind} cell are its output"
        found[concat] = list(range(2, 2 + len(found[kind]) // 2))
    return found, said


def _with_darts_names(value: Any) -> dict[str, Any]:
    """The value with DARTS's names of fields, whichever program wrote it."""
    if isinstance(value, dict) and "normal" not in value and isinstance(value.get("genotype"), dict):
        value = value["genotype"]  # a model.json
    if isinstance(value, list) and len(value) == 2 and all(isinstance(cell, list) for cell in value):
        value = _numbered(*value) | {"concat": None}  # NASLib's compact form
    if not isinstance(value, dict):
        raise ValueError(f"a genotype is an object with the keys {', '.join(FIELDS)}, not {short(value)}")
    value = _of_nni(value) or value
    found = {name: one for name, one in value.items() if name not in UNUSED or one is not None}
    if "concat" in found and not {"normal_concat", "reduce_concat"} & found.keys():
        concat = found.pop("concat")
        found |= {"normal_concat": concat, "reduce_concat": concat}
    return found


def _edges(kind: str, cell: Any) -> Any:
    """[operation, input] for each edge. pt.darts groups the edges by node, NASLib puts the input first."""
    if not isinstance(cell, list):
        return cell
    if cell and all(isinstance(node, list) and node and isinstance(node[0], list) for node in cell):
        for number, node in enumerate(cell, start=2):
            if len(node) != 2:
                raise ValueError(f"{kind}, node {number}: {len(node)} edges; expected two for each node")
        cell = [edge for node in cell for edge in node]
    return [_edge(edge) for edge in cell]


def _edge(edge: Any) -> Any:
    if not isinstance(edge, list) or len(edge) != 2:
        return edge
    first, second = edge
    if isinstance(second, str) and type(first) is int:
        first, second = second, first
    return [NAMES.get(re.sub(r"[\W_]", "", first).lower(), first) if isinstance(first, str) else first, second]


def _numbered(normal: list[Any], reduce: list[Any]) -> dict[str, Any]:
    """Both cells with names in place of the numbers that NASLib uses for operations, (input, operation).

    Raises:
        ValueError: NASLib counts operations with or without `none`, and these numbers do not tell which.
    """
    cells = {"normal": normal, "reduce": reduce}
    edges = normal + reduce
    if not all(isinstance(e, list) and len(e) == 2 and all(type(n) is int for n in e) for e in edges):
        return cells
    numbers = {operation for _, operation in edges}
    if not numbers <= set(range(len(PRIMITIVES))) or (0 in numbers) == (7 in numbers):
        raise ValueError(
            "operations are given as numbers, and it is not clear whether they count `none`: "
            f"write names ({', '.join(CHOOSABLE)})"
        )
    names = CHOOSABLE if 0 in numbers else PRIMITIVES  # `none` is never chosen
    return {kind: [[names[operation], state] for state, operation in cell] for kind, cell in cells.items()}


def _of_nni(value: dict[str, Any]) -> dict[str, Any]:
    """The cells of an architecture that NNI exported, from its hub or from its older example; {} for anything else."""
    keys = [match for key in value if (match := _NNI_HUB.fullmatch(key) or _NNI.fullmatch(key))]
    if not keys:
        return {}
    cells: dict[str, Any] = {"concat": None}
    for kind in ("normal", "reduce"):
        nodes = sorted({int(match[2]) for match in keys if match[1] == kind})
        if not nodes or nodes != list(range(2, 2 + len(nodes))):
            raise ValueError(f"{kind}: NNI's architecture has the nodes {nodes}; expected 2, 3, ...")
        try:
            cells[kind] = [edge for node in nodes for edge in _edges_of_nni(value, kind, node)]
        except KeyError as error:
            raise ValueError(f"{kind}: NNI's architecture has no {short(error.args[0])}") from None
    return cells


def _edges_of_nni(value: dict[str, Any], kind: str, node: int) -> list[Any]:
    """The two edges into a node."""
    if f"{kind}/op_{node}_0" in value:
        edges = [[value[f"{kind}/op_{node}_{i}"], value[f"{kind}/input_{node}_{i}"]] for i in range(2)]
        return [[name, state[0] if isinstance(state, list) and len(state) == 1 else state] for name, state in edges]
    chosen = value[f"{kind}_n{node}_switch"]
    if not isinstance(chosen, list) or len(chosen) != 2:
        raise ValueError(f"{kind}_n{node}_switch: expected two inputs, not {short(chosen)}")
    edges = []
    for state in chosen:
        place = f"{kind}_n{node}_p{state}" if type(state) is int else str(state)
        name, number = value[place], re.fullmatch(rf"{kind}_n{node}_p(\d)", place)
        if type(name) is int and 0 <= name < len(CHOOSABLE):
            name = CHOOSABLE[name]  # NNI's own order, `none` last
        edges.append([name, int(number[1]) if number else state])
    return edges
