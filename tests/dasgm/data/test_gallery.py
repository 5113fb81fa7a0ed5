"""Every kind of picture looks the same to a search, to training, to the test and to predict, and as it should."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gallery import JPEG_ROUNDING, SIZE, Piece, levels, model, pieces, recipes, seen, unreadable, write
from photographs import encoded
from PIL import Image, ImageOps

import dasgm
from dasgm.cli import main as cli
from dasgm.data import _pictures
from dasgm.data._loader import PAD
from dasgm.data._photographs import centred, cropped
from dasgm.data._pictures import shorter_side

PIECES = pieces()
NAMES = [piece.name for piece in PIECES]
UNOPENED = "exif_resolution.jpg"  # by Pillow alone


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write(tmp_path_factory.mktemp("gallery"), {piece.name: piece.content for piece in PIECES})


@pytest.fixture(scope="module")
def ways(paths: list[Path]) -> dict[str, np.ndarray]:
    return seen(paths[0].parents[2], paths)


def as_searched(piece: Piece, index: int) -> Any:
    return ImageOps.fit(Image.fromarray(piece.shows), (SIZE, SIZE), Image.Resampling.BILINEAR)


def as_tested(piece: Piece, index: int) -> Any:
    return centred(torch.tensor(piece.shows).permute(2, 0, 1), SIZE).permute(1, 2, 0)


def as_trained(piece: Piece, index: int) -> Any:
    shown = encoded(Image.fromarray(piece.shows), "PNG")
    return cropped(shown, SIZE, np.random.default_rng((0, 0, 1 + index))).permute(1, 2, 0)


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("search", as_searched),
        ("predict after a folder", as_searched),
        ("test", as_tested),
        ("predict after imagenet", as_tested),
        ("training", as_trained),
    ],
)
def test_each_way_sees_what_the_file_shows(
    ways: dict[str, np.ndarray], way: str, expected: Callable[[Piece, int], Any]
) -> None:
    assert ways[way].shape == (len(PIECES), SIZE, SIZE, 3)
    wrong = {}
    for index, (piece, found) in enumerate(zip(PIECES, ways[way], strict=True)):
        off = int(np.abs(found.astype(int) - np.asarray(expected(piece, index), dtype=int)).max())
        if off > piece.rounding:
            wrong[piece.name] = f"{off} levels off"
    assert not wrong


def test_predict_sees_the_bits_that_were_measured(ways: dict[str, np.ndarray]) -> None:
    for one, other in (("search", "predict after a folder"), ("test", "predict after imagenet")):
        assert [NAMES[i] for i in range(len(NAMES)) if not np.array_equal(ways[one][i], ways[other][i])] == []


@pytest.mark.filterwarnings("ignore:(Corrupt EXIF|Tag data)")
@pytest.mark.parametrize("resize", [SIZE, shorter_side(SIZE)], ids=["folder", "imagenet"])
def test_every_way_into_predict_is_the_same(paths: list[Path], resize: int) -> None:
    network = model(resize)
    expected = levels(network, [str(path) for path in paths])
    for way, pictures in {"paths": paths, "bytes": [path.read_bytes() for path in paths]}.items():
        assert torch.equal(levels(network, pictures), expected), way
    for path, one in zip(paths, expected, strict=True):
        if path.name.endswith(UNOPENED):
            continue
        with Image.open(path) as image:
            (found,) = levels(network, [image]).int()
            reduced = "large" in path.name and resize == SIZE  # as a file
            assert (found - one).abs().max() <= (JPEG_ROUNDING if reduced else 0), path.name
    for piece, one in zip(PIECES, expected, strict=True):
        (found,) = levels(network, [torch.tensor(piece.shows).permute(2, 0, 1)]).int()
        assert (found - one).abs().max() <= piece.rounding, piece.name
    for wrong in (piece.shows, 7, None):
        with pytest.raises(ValueError, match="expected a path, bytes, a PIL image or a uint8 tensor"):
            network.preprocess(wrong)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:(Corrupt EXIF|Tag data)")
def test_a_picture_that_predict_is_given_stays_as_it_is(paths: list[Path]) -> None:
    for path in paths:
        if path.name.endswith(UNOPENED):
            continue
        with Image.open(path) as image:
            image.load()
            before = image.mode, image.size, image.tobytes(), repr(image.info)
            model(SIZE).preprocess(image)
            assert (image.mode, image.size, image.tobytes(), repr(image.info)) == before, path.name


def test_what_one_cannot_read_none_can_and_all_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = unreadable()
    paths = write(tmp_path, files)
    said = {}
    for path in paths:
        pixels, _, notes = _pictures.read([path], ["x"], lambda file: _pictures.fitted(file, SIZE), True)
        assert not pixels, path.name
        found = re.fullmatch(r"left out: 1 of 1 pictures cannot be read: x \((.+)\)", *notes)
        assert found, notes
        said[path] = found[1]
    training, test = recipes(tmp_path)
    for recipe in (training, test, replace(training, size=4)):  # decoded at half its size or less
        recipe = replace(recipe, skip=False)
        _, labels, _, wrong = recipe(np.arange(len(files)))
        assert (labels == PAD).all()
        names = [recipe.listing.source.name(i) for i in range(len(files))]
        assert wrong == [f"{name} ({reason})" for name, reason in zip(names, said.values(), strict=True)]
    for network in (model(SIZE), model(shorter_side(SIZE))):
        monkeypatch.setattr(dasgm, "load", lambda path, device, network=network: network)
        assert cli.main(["predict", "run", *map(str, paths)]) == 2
        assert capsys.readouterr().err.splitlines() == [f"error: {path}: {reason}" for path, reason in said.items()]
