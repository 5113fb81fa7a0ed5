"""A person's own pictures are listed once: search and training see the same, from folders, Parquet and lists."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import CLASSES, digit_pictures, write_folder, write_shards
from pictures import pictures, refused

from dasgm.config import mathematics
from dasgm.data import folder
from dasgm.data._augmentation import Augmentation
from dasgm.data._loader import TorchLoader
from dasgm.jobs.evaluate import opened
from dasgm.jobs.training import InMemory
from dasgm.recipes import EvaluateConfig
from dasgm.store.run import Run


def both_ways(root: Path, **settings: object) -> tuple[list[int], list[int]]:
    """Training and test labels of the streamed data set, which are those of the one in memory, picture by picture."""
    config = folder.Config(image_size=32, **settings)  # type: ignore[arg-type]
    memory, streamed = config.load(str(root)), replace(config, streaming="on").open(str(root))
    assert memory.classes == streamed.classes and memory.counts == streamed.counts and streamed.resize == 37
    for listing, labels in ((streamed.train, memory.labels), (streamed.test, memory.test_labels)):
        assert listing.labels[listing.in_order()].tolist() == labels.tolist()
    return memory.labels.tolist(), memory.test_labels.tolist()


def test_folders_parquet_and_lists_are_the_same_data(tmp_path: Path) -> None:
    parts = {"train": digit_pictures((12, 10, 11)), "test": digit_pictures((3, 2, 4), 100)}
    write_folder(tmp_path / "folders", **parts)
    write_shards(tmp_path / "parquet", 2, 7, **parts)
    for part, classes in parts.items():
        lines = ["path,label"]
        for name, files in classes.items():
            for file, encoded in files:
                (tmp_path / "lists" / "all" / name[-1]).mkdir(parents=True, exist_ok=True)
                (tmp_path / "lists" / "all" / name[-1] / file).write_bytes(encoded)
                lines.append(f"all/{name[-1]}/{file},{name}")
        (tmp_path / "lists" / f"{part}.csv").write_text("\n".join(lines))
    found = [folder.Config().load(str(tmp_path / name)) for name in ("folders", "parquet", "lists")]
    assert all(data.classes == CLASSES and data.counts == (33, 9) for data in found)
    assert all(torch.equal(data.images, found[0].images) for data in found)
    assert all(torch.equal(data.test_labels, found[0].test_labels) for data in found)
    for name in ("folders", "parquet", "lists"):
        assert both_ways(tmp_path / name)[1] == [0] * 3 + [1] * 2 + [2] * 4


def test_without_a_test_part_search_and_training_set_the_same_sixth_aside(tmp_path: Path) -> None:
    pictures(tmp_path, {"a": 30, "b": 18})
    train, test = both_ways(tmp_path)
    assert test == [0] * 5 + [1] * 3 and len(train) == 40
    (tmp_path / "a" / "03.png").write_bytes(b"x")  # which picture is a test picture does not depend on it
    streamed = folder.Config(streaming="on", skip_unreadable=True).open(str(tmp_path))
    memory = folder.Config(skip_unreadable=True).load(str(tmp_path))
    names = [streamed.test.source.name(i) for i in streamed.test.in_order()]
    assert len(names) == 8 and len(memory.test_labels) == 8 - sum(name.endswith("a/03.png") for name in names)
    assert sum(memory.counts) == 47


def test_a_training_holds_val_out_whatever_the_search_held_out(tmp_path: Path) -> None:
    for part, n in (("train", 20), ("val", 3), ("test", 4)):
        pictures(tmp_path / part, {"a": n, "b": n})
    configs = [folder.Config(holdout=0.1, streaming=streaming) for streaming in ("off", "on")]  # type: ignore[arg-type]
    for config in configs:
        data, plain = config.open(str(tmp_path)), replace(config, holdout=0.0).open(str(tmp_path))
        held = data.held_out()
        assert held is not None and (data.counts, held.counts) == ((40, 8), (40, 6)) and data.digest == plain.digest
        with pytest.raises(ValueError, match=r"calibration 0.1: val/ is held out already; leave --calibration out"):
            opened(EvaluateConfig(config, calibration=0.1, data_dir=str(tmp_path)), "cpu")
    before = {config.open(str(tmp_path)).digest for config in configs}
    (tmp_path / "val" / "a" / "00.png").unlink()
    assert not before & {config.open(str(tmp_path)).digest for config in configs}, "other pictures are other data"


def test_auto_streams_above_64_pixels_and_beyond_two_gib() -> None:
    assert not folder.Config(image_size=64).streams(100_000) and folder.Config(image_size=64).streams(200_000)
    assert folder.Config(image_size=68).streams(1) and not folder.Config(image_size=68, streaming="off").streams(10**9)


def test_a_training_begun_before_streaming_goes_on_in_memory_alone(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", {"a": 30, "b": 18})
    config = folder.Config(image_size=96)
    begun = mathematics(EvaluateConfig(config)) | {"data": config.load(str(tmp_path / "pictures")).digest}
    Run(tmp_path / "run").begin({}, begun, {})  # as 0.2.0 wrote it
    for streaming, says in (("off", ""), ("auto", "began with other images of this data set")):
        now = replace(config, streaming=streaming)  # type: ignore[arg-type]
        asked = mathematics(EvaluateConfig(now)) | {"data": now.open(str(tmp_path / "pictures")).digest}
        with pytest.raises(ValueError, match=says) if says else nullcontext():
            Run(tmp_path / "run").begin({}, asked, {})


def test_a_list_that_is_wrong_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "all", {"x": 24})
    rows = [f"all/x/{i:02d}.png,{'ab'[i % 2]}" for i in range(22)]

    def write(name: str, lines: list[str]) -> None:
        (tmp_path / name).write_text("\n".join(["path,label", *lines]))

    write("list.csv", rows)
    data = folder.Config().load(str(tmp_path))
    assert data.classes == ("a", "b") and data.counts == (18, 4)
    assert any("2 pictures are in no list" in note for note in data.notes)
    write("list.csv", [*rows, "all/x/00.png,b"])
    refused(folder.Config(), tmp_path, "has the classes 'a' and 'b'")
    write("list.csv", [*rows, "../secret.png,a"])
    refused(folder.Config(), tmp_path, "1 of 23 pictures cannot be read: line 24 ('../secret.png': no such file")
    write("list.csv", [*rows, "all/x/22.png,"])
    refused(folder.Config(), tmp_path, "list.csv line 24: expected path and label")
    write("list.csv", rows)
    write("other.csv", rows)
    refused(folder.Config(), tmp_path, "both list pictures of train")
    (tmp_path / "other.csv").rename(tmp_path / "test.csv")
    refused(folder.Config(), tmp_path, "both name all/x/00.png")
    (tmp_path / "alias").symlink_to("all")
    write("test.csv", ["alias/x/00.png,a"])
    refused(folder.Config(), tmp_path, "both name alias/x/00.png, there all/x/00.png: a network must not be tested")
    (tmp_path / "test.csv").unlink()
    write("list.csv", [*rows, "alias/x/00.png,a"])
    refused(folder.Config(), tmp_path, "list.csv line 24: 'alias/x/00.png' is the same file as 'all/x/00.png'")
    write("list.csv", [row.replace("all", "alias") for row in rows])
    assert any("2 pictures are in no list" in note for note in folder.Config().load(str(tmp_path)).notes)


# what changes the pictures


@pytest.mark.parametrize("policy", ["none", "randaugment", "trivialaugment"])
def test_draws_depend_on_seed_epoch_and_picture_alone(tmp_path: Path, policy: str) -> None:
    write_folder(tmp_path, train=digit_pictures((12, 10, 11)), test=digit_pictures((3, 2, 4), 100))
    how = Augmentation(policy=policy)  # type: ignore[arg-type]
    config = folder.Config(image_size=32, streaming="on")
    data = replace(config.open(str(tmp_path)), augmentation=how)
    whole = data.reader(3, 1)(np.arange(33))
    torch.manual_seed(99)
    assert torch.equal(data.reader(3, 1)(np.array([20, 5])).pixels, whole.pixels[[20, 5]])
    assert not torch.equal(data.reader(3, 2)(np.array([20])).pixels, whole.pixels[[20]])
    plain = replace(data, augmentation=Augmentation()).reader(3, 1)(np.arange(33)).pixels
    assert torch.equal(plain, whole.pixels) == (policy == "none")

    memory = replace(config, streaming="off").open(str(tmp_path))
    batches = [list(InMemory(memory, torch.arange(33), b, 3, augmentation=how).training(1)) for b in (33, 11)]
    inside = InMemory(memory, torch.arange(33), 11, 3, augmentation=replace(how, crop=False, flip=False))
    alone = InMemory(memory, torch.arange(33), 33, 3, augmentation=replace(how, crop=False, flip=False))
    assert torch.equal(torch.cat([x for x, _ in inside.training(1)]), next(iter(alone.training(1)))[0])
    assert len(batches[0]) == 1 and len(batches[1]) == 3


def test_without_any_change_training_sees_the_tests_picture(tmp_path: Path) -> None:
    write_folder(tmp_path, train=digit_pictures((12, 10, 11)), test=digit_pictures((12, 10, 11)))
    none = Augmentation(crop=False, flip=False, colour="off")
    data = replace(folder.Config(image_size=64, streaming="on").open(str(tmp_path)), augmentation=none)
    loader = TorchLoader(data, 33)
    (x, y), (tested, labels, _) = next(loader.training(0)), next(loader.testing())
    order = data.train.permuted(0, 0)
    assert torch.equal(x, tested[order]) and torch.equal(y, labels[order])


def test_colours_in_memory_keep_the_labels_and_change_the_pictures(tmp_path: Path) -> None:
    pictures(tmp_path, {"a": 24, "b": 24})
    data = folder.Config(image_size=16).load(str(tmp_path))
    J = torch.arange(40)
    plain, coloured = (
        InMemory(data, J, 40, 0, augmentation=Augmentation(crop=False, flip=False, colour=colour))  # type: ignore[arg-type]
        for colour in ("auto", "on")
    )
    (x, y), (changed, same) = next(plain.training(0)), next(coloured.training(0))
    assert torch.equal(y, same) and not torch.equal(x, changed)
    assert torch.equal(x, data.to_classifier(data.raw(plain.order)))
