"""Parquet in Hugging Face's layouts: which files are a part's shards, which class a label is, where a picture lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from shards import HASH, OTHER, PETS, named, png, refused, write

from dasgm.config import from_json, mathematics, override, settings, to_json
from dasgm.data import cifar10, imagenet
from dasgm.data._listing import listings
from dasgm.data._shards import find, parsed
from dasgm.data._store import Store
from dasgm.presets import preset, with_dataset


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
