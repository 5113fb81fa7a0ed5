"""A trained network for other programs: exports, their accuracy, and the script beside them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
import venv
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT
from gallery import model, pieces
from PIL import Image, ImageOps
from trained import CONFIG

import dasgm
from dasgm import export
from dasgm.cli import main as cli
from dasgm.measures.agreement import Agreement, agreement, named


@pytest.fixture(scope="module")
def folder(digits_run: Path) -> Path:
    return digits_run


def images(n: int) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(n))


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory) -> Callable[[str], tuple[Path, str]]:
    """For pt2 or a precision of ONNX the file, and what the command said that made it; each is made once."""
    for module in ("onnxruntime", "onnxscript", "onnx"):
        pytest.importorskip(module)

    @cache
    def make(what: str) -> tuple[Path, str]:
        place, said = tmp_path_factory.mktemp(what), io.StringIO()
        kind = ["--format", "pt2"] if what == "pt2" else ["--format", "onnx", "--precision", what]
        path = place / f"out.{kind[1]}"
        with redirect_stdout(said):
            assert cli.main(["export", str(folder), *kind, "--output", str(path)]) == 0
        beside = [] if what == "pt2" else [place / "out.onnx.py"]
        assert sorted(place.iterdir()) == [path, *beside]
        return path, said.getvalue()

    return make


@pytest.fixture(scope="module", params=export.FORMATS)
def exported(request, made) -> tuple[str, Path, str]:
    """A format, a file in it, and what the command said."""
    return request.param, *made("pt2" if request.param == "pt2" else "float32")


def test_export_agrees_for_any_batch(exported, folder):
    kind, path, said = exported
    assert "batches of 1, 2, 5" in said
    assert str(Path(export.__file__).parent).encode() not in path.read_bytes()  # nor any path of this machine
    if kind == "onnx":
        import onnxruntime as ort

        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        assert [i.name for i in session.get_inputs()] == ["images"] and not isinstance(
            session.get_inputs()[0].shape[0], int
        )

        def run(x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])
    else:
        run = torch.export.load(path).module()
    model = dasgm.load(folder)
    with torch.no_grad():
        for n in (1, 3, 8):
            torch.testing.assert_close(run(images(n)), model(images(n)), rtol=1e-4, atol=1e-4)


def test_exports_alone_name_what_is_on_a_picture(folder, exported, tmp_path):
    """From the file's metadata, with Pillow and NumPy: the same names and probabilities as `predict`."""
    (kind, path, _), picture = exported, CONFIG.data.load().test_images[3].permute(1, 2, 0).numpy()
    Image.fromarray(np.pad(picture, ((0, 0), (6, 6), (0, 0)))).save(tmp_path / "wide.png")
    if kind == "onnx":
        import onnx
        import onnxruntime as ort

        about = {one.key: json.loads(one.value) for one in onnx.load(path).metadata_props}
    else:
        files = {"dasgm.json": ""}
        program = torch.export.load(path, extra_files=files).module()
        about = json.loads(files["dasgm.json"])
    assert about["layout"] == "NCHW" and about["channels"] == "RGB" and about["interpolation"].startswith("bilinear")
    with Image.open(tmp_path / "wide.png") as image:
        factor = about["resize"] / min(image.size)
        image = image.resize([round(side * factor) for side in image.size], Image.Resampling.BILINEAR)
        left, top = ((side - about["image_size"]) // 2 for side in image.size)
        image = image.crop((left, top, left + about["image_size"], top + about["image_size"]))
    x = (np.asarray(image) / about["scale"] - about["mean"]) / about["std"]
    x = x.transpose(2, 0, 1)[None].astype(np.float32)
    if kind == "onnx":
        (logits,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"images": x})
    else:
        logits = program(torch.from_numpy(x)).numpy(force=True)
    exponents = np.exp(logits[0])
    found = sorted(zip(about["classes"], exponents / exponents.sum(), strict=True), key=lambda one: -one[1])
    (expected,) = dasgm.load(folder).predict([tmp_path / "wide.png"], top=10)
    assert [name for name, _ in found] == [name for name, _ in expected]
    np.testing.assert_allclose([p for _, p in found], [p for _, p in expected], rtol=1e-3)


def test_an_export_that_differs_or_cannot_be_made_leaves_no_file(folder, tmp_path, monkeypatch, capsys):
    model = dasgm.load(folder)
    monkeypatch.setattr(export, "_write_pt2", lambda model, path: path.write_bytes(b"wrong"))
    monkeypatch.setattr(export, "_pt2", lambda path: lambda x: model(x) + 1e-2)
    monkeypatch.setattr(export, "NEEDED", ("onnx", "no_such_package"))
    for words, says in (
        (["--format", "pt2", "--output", str(tmp_path / "x.pt2")], "differ from the network's by 0.01"),
        (["--format", "pt2", "--output", str(tmp_path / "no" / "x.pt2")], "cannot be written"),
        (["--format", "onnx", "--output", str(tmp_path / "x.onnx")], "pip install 'dasgm[export]'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["export", str(folder), *words])
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2 and says in line
    assert not list(tmp_path.iterdir())


# the precisions of ONNX


@pytest.fixture(scope="module", params=["float16", "int8"])
def lossy(request, made) -> tuple[str, Path, str]:
    """A precision, an ONNX file of it, and what the command said."""
    return request.param, *made(request.param)


def test_the_accuracy_of_a_precision_is_told(lossy, made, folder):
    """The same numbers from the file alone, on all test pictures."""
    import onnxruntime as ort

    _, path, said = lossy
    data, model = CONFIG.data.load(), dasgm.load(folder)
    levels = data.test_images.numpy() / 255
    x = ((levels - np.array(model.mean)[:, None, None]) / np.array(model.std)[:, None, None]).astype(np.float32)
    answers = []
    for file in (path, made("float32")[0]):
        session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
        answers.append(np.concatenate([session.run(None, {"images": x[i : i + 64]})[0] for i in range(0, len(x), 64)]))
    other, ours = (logits.argmax(1) for logits in answers)
    labels = data.test_labels.numpy()
    expected = (
        f"accuracy {(other == labels).mean():.2%}, in float32 {(ours == labels).mean():.2%}; the same answer on "
        f"{(other == ours).mean():.1%} of {len(x):,} pictures"
    )
    assert f"{path}: {expected}\n" in said and len(x) < 1000 and (other == ours).mean() > 0.9


def test_a_precision_is_in_the_file(lossy, made):
    import onnx

    precision, path, _ = lossy
    programs = [onnx.load(file) for file in (path, made("float32")[0])]
    ours, float32 = ({one.key: one.value for one in program.metadata_props} for program in programs)
    assert ours == float32 and json.loads(ours["classes"]) == [str(digit) for digit in range(10)]
    sizes = [sum(len(onnx.numpy_helper.to_array(w).tobytes()) for w in p.graph.initializer) for p in programs]
    kinds = {onnx.TensorProto.DataType.Name(w.data_type) for w in programs[0].graph.initializer}
    assert {"float16": "FLOAT16", "int8": "UINT8"}[precision] in kinds
    assert sizes[0] < {"float16": 0.55, "int8": 0.45}[precision] * sizes[1]
    for value in (*programs[0].graph.input, *programs[0].graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_accuracy_on_pictures_of_ones_own(made, folder, digits_pictures, tmp_path):
    """By hand: the model's own names for the pictures, and the names of their folders."""
    model, said = dasgm.load(folder), list[str]()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and no more")
    for i, path in enumerate(sorted(digits_pictures.rglob("*.png"))[:3]):
        (tmp_path / f"{i}.png").write_bytes(path.read_bytes())  # in a folder that is no class

    def wrong(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.full((len(x),), 7), 10).float()  # sees a 7 everywhere

    pictures = sorted(digits_pictures.rglob("*.png"))
    answers = [found.answer for found in model.predict(pictures)]
    correct = sum(answer == path.parent.name for answer, path in zip(answers, pictures, strict=True))
    others = [found.answer for found in model.predict(str(tmp_path / "?.png"))]
    found = agreement(model, wrong, named(model, [str(digits_pictures), str(tmp_path)], said.append))
    sevens = sum(path.parent.name == "7" for path in pictures)
    assert found == Agreement(23, [*answers, *others].count("7"), 20, sevens, correct) and sevens
    assert str(found).startswith(f"accuracy {sevens / 20:.2%}, in float32 {correct / 20:.2%} on the 20 whose class")
    assert said == [f"left out: {tmp_path / 'broken.png'}: not a jpeg, png, webp or gif picture"]
    alone = agreement(model, export.opened(made("float32")[0]), named(model, [str(tmp_path / "?.png")], said.append))
    assert str(alone) == "the same answer on 100.0% of 3 pictures, whose classes are not known"


def test_what_cannot_be_measured_is_not_written(folder, tmp_path, capsys):
    for words, says in (
        (["--format", "pt2", "--precision", "int8"], "--precision int8: a pt2 has float32 alone"),
        (["--format", "onnx", "--pictures", "x"], "--pictures: float32 is compared number by number"),
        (["--format", "onnx", "--precision", "int8", "--pictures", "absent.png"], "none of them can be read"),
        (["--format", "onnx", "--precision", "int8", "--pictures", "x", "--data-dir", "y"], "leave one of them out"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["export", str(folder), "--output", str(tmp_path / "x.onnx"), *words])
        *_, line = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2 and says in line
    assert not list(tmp_path.iterdir())


# the script beside an ONNX file

BLOCKED = """
import runpy, sys
sys.modules |= dict.fromkeys(("torch", "torchvision", "dasgm", "scipy", "onnx"))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not [name for name, module in sys.modules.items() if module and name.split(".")[0] in ("torch", "dasgm")]
"""


def answers(line: str) -> list[tuple[str, float]]:
    """(class, percent), the most probable first, of what the script printed for a picture."""
    return [(name, float(p.rstrip("%"))) for name, p in (one.rsplit(" ", 1) for one in line.split("  ")[1:])]


def test_the_script_runs_without_torch(exported, folder, digits_pictures):
    kind, path, _ = exported
    if kind != "onnx":
        pytest.skip("a pt2 has no script")
    script, pictures = path.with_name("out.onnx.py"), sorted(digits_pictures.rglob("*.png"))[:4]
    run = [sys.executable, "-c", BLOCKED, str(script), *map(str, pictures)]
    said = subprocess.run(run, capture_output=True, text=True, check=True)
    expected = dasgm.load(folder).predict(pictures, top=5)
    for line, picture, classes in zip(said.stdout.splitlines(), pictures, expected, strict=True):
        assert line.startswith(f"{picture}  ") and len(answers(line)) == 5
        assert [p for _, p in answers(line)] == pytest.approx([100 * p for _, p in classes], abs=0.06)
        assert answers(line)[0][0] == classes[0][0]
    assert len(script.read_text().splitlines()) <= 20


OTHERWISE = {"grey_16.png", "grey_key_16.png", "grey_key_2.png", "grey_key_4.png"}  # Pillow scales these otherwise
OTHERWISE |= {"exif_fraction.jpg", "exif_resolution.jpg"}  # broken, and Pillow fails
OTHERWISE |= {"exif_app1.png", "xmp_quoted.jpg"}  # Pillow does not look there for the orientation


@pytest.mark.filterwarnings("ignore:(Corrupt EXIF|Tag data)")
@pytest.mark.parametrize("resize", [32, 37], ids=["whole", "centre"])
def test_the_script_sees_what_the_network_was_measured_on(resize, tmp_path):
    """Of every kind of picture in the gallery, to within a level."""
    network, different = model(resize), set()
    source = export.script(network)
    seeing = source[source.index("    image = Image.open") : source.index("    logits =")]
    about = {"mean": network.mean, "std": network.std}
    for piece in pieces():
        path = tmp_path / piece.name
        path.write_bytes(piece.content)
        scope = {"path": path, "size": 32, "resize": resize, "about": about, "np": np}
        scope |= {"Image": Image, "ImageOps": ImageOps}
        try:
            exec(textwrap.dedent(seeing), scope)
        except Exception:
            different.add(piece.name)
            continue
        off = np.abs(scope["x"].transpose(2, 0, 1) - network.preprocess(path).numpy()).max()
        if off > 1.01 / 255:
            different.add(piece.name)
    assert different == OTHERWISE


@pytest.mark.parametrize("resize", [32, 37], ids=["whole", "centre"])
def test_the_guides_lines_are_the_scripts(resize, tmp_path):
    """Of a transparent picture, whose sides are not whole after resizing, and line by line."""
    network, guide = model(resize), (ROOT / "docs" / "howto" / "models.md").read_text()
    start = guide.index("image = Image.open(sys.argv[1])")
    seeing = guide[start : guide.index("request = ", start)]
    source = export.script(network)
    for line in source[source.index("    image = Image.open(path)\n") : source.index("    logits =")].splitlines()[1:]:
        assert line.strip() in seeing
    pixels = np.random.default_rng(0).integers(0, 256, (8, 11, 4), dtype=np.uint8)
    Image.fromarray(pixels).resize((91, 67), Image.Resampling.BICUBIC).save(tmp_path / "cat.png")
    about = {"mean": network.mean, "std": network.std}
    scope = {"size": 32, "resize": resize, "about": about, "np": np, "Image": Image, "ImageOps": ImageOps}
    exec(seeing.replace("sys.argv[1]", repr(str(tmp_path / "cat.png"))), scope)
    off = np.abs(scope["x"].transpose(2, 0, 1) - network.preprocess(tmp_path / "cat.png").numpy()).max()
    assert off <= 1.01 / 255


@pytest.mark.slow
def test_the_script_runs_in_an_environment_of_its_own(made, folder, digits_pictures, tmp_path):
    """With onnxruntime, numpy and pillow, and what they need, alone."""
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "onnxruntime", "numpy", "pillow"], check=True)
    clean = {"PATH": "/usr/bin:/bin"}
    assert subprocess.run([python, "-c", "import torch"], env=clean, capture_output=True).returncode
    picture = sorted(digits_pictures.rglob("*.png"))[0]
    ((name, p), *_) = dasgm.load(folder).predict([picture])[0]
    for precision in export.PRECISIONS:
        run = [python, f"{made(precision)[0]}.py", str(picture)]
        said = subprocess.run(run, env=clean, capture_output=True, text=True, check=True).stdout
        off = {"float32": 0.06, "float16": 1, "int8": 20}[precision]
        assert dict(answers(said.strip()))[name] == pytest.approx(100 * p, abs=off)
