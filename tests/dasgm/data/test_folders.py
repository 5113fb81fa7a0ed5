"""Folders of pictures as people have them, by both readers: in memory (folder) and streamed (imagenet)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from trees import N, both, classes, fill, in_memory, parts, png, refused, streamed

from dasgm.data import imagenet
from dasgm.data._clutter import kind_of
from dasgm.data._listing import listings

# ---- parts


@pytest.mark.parametrize(
    "names", [("Training", "Testing"), ("TRAIN", "Test"), ("training", "eval"), ("train", "test"), ("Train", "testing")]
)
def test_parts_by_any_name(tmp_path: Path, names: tuple[str, str]) -> None:
    counts, _ = both(parts(tmp_path, *names))
    assert counts == {"cat": 2 * N, "dog": 2 * N}


@pytest.mark.parametrize("val", ["Valid", "validation", "VAL"])
def test_three_parts_by_any_name(tmp_path: Path, val: str) -> None:
    parts(tmp_path, "Train", val, "Test")
    assert in_memory(tmp_path, holdout=0.1)[0] == {"cat": 3 * N, "dog": 3 * N}
    counts, notes = streamed(tmp_path)
    assert counts == {"cat": 2 * N, "dog": 2 * N} and "Test is not used" in notes


def test_a_training_part_alone(tmp_path: Path) -> None:
    counts, notes = in_memory(parts(tmp_path, "Training"))
    assert counts == {"cat": N, "dog": N} and "sixth" in notes
    refused(tmp_path, "no val/", readers=(streamed,))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root: fill(root / "bird"), ("train", "test", "bird", "move")),
        (lambda root: classes(root / "Training", "cat"), ("train", "Training", "merge")),
        (lambda root: (root / "train").rename(root / "validation"), ("validation", "test", "no train/", "move")),
        (lambda root: fill(root / "train"), ("000.png", "cat", "dog", "move")),
        (lambda root: classes(root / "train" / "val", "cat", "dog"), ("val", "move", "rename")),
        (lambda root: fill(root / "train" / "test"), ("test", "move", "rename")),
        (lambda root: fill(root / "test" / "bird"), ("bird",)),
    ],
)
def test_parts_in_doubt_are_refused(tmp_path: Path, spoil: Callable[[Path], None], says: tuple[str, ...]) -> None:
    spoil(parts(tmp_path, "train", "test"))
    refused(tmp_path, *says)


@pytest.mark.parametrize("inside", ["a/train", "a/b/Valid", "dog/test"])
def test_parts_inside_classes_are_refused(tmp_path: Path, inside: str) -> None:
    classes(tmp_path, "cat", "dog", inside)
    refused(
        tmp_path, f"{tmp_path}/{inside}: named like parts", "inside class folders", "--data-dir", readers=(in_memory,)
    )


@pytest.mark.parametrize("folder", ["", "/dog"])
def test_one_folder_is_not_in_two_parts(tmp_path: Path, folder: str) -> None:
    parts(tmp_path, "train")
    if folder:
        classes(tmp_path / "test", "cat")
    (tmp_path / f"test{folder}").symlink_to(tmp_path / f"train{folder}")
    refused(tmp_path, f"test{folder} and {tmp_path}/train{folder} are the same folder", "remove the link")


def test_a_part_of_pictures_without_classes_is_refused(tmp_path: Path) -> None:
    parts(tmp_path, "train")
    fill(tmp_path / "test", 3)
    refused(tmp_path, f"{tmp_path}/test holds 3 pictures in no class folder", "move")


@pytest.mark.parametrize("names", [("seg_train", "seg_test"), ("training_set", "test_set"), ("train2017", "val2017")])
def test_classes_that_seem_to_be_parts_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    refused(parts(tmp_path, *names), *names, "rename", readers=(in_memory,))


def test_names_with_a_part_in_them_may_be_classes(tmp_path: Path) -> None:
    classes(tmp_path, "test_tube", "beaker", "evaluation", "trainer")
    assert in_memory(tmp_path)[0] == dict.fromkeys(["beaker", "evaluation", "test_tube", "trainer"], N)


def test_a_class_called_train_in_every_part(tmp_path: Path) -> None:
    for part in ("train", "test"):
        classes(tmp_path / part, "car", "train")
    counts, notes = both(tmp_path)
    assert counts == {"car": 2 * N, "train": 2 * N} and "taken for a class" in notes


def test_archives_leave_a_folder_in_a_folder_of_its_name(tmp_path: Path) -> None:
    for part in ("train", "test"):
        classes(tmp_path / "downloads" / part / part, "cat", "dog")
    counts, notes = both(tmp_path)
    assert counts == {"cat": 2 * N, "dog": 2 * N} and "downloads/train/train is read" in notes


def test_a_part_that_is_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    parts(tmp_path, "train", "test")
    (tmp_path / "val").symlink_to("nowhere")
    refused(tmp_path, "val", "a link to nowhere")


@pytest.mark.parametrize("place", ["", "train"])
def test_class_folders_in_a_folder_of_images_are_classes(tmp_path: Path, place: str) -> None:
    classes(tmp_path / place / "images", "cat", "dog")
    (tmp_path / place / "classes.txt").write_text("1 cat\n2 dog\n")
    counts, notes = in_memory(tmp_path)
    assert counts == {"cat": N, "dog": N} and "images is read" in notes and "files about the data 1" in notes


def test_classes_one_folder_deeper_are_pointed_out(tmp_path: Path) -> None:
    classes(tmp_path / "PetImages", "cat", "dog")
    refused(tmp_path, "one class folder", "PetImages", "--data-dir", readers=(in_memory,))


# ---- what others leave

LEFT = {  # path -> kind, or None where nobody has one; from the programs' own documentation
    "train/cat/@eaDir/000.png/SYNOFILE_THUMB_M.png": "NAS",
    "train/#recycle/cat/1.png": "NAS",
    "train/cat/._000.png": "NAS",
    "train/cat/Thumbs.db": "operating system",
    "train/cat/.DS_Store": "operating system",
    "train/$RECYCLE.BIN/1.png": "operating system",
    "System Volume Information/x.png": "operating system",
    "train/lost+found/2.png": "operating system",
    "train/.Trash-1000/3.png": "operating system",
    "train/cat/.directory": "operating system",
    "train/cat/.ipynb_checkpoints/000-checkpoint.png": "editors",
    "train/.ipynb_checkpoints/000-checkpoint.png": "editors",
    "train/cat/000.png~": "editors",
    "train/cat/.000.png.swp": "editors",
    "train/cat.dvc": "version control",
    "train/.gitignore": "version control",
    ".git/annex/objects/1.png": "version control",
    "__MACOSX/train/cat/000.png": "archives",
    "train.zip": "archives",
    "README.md": "about the data",
    "LICENSE": "about the data",
    "train/labels.csv": "about the data",
    "SHA256SUMS": "about the data",
    "train/cat/.hidden.png": "hidden",
}


def test_what_other_programs_leave_is_ignored_and_said(tmp_path: Path) -> None:
    parts(tmp_path, "train", "test")
    before = listings(str(tmp_path))[0].digest
    for path in LEFT:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(png(0))
    counts, notes = both(tmp_path)
    assert counts == {"cat": 2 * N, "dog": 2 * N} and listings(str(tmp_path))[0].digest == before
    said = [line for line in streamed(tmp_path)[1].splitlines() if "ignored: " in line]
    assert sum(int(word.strip(",;")) for line in said for word in line.split("ignored: ")[1].split() if
               word.strip(",;").isdigit()) == len(LEFT)  # fmt: skip
    for kind in set(LEFT.values()):
        assert kind in notes


@pytest.mark.parametrize("name", ["cat", "000.png", "license_plate", "cvs", "notes.txt", "recycle", "test"])
def test_what_may_be_a_class_or_a_picture_is_not_ignored(name: str) -> None:
    assert kind_of(name) is None


def test_what_is_not_downloaded_is_unreadable(tmp_path: Path) -> None:
    parts(tmp_path, "train", "test")
    for path in ("train/cat.dvc", "train/fox.dvc", "train/cat/x.png.dvc", "train/dog/.y.png.icloud", "test.dvc"):
        (tmp_path / path).write_text("")
    refused(tmp_path, "3 of 27 pictures", "train/fox (only DVC's", "x.png (only DVC's", "dog/y.png (not downloaded")
    assert in_memory(tmp_path, skip_unreadable=True)[0] == {"cat": 2 * N, "dog": 2 * N}
    (tmp_path / "val.dvc").write_text("")
    refused(tmp_path, f"{tmp_path}/val (only DVC's pointer is there: run 'dvc pull'), or remove val.dvc")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git lfs pull"),
        ("/annex/objects/SHA256E-s5--00.png\n", "git annex get"),
    ],
)
def test_a_pointer_in_a_pictures_place_says_how_to_fetch_it(tmp_path: Path, content: str, says: str) -> None:
    parts(tmp_path, "train", "test")
    (tmp_path / "train" / "cat" / "x.png").write_text(content)
    refused(tmp_path, "x.png (only a pointer of", says, readers=(in_memory,))


def test_what_nothing_explains_is_named(tmp_path: Path) -> None:
    parts(tmp_path, "train", "test")
    (tmp_path / "weights.bin").write_bytes(b"")
    (tmp_path / "devkit").mkdir()
    assert all(name in both(tmp_path)[1] for name in ("weights.bin", "devkit"))
    os.mkfifo(tmp_path / "train" / "cat" / "pipe.png")
    refused(tmp_path, "pipe.png")


def test_own_results_are_no_class(tmp_path: Path) -> None:
    classes(tmp_path, "cat", "dog")
    (tmp_path / "runs" / "one" / "pictures").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "run.json").write_text("{}")
    fill(tmp_path / "runs" / "one" / "pictures")
    assert in_memory(tmp_path)[0] == {"cat": N, "dog": N}


# ---- links


def test_links_are_followed_once(tmp_path: Path) -> None:
    root = parts(tmp_path / "data", "train", "test")
    fill(tmp_path / "more", 5, first=500)
    for name in ("a", "z"):
        (root / "train" / "cat" / name).symlink_to(tmp_path / "more")
    (tmp_path / "more" / "up").symlink_to("..")
    (root / "train" / "cat" / "all").symlink_to("..")
    (root / "train" / "cat" / "again.png").symlink_to("000.png")
    (root / "train" / "cat" / "one.png").symlink_to(root / "train" / "dog" / "001.png")
    counts, notes = both(root)
    assert counts == {"cat": 2 * N + 6, "dog": 2 * N}
    assert "6 pictures through links" in notes and "read already 4" in notes and "cat/one.png" in notes


def test_links_to_nowhere_are_unreadable_pictures(tmp_path: Path) -> None:
    parts(tmp_path, "train", "test")
    (tmp_path / "train" / "cat" / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "train" / "dog" / "loop").symlink_to("loop")
    (tmp_path / "train" / "dog" / ".hidden").symlink_to("nowhere")
    refused(tmp_path, "2 of 26 pictures cannot be read", "gone.png (a link to nowhere)", "loop (", "skip-unreadable")
    for counts, notes in (in_memory(tmp_path, skip_unreadable=True), streamed(tmp_path, True)):
        assert counts == {"cat": 2 * N, "dog": 2 * N} and "gone.png" in notes and "left out" in notes


def test_a_folder_that_may_not_be_read_is_named() -> None:
    with tempfile.TemporaryDirectory() as place:
        root = parts(Path(place), "train", "test")
        root.chmod(0o755)
        (root / "train" / "cat" / "secret").mkdir(mode=0)
        me = os.geteuid()
        os.seteuid(me or 65534)  # root may read everything
        try:
            refused(root, "1 of 25 pictures cannot be read", "train/cat/secret (Permission denied)")
        finally:
            os.seteuid(me)


# ---- names


def test_odd_names_are_shown_escaped(tmp_path: Path) -> None:
    odd = [b"caf\xe9", b"two\nlines", b"-rf", b"\xff" * 200, "\N{RIGHT-TO-LEFT OVERRIDE}abc".encode()]
    for part in (b"train", b"test"):
        for name in odd:
            fill(os.path.join(os.fsencode(tmp_path), part, name))
    counts, notes = both(tmp_path)
    assert list(counts.values()) == [2 * N] * 5 and all(map(str.isprintable, (*counts, *notes.splitlines())))
    assert {"caf\\udce9", "two\\nlines", "-rf"} < set(counts)
    data = imagenet.Config(image_size=16).photographs(str(tmp_path))
    names = [data.train.source.name(i) for i in range(len(data.train))]
    assert all(name.isprintable() and len(name) < 300 for name in names)
    assert all(isinstance(found, bytes) for found in data.train.source.read(range(len(names))))
    with open(os.path.join(os.fsencode(tmp_path), b"train", odd[0], b"x\xfe.bin"), "wb"):
        refused(tmp_path, "x\\udcfe.bin")


def test_accents_composed_and_decomposed_are_one_class(tmp_path: Path) -> None:
    classes(tmp_path / "train", "caf\u00e9", "dog")
    classes(tmp_path / "test", "cafe\u0301", "dog")
    assert both(tmp_path)[0] == {"caf\u00e9": 2 * N, "dog": 2 * N}
    fill(tmp_path / "train" / "cafe\u0301")
    refused(tmp_path, "look the same")


# ---- data sets as people have them


def test_tiny_imagenet(tmp_path: Path) -> None:
    names = ["n01443537", "n01629819"]
    for name in names:
        fill(tmp_path / "train" / name / "images", ending="JPEG")
        (tmp_path / "train" / name / f"{name}_boxes.txt").write_text("0\t1\t2\t3\n")
    for part in ("val", "test"):
        fill(tmp_path / part / "images", ending="JPEG")
    rows = [f"{i:03d}.JPEG\t{names[i % 3 > 0]}\t0\t32\t44\t62\n" for i in range(N)]
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(rows))
    (tmp_path / "wnids.txt").write_text("\n".join(names))
    (tmp_path / "words.txt").write_text("n01443537\tgoldfish\n")
    assert in_memory(tmp_path, holdout=0.1)[0] == {names[0]: N + 4, names[1]: N + 8}
    counts, notes = streamed(tmp_path)
    assert counts == {names[0]: N + 4, names[1]: N + 8}
    assert "test is not used: its 12 pictures have no labels" in notes and "val_annotations.txt" in notes
    assert listings(str(tmp_path))[1].labels.tolist() == [int(i % 3 > 0) for i in range(N)]


@pytest.mark.parametrize("table", ["id,breed\n{rows}", "{rows}", "name;label;score\n{wide}"])
@pytest.mark.parametrize("place", ["", "images", "train"])
def test_a_folder_of_pictures_and_a_table(tmp_path: Path, table: str, place: str) -> None:
    fill(tmp_path / place, 2 * N)
    label = ["pug" if i % 2 else "beagle" for i in range(2 * N)]
    rows = "\n".join(f"{i:03d},{name}" for i, name in enumerate(label))
    wide = "\n".join(f"{place}/{i:03d}.png;{name};0.5" for i, name in enumerate(label))
    (tmp_path / "labels.csv").write_text(table.format(rows=rows, wide=wide))
    counts, notes = in_memory(tmp_path)
    assert counts == {"beagle": N, "pug": N} and "labels.csv says which class" in notes
    (tmp_path / "labels.csv").write_text("id,breed\n000,pug\n")
    refused(tmp_path, f"{2 * N} pictures in no class folder", readers=(in_memory,))


def test_a_table_of_other_pictures_names_no_classes(tmp_path: Path) -> None:
    """As Kaggle has them: pictures in train/ and test/, a table for train/ and a sample of what is to be handed in."""
    fill(tmp_path / "train", 2 * N)
    fill(tmp_path / "test", 4, first=500)
    (tmp_path / "train.csv").write_text("id,label\n" + "".join(f"{i:03d},{'ab'[i % 2]}\n" for i in range(2 * N)))
    sample = "id,label\n" + "".join(f"{i:03d},{'ab'[i % 2]}\n" for i in range(500, 504))
    (tmp_path / "sampleSubmission.csv").write_text(sample)
    refused(tmp_path, "test holds 4 pictures in no class folder")
    (tmp_path / "test.csv").write_text(sample)
    assert both(tmp_path)[0] == {"a": N + 2, "b": N + 2}
    (tmp_path / "test.csv").unlink()
    for i in range(500, 504):
        (tmp_path / "test" / f"{i}.png").rename(tmp_path / "test" / f"{i - 500:03d}.png")
    refused(tmp_path, "both have pictures called 000, 001", "train.csv", "not certain")


def test_validation_pictures_of_imagenet(tmp_path: Path) -> None:
    classes(tmp_path / "train", "n01440764", "n03995372")
    for i in range(4):
        (tmp_path / "val").mkdir(exist_ok=True)
        (tmp_path / "val" / f"ILSVRC2012_val_{i:08d}.JPEG").write_bytes(png(i))
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("490\n361\n171\n822\n")
    refused(tmp_path, "4 pictures in no class folder", "LOC_val_solution.csv", readers=(streamed,))
    rows = [f"ILSVRC2012_val_{i:08d},{'n03995372' if i else 'n01440764'} 85 1 499 272 \n" for i in range(4)]
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(rows))
    assert listings(str(tmp_path))[1].labels.tolist() == [0, 1, 1, 1]


# ---- elsewhere


def test_a_uri_is_read_like_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = parts(tmp_path / "data", "Training", "Valid")
    fill(root / "Training" / "cat" / "@eaDir")
    (root / "README").write_text("")
    here = listings(str(root))
    assert [one.digest for one in listings(f"file://{root}")] == [one.digest for one in here]
    monkeypatch.setattr("dasgm.data._store.Store.local", None)  # as a filesystem that is not this machine's
    assert [one.digest for one in listings(str(root))] == [one.digest for one in here]
    assert listings(str(root))[0].notes == here[0].notes


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "nowhere"):
        refused(tmp_path / name, f"--data-dir {tmp_path / name}: no such folder")


def test_many_classes_are_summarised(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for i in range(30):
            fill(tmp_path / part / f"c{i:02d}", 1 + i % 3)
    assert f"{tmp_path}/train: 60 pictures in 30 classes, c00 1 to c02 3" in streamed(tmp_path)[1]
