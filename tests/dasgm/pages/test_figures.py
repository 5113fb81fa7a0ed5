"""Pictures of cells and grids of images."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from PIL import Image

from dasgm.pages.figures import cell_svg, draw, sample_grid
from dasgm.spaces.darts import KNOWN


def texts(svg: str) -> list[str]:
    found = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return [element.text.strip() for element in found if element.text]


def test_both_cells_in_three_formats(tmp_path: Path) -> None:
    for ending, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")):
        draw(KNOWN["PC_DARTS_cifar"], tmp_path / f"cells{ending}", 'a "caption" & more')
        assert (tmp_path / f"cells{ending}").read_bytes().startswith(start)
    assert len(list(tmp_path.iterdir())) == 3
    with Image.open(tmp_path / "cells.png") as picture:
        assert 600 < picture.width < 3000 and 600 < picture.height < 3000
    labels = texts((tmp_path / "cells.svg").read_text())
    assert {"normal cell", "reduction cell", 'a "caption" & more'} <= set(labels)
    assert labels.count("sep conv 5×5") == 4 and labels.count("avg pool 3×3") == 1


@pytest.mark.parametrize("kind", ["normal", "reduce"])
def test_a_cell_for_a_page(kind: str) -> None:
    svg = cell_svg(KNOWN["DARTS_V1"], kind)
    assert svg.startswith("<svg")
    assert texts(svg).count("skip") == {"normal": 3, "reduce": 3}[kind]


def test_where_it_cannot_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.png, \.svg, \.pdf"):
        draw(KNOWN["PDARTS"], tmp_path / "cells.jpg")
    with pytest.raises(ValueError, match="cannot write"):
        draw(KNOWN["PDARTS"], tmp_path / "absent" / "cells.svg")


def test_grid_places_every_pixel(tmp_path: Path) -> None:
    images = torch.randint(256, (7, 3, 4, 5), dtype=torch.uint8)
    sample_grid(images, tmp_path / "grid.png", columns=3, scale=2)
    with Image.open(tmp_path / "grid.png") as picture:
        grid = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(picture.height, picture.width, 3)
    assert grid.shape == (2 * (3 * 5 - 1), 2 * (3 * 6 - 1), 3)
    assert torch.equal(grid[10:18:2, 12:22:2].permute(2, 0, 1), images[4])  # second row, second column
    assert (grid[-8:, -10:] == 255).all()  # the row is not full
