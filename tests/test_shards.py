"""Parquet in Hugging Face's layouts: which files are a part's shards, which class a label is, where a picture lies."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dasgm.config import from_json, mathematics, override, settings, to_json
from dasgm.data import cifar10, cifar100, imagenet
from dasgm.data._listing import Listing, listings
from dasgm.data._shards import find, parsed
from dasgm.data._store import Store
from dasgm.presets import preset, with_dataset

PETS = ("cat", "dog", "fox")
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
HASH, OTHER = "a1b2c3d4e5f60718", "0123456789abcdef"


def png(level: int, size: int = 32) -> bytes:
    """A grey picture that its level tells."""
    buffer = io.BytesIO()
    Image.new("L", (size, size), level).save(buffer, "PNG")
    return buffer.getvalue()


def about(column: str, names: Sequence[str] | None) -> dict[bytes, bytes] | None:
    features = {"info": {"features": {column: {"_type": "ClassLabel", "names": list(names or ())}}}}
    return {b"huggingface": json.dumps(features).encode()} if names else None


def write(
    path: Path, labels: Any, names: Sequence[str] | None = None, column: str = "label", first: int = 0, **columns: Any
) -> None:
    """Rows whose pictures have the grey levels first, first + 1, ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = columns.pop("image", None)
    if images is None:
        images = pa.array([{"bytes": png(first + i), "path": f"{i}.png"} for i in range(len(labels))], STRUCT)
    table = pa.table({"image": images, column: labels, **columns})
    pq.write_table(table.replace_schema_metadata(about(column, names)), path)


def named(listing: Listing) -> list[str]:
    return [listing.classes[label] for label in listing.labels]


def refused(action: Any, *says: str) -> str:
    with pytest.raises(ValueError) as error:
        action()
    line = str(error.value)
    assert "\n" not in line and all(word in line for word in says), line
    return line


# ---- names of files


@pytest.mark.parametrize(
    ("path", "part", "config", "number", "total"),
    [
        ("train.parquet", "train", ".", None, None),
        ("data/train-00000-of-00003.parquet", "train", "data", 0, 3),
        (f"data/test-00002-of-00003-{HASH}.parquet", "test", "data", 2, 3),
        ("plain_text/test-00000-of-00001.parquet", "test", "plain_text", 0, 1),
        ("default/train/0000.parquet", "train", "default", 0, None),
        ("default/partial-train/0001.parquet", "train", "default", 1, None),
        ("train/0000.parquet", "train", ".", 0, None),
        ("data/valid/part-00000-c000.snappy.parquet", "val", "data", None, None),
        ("cifar10-train-00001-of-00002.parquet", "train", "cifar10", 1, 2),
        ("train_small.parquet", "train", "small", None, None),
        ("mini/eval.parquet", "test", "mini", None, None),
        ("dev-0.parquet", "val", ".", 0, None),
        ("train-2012.parquet", "train", "2012", None, None),
        ("Validation.PARQUET", "val", ".", None, None),
    ],
)
def test_names_that_tools_write(path: str, part: str, config: str, number: int | None, total: int | None) -> None:
    found = parsed(path)
    assert found and (found.part, found.config, found.number, found.total) == (part, config, number, total)


@pytest.mark.parametrize("path", ["metadata.parquet", "trainer.parquet", "0000.parquet", "train-test.parquet"])
def test_names_that_tell_no_part(path: str) -> None:
    assert parsed(path) is None


LAYOUTS = [
    ["{part}.parquet"],
    ["data/{part}-00000-of-00001.parquet"],
    [f"data/{{part}}-00000-of-00002-{HASH}.parquet", f"data/{{part}}-00001-of-00002-{OTHER}.parquet"],
    ["default/{part}/0000.parquet", "default/{part}/0001.parquet"],
    ["default/partial-{part}/0000.parquet"],
    ["{part}/a.parquet", "{part}/b.parquet"],
    ["fox/{part}-00000-of-00001.parquet"],
    ["snapshots/4f1e/plain_text/{part}-00000-of-00001.parquet"],
    ["pets-{part}.parquet"],
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout[0])
@pytest.mark.parametrize("val", ["val", "validation", "valid", "dev", "eval", "test"])
def test_layouts_are_read_whole(tmp_path: Path, layout: list[str], val: str) -> None:
    for part in ("train", val):
        for i, name in enumerate(layout):
            write(tmp_path / name.format(part=part), [0, 1, 2, 2], PETS, first=4 * i)
    for place in (str(tmp_path), tmp_path.as_uri()):
        for listing in listings(place):
            assert named(listing) == ["cat", "dog", "fox", "fox"] * len(layout)
            assert listing.source.read(range(len(listing))) == [png(level) for level in range(4 * len(layout))]
            assert listing.notes[0].endswith(f"cat {len(layout)}, dog {len(layout)}, fox {2 * len(layout)}")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([f"train-0000{i}-of-00003-{HASH}" for i in (0, 2)], ["2 of 3 shards", "train-00001-of-00003-*.parquet is"]),
        (["train-00003-of-00005"], ["1 of 5 shards", "train-00000-of-00005.parquet, ", "00004-of-00005.parquet are"]),
        (["train/0000", "train/0002", "train/0003"], ["3 of 4 shards", "train/0001.parquet is missing"]),
        (["train-00000-of-99999999999"], ["1 of 99999999999 shards", "and 99999999988 more are missing"]),
        (["train-00000-of-00001", "train-00001-of-00001"], ["train-00001-of-00001.parquet", "beyond the 1 shards"]),
        ([f"train-00000-of-00001-{h}" for h in (HASH, OTHER)], ["two uploads", HASH, OTHER]),
        (["train", "train-00000-of-00001"], ["two uploads", "train.parquet", "train-00000-of-00001.parquet"]),
        (["train-00000-of-00001", "train-00001-of-00002"], ["two uploads", "of-00001", "of-00002"]),
        (["train/0000", "train-00000-of-00001"], ["two uploads", "train/0000.parquet"]),
        (["d/train/0000", "d/partial-train/0000"], ["two uploads", "d/partial-train/0000.parquet"]),
        (["data/train", "train"], ["two uploads", "--data.config"]),
        (["train", "train_small"], ["2 data sets", "train.parquet", "train_small.parquet", "--data.config"]),
        (["train", "train (1)"], ["2 data sets", "train (1).parquet"]),
        (["train", "sample/train"], ["2 data sets", ". (train.parquet)", "sample (sample/train.parquet)"]),
        (["a/train/0000", "b/train/0000"], ["2 data sets", "a (a/train/0000.parquet)", "b (b/train/0000.parquet)"]),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else None,
)
def test_what_is_not_one_whole_upload_is_refused(tmp_path: Path, files: list[str], says: list[str]) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{file}.parquet").touch()
    if "two uploads" in says and "--data.config" in says:
        says = ["2 data sets", "data (data/train.parquet)", "--data.config"]
    refused(lambda: find(Store(str(tmp_path))), *says)


def test_a_configuration_is_chosen_by_its_name(tmp_path: Path) -> None:
    for place, first in (("", 0), ("mini/", 100), ("b/mini/", 150)):
        for part in ("train", "val"):
            write(tmp_path / f"{place}{part}-00000-of-00001.parquet", [0, 1], first=first)
    for name, first in ((".", 0), ("default", 0), ("mini", 100), ("mini/", 100), ("b/mini", 150)):
        train, val = listings(str(tmp_path), config=name)
        assert train.source.read([0, 1]) == [png(first), png(first + 1)]
        assert "Parquet files of other configurations 4" in " ".join(val.notes)
    refused(lambda: listings(str(tmp_path)), "3 data sets", "b/mini (b/mini/train-00000-of-00001.parquet)")
    refused(lambda: listings(str(tmp_path), config="nano"), "--data.config nano", "mini (mini/")


def test_a_configuration_without_effect_is_refused(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in PETS:
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "a.png").write_bytes(png(1))
    assert len(listings(str(tmp_path))[0]) == 3
    refused(lambda: imagenet.Config(config="x").photographs(str(tmp_path)), "--data.config x", "no Parquet files")
    refused(lambda: cifar10.Config(config="x").load(str(tmp_path)), "--data.config x", "no Parquet files")
    refused(lambda: cifar10.Config(config="x").load(None), "--data.config x", "--data-dir")
    refused(lambda: override(preset("quickstart").config, {"data.config": "x"}), "no setting 'data.config'")
    write(tmp_path / "train.parquet", [0, 1])
    refused(lambda: listings(str(tmp_path)), "both folders of pictures in train/ and Parquet files")


def test_the_configuration_is_part_of_a_runs_identity_only_if_given() -> None:
    for key in ("cifar10", "cifar100", "imagenet"):
        config = with_dataset(preset("quickstart").config, key)
        assert "data.config" not in settings(config) and "data.config" not in mathematics(config)
        chosen = override(config, {"data.config": "mini"})
        assert mathematics(chosen) == mathematics(config) | {"data.config": "mini"}
        older = to_json(config)
        del older["data"]["config"]
        assert from_json(older) == config and from_json(to_json(chosen)) == chosen


def test_other_files_are_said(tmp_path: Path) -> None:
    for name in ("train", "validation", "test", "extra", "._train"):
        write(tmp_path / f"{name}.parquet", [0, 1])
    notes = "\n".join(listings(str(tmp_path))[1].notes)
    assert (
        "thumbnails and metadata of a NAS 1" in notes
        and "tell no part: extra.parquet" in notes
        and "not used: Parquet files of test" in notes
    )
    for name in ("train", "test"):
        (tmp_path / f"{name}.parquet").unlink()
    refused(lambda: listings(str(tmp_path)), "train*.parquet", "extra.parquet tells no part")
    refused(lambda: cifar10.Config().load(str(tmp_path)), "no train.parquet", "extra.parquet tells no part")


def test_a_path_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write(tmp_path / "cafe" / f"{part}.parquet", [0, 1], PETS[:2])
    root = (tmp_path / "cafe").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    for place in (root, tmp_path):
        train, _ = listings(str(place))
        assert train.source.read([0, 1]) == [png(0), png(1)] and "caf\\udce9/train.parquet" in train.notes[0]


def test_a_folder_is_read_once_whatever_links_lead_to_it(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write(tmp_path / "there" / "data" / f"{part}.parquet", [0, 1])
    (tmp_path / "there" / "data" / "up").symlink_to(tmp_path / "there")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "there")
    for place in ("there", "here"):
        assert [len(listing) for listing in listings(str(tmp_path / place))] == [2, 2]


# ---- classes


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


# ---- CIFAR


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


# ---- pictures that a row has the path of


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
