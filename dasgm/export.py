"""Exports a trained network for other programs, as a PyTorch program (pt2) or as ONNX, and checks it before writing."""

from __future__ import annotations

import copy
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dasgm.model import Model

Format = Literal["pt2", "onnx"]
Precision = Literal["float32", "float16", "int8"]
FORMATS: tuple[Format, ...] = ("pt2", "onnx")
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")
BATCHES = (1, 2, 5)  # sizes at which the outputs are compared
TOLERANCE = 1e-4  # of float32; the others are judged by their answers, see dasgm.measures.agreement
OPSET = 20
NEEDED = ("onnx", "onnxscript", "onnxruntime")
METADATA = "dasgm.json"  # name of the extra file in a pt2

Run = Callable[[Tensor], Tensor]  # images [N, 3, S, S] -> logits [N, classes], both float32


def export(model: Model, path: Path, format: Format, precision: Precision = "float32") -> float:
    """Exports `model` (on the CPU) to `path`, for batches of any size, after comparing its outputs with the module's.

    Load pt2 by torch.export.load(path).module(); it is a zip archive. ONNX has the input `images` and the output
    `logits`, both float32. Both carry `metadata`: ONNX as `metadata_props`, each value as JSON, pt2 as the extra file
    `dasgm.json`.

    Args:
        precision: of weights and activations inside an ONNX file: float32; float16; or int8, where convolutions and
            linear layers have 8-bit weights and round their inputs to 8 bits by the range that each batch has
            (onnxruntime.quantization.quantize_dynamic).

    Returns:
        The largest difference of a logit.

    Raises:
        ValueError: a package that ONNX needs is not installed, the file cannot be written, an output is not finite, or
            outputs of float32 differ by more than 1e-4 (relative or absolute). In these cases no file is left.
    """
    ensure_possible(format, precision)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.{format}")
    try:
        with _quiet():
            if format == "pt2":
                _write_pt2(model, temporary)
            else:
                {"float32": _write_onnx, "float16": _write_float16, "int8": _write_int8}[precision](model, temporary)
            run = {"pt2": _pt2, "onnx": _onnx}[format](temporary)
            tolerance = TOLERANCE if precision == "float32" else None
            worst = max(_compare(model, run, x, tolerance) for n in BATCHES for x in _inputs(model, n))
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"--output {path}: cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)
    return worst


def ensure_possible(format: Format, precision: Precision = "float32") -> None:
    """ValueError where a package is missing, or the format has no such precision."""
    if format == "pt2" and precision != "float32":
        raise ValueError(f"--precision {precision}: a pt2 has float32 alone; choose --format onnx")
    if format == "onnx":
        ensure_installed("--format onnx")


def ensure_installed(what: str) -> None:
    """ValueError, which begins with `what`, where a package that ONNX needs is missing."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(f"{what} needs {', '.join(missing)}: pip install 'dasgm[export]'")


def opened(path: Path) -> Run:
    """What runs an exported ONNX file on the CPU."""
    return _onnx(path)


def metadata(model: Model) -> dict[str, Any]:
    """What a program needs, besides the network, to turn pictures into its input and logits into class names.

    In this order: turn the picture upright and convert it to RGB, resize its shorter side to `resize` pixels, keep the
    centre of `image_size` pixels, divide by `scale`, subtract `mean`, divide by `std`. The softmax of the logits gives
    the probabilities of `classes`.
    """
    return {
        "classes": model.classes,
        "image_size": model.image_size,
        "resize": model.resize,
        "interpolation": "bilinear, antialiased",
        "layout": "NCHW",
        "channels": "RGB",
        "scale": 255,
        "mean": model.mean,
        "std": model.std,
        **{name: model.about[name] for name in ("genotype", "network", "data", "dasgm") if name in model.about},
    }


# the script beside an ONNX file

SCRIPT = '''"""Classifies pictures: python MODEL.onnx.py PICTURE...   Needs onnxruntime, numpy and pillow."""
import json, sys
import numpy as np, onnxruntime
from PIL import Image, ImageOps

sys.excepthook = lambda kind, error, _: print(f"error: {{error}}", file=sys.stderr)
session = onnxruntime.InferenceSession(__file__.removesuffix(".py"), providers=["CPUExecutionProvider"])
about = {{key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}}
size, resize = about["image_size"], about["resize"]
for path in sys.argv[1:]:
    image = Image.open(path)
{smaller}    image = ImageOps.exif_transpose(image).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
{square}
    x = (np.asarray(image) / 255 - about["mean"]) / about["std"]
    logits = session.run(["logits"], {{"images": x.transpose(2, 0, 1)[None].astype(np.float32)}})[0][0]
    p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(path, *(f"{{about['classes'][i]}} {{p[i]:.1%}}" for i in np.argsort(-p)[:5]), sep="  ")
'''
WHOLE = """\
    image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)"""
CENTRE = """\
    w, h = (side * resize // min(image.size) for side in image.size)
    x, y = round((w - size) / 2), round((h - size) / 2)
    image = image.resize((w, h), Image.Resampling.BILINEAR).crop((x, y, x + size, y + size))"""
SMALLER = """\
    image.draft(None, (4 * size, 4 * size))  # a large JPEG is decoded at a half, a quarter or an eighth of its size
"""


def script(model: Model) -> str:
    """A Python script that classifies pictures by the ONNX file beside it, without PyTorch and this package.

    The script's name is the file's with `.py` behind it.

    Its pixels are those of `Model.preprocess` within rounding, without what dasgm adds to Pillow: the levels of 16-bit
    grey and of transparent grey of 2 and 4 bits, and the orientation in broken EXIF, in a PNG's text and in XMP with
    single quotes.
    """
    whole = model.resize == model.image_size
    parts = {"smaller": SMALLER if whole else "", "square": WHOLE if whole else CENTRE}
    return SCRIPT.format(**parts)


# writing and reading


def _example(model: Model) -> Tensor:
    return torch.zeros(2, 3, model.image_size, model.image_size)


def _write_pt2(model: Model, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (_example(model),), dynamic_shapes=({0: batch},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of source, with paths of this machine
    torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata(model))})


def _write_onnx(model: Model, path: Path, network: nn.Module | None = None) -> None:
    program = torch.onnx.export(
        network or model,
        (_example(model),),
        input_names=["images"],
        output_names=["logits"],
        opset_version=OPSET,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        verbose=False,
    )
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # lines of source, with paths of this machine
    program.model.metadata_props.update({name: json.dumps(value) for name, value in metadata(model).items()})
    program.save(str(path), external_data=False)


class _Half(nn.Module):
    """A network in float16 whose input and output are float32."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).half()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x.half()).float()
        return logits


def _write_float16(model: Model, path: Path) -> None:
    _write_onnx(model, path, _Half(model).eval())


def _write_int8(model: Model, path: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        whole, quantized = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        _write_onnx(model, whole)
        # onnxruntime's CPU kernel of an integer convolution takes unsigned weights alone
        quantize_dynamic(whole, quantized, weight_type=QuantType.QUInt8)
        program = onnx.load(quantized)
    onnx.helper.set_model_props(program, {name: json.dumps(value) for name, value in metadata(model).items()})
    onnx.save(program, path)


def _pt2(path: Path) -> Run:
    return torch.export.load(path).module()


def _onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])


def _inputs(model: Model, n: int) -> list[Tensor]:
    """Noise, and smooth pictures as `preprocess` would return them."""
    size, generator = model.image_size, torch.Generator().manual_seed(n)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.mean, model.std))
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, size=(size, size), mode="bilinear").mul(255).round() / 255
    return [torch.randn(n, 3, size, size, generator=generator), (smooth - mean) / std]


@torch.no_grad()
def _compare(model: Model, run: Run, x: Tensor, tolerance: float | None = TOLERANCE) -> float:
    """The largest difference of a logit.

    Args:
        tolerance: relative and absolute; None bounds no difference.
    """
    expected, found = model(x), run(x)
    if found.shape != expected.shape:
        shapes = f"{list(found.shape)} for {list(expected.shape)}"
        raise ValueError(f"the exported model's outputs differ from the network's by {shapes} on {len(x)} images")
    worst = (found - expected).abs().max().item()
    if not found.isfinite().all():
        raise ValueError(f"the exported model's outputs are not finite on {len(x)} images; choose --precision float32")
    if tolerance is not None and not torch.allclose(found, expected, rtol=tolerance, atol=tolerance):
        raise ValueError(f"the exported model's outputs differ from the network's by {worst:.2g} on {len(x)} images")
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the exporters' warnings and log lines are suppressed; a failure is an exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
