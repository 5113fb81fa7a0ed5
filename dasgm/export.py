"""Exports a trained network for other programs, as a PyTorch program (pt2) or as ONNX, and checks it before writing."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dasgm.model import Model

Format = Literal["pt2", "onnx"]
FORMATS: tuple[Format, ...] = ("pt2", "onnx")
BATCHES = (1, 2, 5)  # sizes at which the outputs are compared
TOLERANCE = 1e-4
OPSET = 20
NEEDED = ("onnx", "onnxscript", "onnxruntime")
METADATA = "dasgm.json"  # name of the extra file in a pt2


def export(model: Model, path: Path, format: Format) -> float:
    """Exports `model` (on the CPU) to `path`, for batches of any size, after comparing its outputs with the module's.

    Load pt2 by torch.export.load(path).module(); it is a zip archive. ONNX has the input `images` and the output
    `logits`. Both carry `metadata`: ONNX as `metadata_props`, each value as JSON, pt2 as the extra file `dasgm.json`.

    Returns:
        The largest difference of a logit.

    Raises:
        ValueError: a package that ONNX needs is not installed, the file cannot be written, or outputs differ by more
            than 1e-4 (relative or absolute). In these cases no file is left.
    """
    if format == "onnx" and (missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]):
        raise ValueError(f"--format onnx needs {', '.join(missing)}: pip install 'dasgm[export]'")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.{format}")
    try:
        with _quiet():
            {"pt2": _write_pt2, "onnx": _write_onnx}[format](model, temporary)
            run = {"pt2": _pt2, "onnx": _onnx}[format](temporary)
            worst = max(_compare(model, run, x) for n in BATCHES for x in _inputs(model, n))
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"--output {path}: cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)
    return worst


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


def _example(model: Model) -> Tensor:
    return torch.zeros(2, 3, model.image_size, model.image_size)


def _write_pt2(model: Model, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (_example(model),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata(model))})


def _write_onnx(model: Model, path: Path) -> None:
    program = torch.onnx.export(
        model,
        (_example(model),),
        input_names=["images"],
        output_names=["logits"],
        opset_version=OPSET,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update({name: json.dumps(value) for name, value in metadata(model).items()})
    program.save(str(path), external_data=False)


def _pt2(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


def _onnx(path: Path) -> Callable[[Tensor], Tensor]:
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
def _compare(model: Model, run: Callable[[Tensor], Tensor], x: Tensor) -> float:
    expected, found = model(x), run(x)
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
        shape = f"{list(found.shape)} for {list(expected.shape)}"
        worst = f"{(found - expected).abs().max():.2g}" if found.shape == expected.shape else shape
        raise ValueError(f"the exported model's outputs differ from the network's by {worst} on {len(x)} images")
    return (found - expected).abs().max().item()


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
