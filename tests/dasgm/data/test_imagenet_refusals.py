"""What is refused of ImageNet's folders and Parquet files, in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from photographs import CLASSES, Pictures, write_folder, write_shards

from dasgm.cli import main as cli
from dasgm.config import override
from dasgm.data import imagenet
from dasgm.data._loader import Photographs, TorchLoader
from dasgm.plugins import keys
from dasgm.presets import preset, with_dataset


def without_val(root: Path) -> None:
    shutil.rmtree(root / "val")


def empty_class(root: Path) -> None:
    (root / "train" / "n99999999").mkdir()


def empty_in_val(root: Path) -> None:
    for file in (root / "val" / CLASSES[1]).iterdir():
        file.unlink()


def stranger(root: Path) -> None:
    (root / "val" / CLASSES[1]).rename(root / "val" / "n77777777")


def stray(root: Path) -> None:
    (root / "train" / CLASSES[1] / "notes.txt").write_text("-")


def loose(root: Path) -> None:
    (root / "train" / "a.JPEG").write_bytes(b"-")


def one_class(root: Path) -> None:
    for name in CLASSES[1:]:
        shutil.rmtree(root / "train" / name)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_val, "no val/"),
        (empty_class, "n99999999"),
        (empty_in_val, CLASSES[1]),
        (stranger, "n77777777"),
        (stray, "notes.txt"),
        (loose, "a.JPEG"),
        (one_class, "one class folder"),
        (shutil.rmtree, "no such folder; expected a folder"),
    ],
)
def test_wrong_folders_are_refused_in_one_line(
    tmp_path: Path, parts: dict[str, Pictures], spoil: Callable[[Path], None], says: str
) -> None:
    spoil(write_folder(tmp_path / "there", **parts))
    refused(tmp_path / "there", says)


def test_hidden_files_are_ignored(tmp_path: Path, root: Path, data: Photographs) -> None:
    there = Path(shutil.copytree(root, tmp_path / "there"))
    (there / "train" / ".DS_Store").write_text("-")
    (there / "train" / CLASSES[0] / "Thumbs.db").write_text("-")
    (there / "val" / ".cache").mkdir()
    assert imagenet.Config().photographs(str(there)).digest == data.digest


def refused(root: Path | str | None, says: str) -> None:
    with pytest.raises(ValueError) as error:
        imagenet.Config().photographs(None if root is None else str(root))
    assert says in str(error.value) and len(str(error.value).splitlines()) == 1, error.value


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def relabelled(labels: Callable[[list[int]], list[int | str | None]]) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(1, "label", pa.array(labels(table["label"].to_pylist())))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (relabelled(lambda labels: [*labels[:-1], 3]), "row 10: label is 3, not 0 to 2"),
        (relabelled(lambda labels: [-1] * len(labels)), "label is -1"),
        (relabelled(lambda labels: [1 if label == 2 else label for label in labels]), CLASSES[2]),
        (relabelled(lambda labels: [None, *labels[1:]]), "1 nulls"),
        (relabelled(lambda labels: [str(label) for label in labels]), "the training files lack: 0, 1, 2;"),
        (lambda table: table.rename_columns(["image", "klass"]), "'label'"),
        (lambda table: table.rename_columns(["picture", "label"]), "'image' or 'img'"),
        (lambda table: pa.table({"image": pa.array([[1]] * len(table)), "label": table["label"]}), "{bytes, path}"),
        (lambda table: pa.table({"image": pa.array([b"x"] * len(table)), "label": table["label"]}), "no picture"),
    ],
)
def test_wrong_parquet_is_refused_in_one_line(
    tmp_path: Path, parts: dict[str, Pictures], change: Callable[[pa.Table], pa.Table], says: str
) -> None:
    write_shards(tmp_path, **parts)
    rewrite(tmp_path / "val.parquet", change)
    refused(tmp_path, says)


def test_missing_and_broken_shards_are_refused(tmp_path: Path, parts: dict[str, Pictures]) -> None:
    write_shards(tmp_path, 3, train=parts["train"], validation=parts["val"])
    (tmp_path / "validation-00001-of-00003.parquet").rename(tmp_path / "elsewhere")
    refused(tmp_path, "2 of 3 shards")
    (tmp_path / "validation-00001-of-00003.parquet").write_bytes(b"PAR1")
    refused(tmp_path, "no whole Parquet file")
    for shard in tmp_path.glob("validation-*"):
        shard.unlink()
    refused(tmp_path, "no validation*.parquet")


def test_large_row_groups_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, Pictures]
) -> None:
    monkeypatch.setattr("dasgm.data._listing.LARGE", 10)
    *_, note = imagenet.Config().photographs(str(write_shards(tmp_path, **parts))).train.notes
    assert "row groups of up to 23 rows" in note


def test_no_place_is_refused() -> None:
    refused(None, "--data-dir")
    refused("nowhere", "nowhere")
    refused("nothing://bucket/prefix", "nothing://bucket/prefix")


@pytest.mark.parametrize(
    "wrong",
    [{"image_size": 8}, {"image_size": 2000}, {"limit": -1}, {"cutout": 16}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"data.{next(iter(wrong))}"):
        imagenet.Config(**wrong)


def test_too_large_a_batch_is_refused(data: Photographs) -> None:
    with pytest.raises(ValueError, match="lower --batch-size"):
        TorchLoader(data, 12, workers=2)
    with pytest.raises(ValueError, match="processes"):
        TorchLoader(data, 2, processes=-1)


def test_a_search_on_it_is_refused_in_one_line(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "imagenet" in keys("data") and imagenet.Config().class_count() is None
    config = with_dataset(preset("quickstart").config, "imagenet")
    assert override(config, {"data.image_size": 224}).data.image_size == 224
    monkeypatch.chdir(tmp_path)
    words = ["search", "--dataset", "imagenet", "--data-dir", str(root), "--storage", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "search on cifar10" in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
