"""Pictures: the cells of a genotype (Figure 3 of the paper), grids of images (Figures 4 and 5)."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

import torch
from PIL import Image
from torch import Tensor

from dasgm.genotype import SKIP, Genotype, Graph
from dasgm.store.files import printable

FORMATS = (".png", ".svg", ".pdf")
FONT = "DejaVu Sans,Helvetica,Arial,sans-serif"
INK, QUIET = "#1f2933", "#7b8794"
BLUE = ', fillcolor="#e3eefa", color="#9fc1e4"'  # what a cell reads
YELLOW = ', fillcolor="#fdf0d5", color="#e5c682"'  # what it gives
COLOURS = {"sep": "#1f6fb4", "dil": "#6b4fa0", "nor": "#1f6fb4", "max": "#c2571a", "avg": "#c2571a", "skip": "#3d8b4a"}
LABELS = {
    "max_pool_3x3": "max pool 3×3",
    "avg_pool_3x3": "avg pool 3×3",
    "skip_connect": "skip",
    "sep_conv_3x3": "sep conv 3×3",
    "sep_conv_5x5": "sep conv 5×5",
    "dil_conv_3x3": "dil conv 3×3",
    "dil_conv_5x5": "dil conv 5×5",
    "nor_conv_1x1": "conv 1×1",
    "nor_conv_3x3": "conv 3×3",
}


def draw(genotype: Genotype, path: str | Path, caption: str = "") -> None:
    """The cell of each type, one above the other, as .png, .svg or .pdf.

    Raises:
        ValueError: another ending, or a place that cannot be written.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise ValueError(f"cannot draw to {path}: expected a name that ends in {', '.join(FORMATS)}")
    _write(path, _render(_dot(genotype, tuple(genotype.graphs), caption), ending[1:]))


def cell_svg(genotype: Genotype, kind: str) -> str:
    """The cell of one type, such as `normal`, as an <svg> element to be placed in a page."""
    text = _render(_dot(genotype, (kind,), ""), "svg").decode()
    return text[text.index("<svg") :]


def sample_grid(images: Tensor, path: str | Path, columns: int, scale: int = 1) -> None:
    """uint8 images [N, 1 or 3, H, W], row by row (a class a row, if so ordered), each pixel `scale` wide, as PNG."""
    _save_pixels(_grid(images, columns), Path(path), scale)


def nearest(images: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor) -> Tensor:
    """For each uint8 image [N, 3, H, W] the real one of its class that is nearest, Euclidean in pixels.

    Pixels, because that depends on no trained network and shows a copy for what it is: at distance 0. Of the same
    class, because Figure 4 says both "most similar" and "belong to the same class". White where the class has none.
    """
    found = torch.full_like(images, 255)
    for label in labels.unique():
        ours, theirs = (labels == label).nonzero()[:, 0], (real_labels == label).nonzero()[:, 0]
        if len(theirs):
            x, y = images[ours].flatten(1).float(), real[theirs].flatten(1).float()
            # exact differences: by a product of matrices an image would not be at distance 0 from itself
            found[ours] = real[theirs[torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)]]
    return found


def nearest_grid(images: Tensor, found: Tensor, path: str | Path, columns: int, scale: int = 1) -> None:
    """uint8 images as `sample_grid` has them, and to their right, place for place, the nearest to each: Figure 4."""
    left, right = _grid(images, columns), _grid(found, columns)
    gap = torch.full((3, left.shape[1], images.shape[-1] // 2), 255, dtype=torch.uint8)
    _save_pixels(torch.cat([left, gap, right], 2), Path(path), scale)


def _grid(images: Tensor, columns: int) -> Tensor:
    assert images.dtype == torch.uint8 and images.ndim == 4 and len(images), (images.dtype, images.shape)
    n, _, height, width = images.shape
    gap, rows = 1, -(-n // columns)
    grid = torch.full((3, rows * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=torch.uint8)
    for i, image in enumerate(images.cpu()):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        grid[:, top : top + height, left : left + width] = image
    return grid


def _save_pixels(grid: Tensor, path: Path, scale: int) -> None:
    """[3, H, W] as PNG, each pixel `scale` wide."""
    grid = grid.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    temporary = _temporary(path)
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(temporary, format="PNG")
    os.replace(temporary, path)


def _dot(genotype: Genotype, kinds: tuple[str, ...], caption: str) -> str:
    """The cells in graphviz's language, left to right; a title over each where there are two."""
    clusters = []
    titles = dict(zip(genotype.space.cell_types, genotype.space.titles, strict=True))
    for kind in reversed(kinds):  # graphviz stacks upwards
        title = f'label="{titles[kind] if len(kinds) > 1 else ""}"; '
        body = "\n".join(_cell(kind, genotype.graphs[kind]))
        clusters.append(f"subgraph cluster_{kind} {{ {title}\n{body}\n}}")
    return f"""digraph genotype {{
rankdir=LR; ranksep=0.55; nodesep=0.22; margin=0.12; bgcolor="white"; dpi=144; splines=true;
fontname="{FONT}"; fontsize=13; fontcolor="{INK}"; labelloc=b; label="{_escape(caption)}";
node [shape=box, style="rounded,filled", penwidth=1, fontname="{FONT}", fontsize=12, fontcolor="{INK}",
      color="#cbd2d9", fillcolor="#f5f7fa", height=0.38, width=0.45, margin="0.12,0.05"];
edge [fontname="{FONT}", fontsize=10.5, arrowsize=0.65, penwidth=1.5];
subgraph {{ graph [labelloc=t, labeljust=l, margin=12, color="white", fontsize=14];
{chr(10).join(clusters)}
}}
}}"""


def _cell(kind: str, cell: Graph) -> list[str]:
    states = [f"{kind}{i}" for i in range(len(cell.states))]
    labels = [re.sub(r"_\{(.*)\}", r"<SUB>\1</SUB>", name).replace("-", "−") for name in cell.states]
    looks = [BLUE] * cell.inputs + [""] * (len(states) - cell.inputs)
    if not cell.output:
        looks[-1] = YELLOW
    lines = [f"{state} [label=<{label}>{look}];" for state, label, look in zip(states, labels, looks, strict=True)]
    if cell.output:
        lines.append(f"{kind}_out [label=<c<SUB>k</SUB>>{YELLOW}];")
    lines.append(f"{{ rank=same; {'; '.join(states[: cell.inputs])}; }}")
    for name, source, target in (edge for edge in cell.edges if edge[0] != "none"):
        colour = COLOURS.get(name.split("_")[0], INK)
        dashed = ", style=dashed" if name == SKIP else ""
        lines.append(
            f'{states[source]} -> {states[target]} [label=" {_escape(LABELS.get(name, name))} ", '
            f'color="{colour}", fontcolor="{colour}"{dashed}];'
        )
    lines += [f'{states[i]} -> {kind}_out [color="{QUIET}", penwidth=1, arrowsize=0.5];' for i in cell.output]
    return lines


def _escape(text: str) -> str:
    lines = "\n".join(map(printable, text.split("\n")))
    return lines.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


# In a process of its own: graphviz is not thread-safe, and fontconfig is told about fonts by the environment.
_DRAW = """
import sys, pygraphviz
sys.stdout.buffer.write(pygraphviz.AGraph(string=sys.stdin.read()).draw(format=sys.argv[1], prog="dot"))
"""


def _render(dot: str, kind: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-X", "utf8", "-c", _DRAW, kind]
        environment = os.environ | _fonts(Path(folder))
        result = subprocess.run(command, input=dot.encode(), capture_output=True, check=False, env=environment)
    if result.returncode or not result.stdout:
        reason = result.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise RuntimeError(f"pygraphviz could not draw: {reason or result.returncode}")
    return result.stdout


def _fonts(folder: Path) -> dict[str, str]:
    """A machine without fonts draws boxes: use those that matplotlib (mlflow brings it) carries, where it is there."""
    found = importlib.util.find_spec("matplotlib")
    fonts = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" if found and found.origin else None
    if fonts is None or not fonts.is_dir():
        return {}
    settings = folder / "fonts.conf"
    settings.write_text(
        f"<fontconfig><dir>{escape(str(fonts))}</dir><cachedir>{escape(str(folder))}</cachedir></fontconfig>",
        encoding="utf-8",
    )
    return {"FONTCONFIG_FILE": str(settings)}


def _write(path: Path, content: bytes) -> None:
    temporary = _temporary(path)
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")
