"""Which class a label of a Parquet file is, and where a picture that a row names lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from shards import PETS, STRUCT, named, png, refused, write

from dasgm.data import cifar10, cifar100
from dasgm.data._listing import Listing, listings


def parts(root: Path, *shards: tuple[str, Any, Sequence[str] | None]) -> tuple[Listing, Listing]:
    for name, labels, names in shards:
        write(root / f"{name}.parquet", labels, names)
    return listings(str(root))


def test_labels_are_aligned_by_name_over_parts_and_shards(tmp_path: Path) -> None:
    train, val = parts(
        tmp_path,
        ("train-00000-of-00002", [0, 1, 2], PETS),
        ("train-00001-of-00002", [0, 1, 2], ("fox", "cat", "dog")),
        ("validation", [0, 1, 2], ("dog", "fox", "cat")),
    )
    assert train.classes == val.classes == PETS
    assert named(train) == ["cat", "dog", "fox", "fox", "cat", "dog"] and named(val) == ["dog", "fox", "cat"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_text_is_a_name(tmp_path: Path, kind: pa.DataType) -> None:
    words = ["fox", "cat", "dog", "cat"]
    unused = pa.DictionaryArray.from_arrays(pa.array([2, 0, 1, 0], pa.int8()), ["cat", "dog", "fox", "never"])
    text = unused if pa.types.is_dictionary(kind) else pa.array(words, kind)
    train, val = parts(tmp_path, ("train", text, None), ("val", [0, 1, 2], ("dog", "fox", "cat")))
    assert train.classes == PETS and named(train) == words and named(val) == ["dog", "fox", "cat"]
    train, val = parts(tmp_path, ("train", [0, 1, 2], ("fox", "dog", "cat")), ("val", text, None))
    assert train.classes == ("fox", "dog", "cat") and named(val) == words


def test_numbers_are_their_own_names(tmp_path: Path) -> None:
    for train, val in ((None, None), (None, "012"), ("012", None), ("012", "012")):
        first, second = parts(tmp_path, ("train", [0, 1, 2], train), ("val", [2, 1, 0], val))
        assert first.classes == ("0", "1", "2") and named(second) == ["2", "1", "0"]
    first, second = parts(tmp_path, ("train", [0, 1, 2], None), ("val", [0, 1, 2], "201"))
    assert named(second) == ["2", "0", "1"]


@pytest.mark.parametrize(
    ("shards", "says"),
    [
        ([("train", [0, 1, 2], PETS), ("val", [0, 1, 2], None)], ["val.parquet", "cat, dog, fox", "not certain"]),
        ([("train", [0, 1, 2], None), ("val", [0, 1, 2], PETS)], ["val.parquet", "lack: cat, dog, fox"]),
        ([("train", [0, 1, 2], PETS), ("val", ["cat", "dog", "cow"], None)], ["val.parquet", "lack: cow"]),
        ([("train", [0, 1, 2], PETS), ("val", [0, 1, 2], ("cat", "dog", "Fox"))], ["val.parquet", "lack: Fox"]),
        ([("train", [0, 1, 2], ("cat", "dog", "cat")), ("val", [0, 1], None)], ["train.parquet", "cat more than once"]),
        ([("train", [0, 1, 3], PETS), ("val", [0, 1, 2], PETS)], ["train.parquet row 2", "3, not 0 to 2"]),
        ([("train", ["cat", None], None), ("val", ["cat", "dog"], None)], ["train.parquet row 1", "None"]),
        ([("train", [0, 1], "01"), ("val", pa.array([b"\xff", b"a"]).cast(pa.string(), safe=False), None)], ["val"]),
        (
            [("train-0", [0, 1, 2], PETS), ("train-1", [0, 1, 2], ("cat", "dog", "cow")), ("val", [0, 1, 2], PETS)],
            ["train-1.parquet", "cow, fox in one only"],
        ),
        (
            [("train-0", [0, 1, 2], PETS), ("train-1", [0, 1, 2], None), ("val", [0, 1, 2], PETS)],
            ["train-1.parquet", "not certain"],
        ),
    ],
)
def test_a_class_in_doubt_is_refused(tmp_path: Path, shards: Any, says: list[str]) -> None:
    refused(lambda: parts(tmp_path, *shards), *says)


def cifar(root: Path, labels: Any, names: Sequence[str] | None, column: str = "label", **more: Any) -> None:
    for part in ("train", "test"):
        write(root / f"{part}.parquet", labels, names, column, **more)


def test_cifar_in_another_order_is_aligned(tmp_path: Path) -> None:
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1)).tolist()
    cifar(tmp_path, [*range(10)] * 2, [cifar10.Config.CLASSES[i].title() for i in order])
    data = cifar10.Config().load(str(tmp_path))
    assert data.labels.tolist() == order * 2 and data.classes[order[0]] == cifar10.Config.CLASSES[order[0]]
    cifar(tmp_path, [cifar10.Config.CLASSES[i] for i in order] * 2, None)
    assert cifar10.Config().load(str(tmp_path)).labels.tolist() == order * 2


@pytest.mark.parametrize(
    "names",
    [
        "0123456789",  # SVHN and MNIST
        ("cat", *cifar10.Config.CLASSES[1:]),
        tuple(f"{name}s" for name in cifar10.Config.CLASSES),
        cifar10.Config.CLASSES[:9],
        (*cifar10.Config.CLASSES, "fox"),
    ],
)
def test_ten_other_classes_are_not_cifar(tmp_path: Path, names: Sequence[str]) -> None:
    cifar(tmp_path, [*range(9)] * 2, names)
    refused(lambda: cifar10.Config().load(str(tmp_path)), "train.parquet")


def test_cifars_numbers_without_names_are_said_or_refused(tmp_path: Path) -> None:
    classes = cifar10.Config.CLASSES
    cifar(tmp_path, [*range(10)] * 2, None)
    assert "without class names" in " ".join(cifar10.Config().load(str(tmp_path)).notes)
    write(tmp_path / "train.parquet", [*range(10)], classes)
    assert "test.parquet" in next(
        note for note in cifar10.Config().load(str(tmp_path)).notes if "without class" in note
    )
    write(tmp_path / "train.parquet", [*range(10)], classes[::-1])
    refused(lambda: cifar10.Config().load(str(tmp_path)), "test.parquet", "without class names", "another order")


def test_cifar100_takes_fine_labels_in_hugging_faces_spelling(tmp_path: Path) -> None:
    names = ["cra" if name == "crab" else name for name in cifar100.Config.CLASSES]
    cifar(tmp_path, [*range(100)] * 2, names, "fine_label", coarse_label=[0] * 200, label=[1] * 200)
    assert cifar100.Config().load(str(tmp_path)).labels.tolist() == [*range(100)] * 2
    coarse = [f"superclass {i}" for i in range(20)]
    cifar(tmp_path, [*range(20)] * 2, coarse, "label")
    refused(lambda: cifar100.Config().load(str(tmp_path)), "not cifar100", "superclass 0")
    cifar(tmp_path, [*range(20)] * 2, coarse, "coarse_label")
    refused(lambda: cifar100.Config().load(str(tmp_path)), "'fine_label' or 'label'")


def by_path(root: Path, paths: Sequence[str | None], kind: pa.DataType = STRUCT, file: str = "train") -> None:
    rows = [{"bytes": None, "path": path} for path in paths] if pa.types.is_struct(kind) else list(paths)
    write(root / f"{file}.parquet", [i % 10 for i in range(len(paths))], image=pa.array(rows, kind))


KINDS = [
    STRUCT,
    pa.string(),
    pa.struct([("bytes", pa.null()), ("path", pa.string())]),
    pa.struct([("path", pa.string())]),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("how", ["beside", "below", "absolute", "root"])
def test_pictures_are_read_where_their_paths_say(tmp_path: Path, kind: pa.DataType, how: str) -> None:
    folder = {"beside": "data", "below": "data/pictures", "absolute": "elsewhere", "root": "images"}[how]
    (tmp_path / folder).mkdir(parents=True)
    for i in range(20):
        (tmp_path / folder / f"{i}.png").write_bytes(png(i))
    stem = {"beside": "", "below": "pictures/", "absolute": f"{tmp_path}/elsewhere/", "root": "images/"}[how]
    for file in ("data/train", "data/test"):
        by_path(tmp_path, [f"{stem}{i}.png" for i in range(20)], kind, file)
    data = cifar10.Config().load(str(tmp_path))
    assert data.images[:, 0, 0, 0].tolist() == list(range(20))
    for listing in listings(str(tmp_path)):
        assert listing.source.read([3, 19]) == [png(3), png(19)]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("path", ["{}.png", "../outside/{}.png", "{root}/outside/{}.png", "zip://{}.png::a.zip", None])
def test_paths_that_lead_nowhere_or_outside_are_refused_as_a_whole(tmp_path: Path, kind: Any, path: str | None) -> None:
    (tmp_path / "outside").mkdir()
    for i in range(20):
        (tmp_path / "outside" / f"{i}.png").write_bytes(png(i))
    for part in ("train", "test"):
        paths = [path and path.format(i, root=tmp_path) for i in range(20)]
        by_path(tmp_path / "in", paths, kind, part)
    for read in (cifar10.Config().load, listings):
        line = refused(
            lambda read=read: read(str(tmp_path / "in")), "train.parquet has no bytes of pictures", "--data-dir"
        )
        assert "skip-unreadable" not in line


def test_a_missing_picture_is_named_and_counted(tmp_path: Path) -> None:
    for i in range(19):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    for part in ("train", "test"):
        by_path(tmp_path, [f"{i}.png" for i in range(20)], file=part)
    refused(lambda: listings(str(tmp_path)), "1 pictures cannot be read", "train.parquet row 19 (no file '19.png')")
    notes = "\n".join(listings(str(tmp_path), skip_unreadable=True)[0].notes)
    assert "1 cannot be read: train.parquet row 19" in notes
    assert len(cifar10.Config(skip_unreadable=True).load(str(tmp_path)).labels) == 19


def test_plain_bytes_are_pictures_or_refused(tmp_path: Path) -> None:
    for kind in (pa.binary(), pa.large_binary()):
        cifar(tmp_path, [*range(10)] * 2, None, image=pa.array([png(i) for i in range(20)], kind))
        assert cifar10.Config().load(str(tmp_path)).images[:, 0, 0, 0].tolist() == list(range(20))
        assert listings(str(tmp_path))[0].source.read([7]) == [png(7)]
    cifar(tmp_path, [*range(10)] * 2, None, image=pa.array([bytes(np.full(3072, i, np.uint8)) for i in range(20)]))
    refused(lambda: cifar10.Config().load(str(tmp_path)), "column 'image' has bytes that are no picture")
    refused(lambda: listings(str(tmp_path)), "column 'image' has bytes that are no picture")
