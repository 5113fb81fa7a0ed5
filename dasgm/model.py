"""A trained network as two files without pickle: `model.safetensors` (the weights) and `model.json` (all else).

model = dasgm.load("runs/mine")                      # in eval mode; a run's folder, or either of the files
model.predict(["cat.jpg"])                           # [[("cat", 0.98), ...]]; also folders and patterns
model(torch.stack([model.preprocess("cat.jpg")]))    # logits [1, classes]
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as packed
from torch import Tensor, nn

from dasgm._version import __version__
from dasgm.bilevel import full_precision
from dasgm.config import to_json
from dasgm.cpus import cpus
from dasgm.data._images import stack
from dasgm.data._named import Unreadable, pictures
from dasgm.data._pictures import Source, fitted, quiet, shorter_side, upright_rgb
from dasgm.genotype import Genotype
from dasgm.methods._base import MOST_CELLS, WIDEST
from dasgm.networks.network import SHRINKS, DerivedNetwork, check_image_size
from dasgm.plugins import key_of
from dasgm.recipes import EvaluateConfig
from dasgm.store.files import first_line, plain, printable, reason, short, text, write_atomic
from dasgm.store.replica import here

if TYPE_CHECKING:
    Picture = str | Path | bytes | Image.Image | Tensor

FORMAT = 1
NONE = "none of these"  # the answer where no class is probable enough
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
MOST = {"cells": MOST_CELLS, "channels": WIDEST, "image_size": 2048}  # of a network that is read
MOST_EDGES = 32  # of a cell that is read


class Prediction(list[tuple[str, float]]):
    """The most probable classes of a picture, as (name, probability), the most probable first.

    Attributes:
        picture: path of the picture, or its place in the list.
        answer: name of the most probable class; "none of these" if its probability is below the threshold.
        error: why the picture cannot be read; then the list and `answer` are empty. Otherwise "".
    """

    def __init__(
        self, picture: str, classes: Sequence[tuple[str, float]] = (), threshold: float = 0.0, error: str = ""
    ) -> None:
        super().__init__(classes)
        self.picture, self.error = picture, error
        self.answer = "" if error else classes[0][0] if classes[0][1] >= threshold else NONE


class Model(nn.Module):
    """A trained network in eval mode: normalised images [N, 3, S, S] -> logits [N, classes].

    Attributes:
        network: the network itself.
        classes: class names in the order of the logits.
        image_size: S, in pixels.
        resize: length to which the shorter side of a picture is resized before the centre of S x S pixels is kept.
        mean, std: normalisation of images in [0, 1], one number per channel.
        about: all of model.json.
    """

    def __init__(self, genotype: Genotype, about: dict[str, Any]) -> None:
        super().__init__()
        self.network = genotype.build(about["channels"], about["cells"], len(about["classes"]), about["form"])
        self.about = about
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.image_size: int = about["image_size"]
        self.resize: int = about.get("resize", self.image_size)
        self.mean, self.std = tuple(about["mean"]), tuple(about["std"])

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    def preprocess(self, image: Picture) -> Tensor:
        """Turns a picture into the network's input, [3, S, S] on the CPU.

        The picture is turned upright and converted to RGB, its shorter side is resized to `resize` pixels (S, or
        256/224 of S for a network trained on ImageNet), the centre is kept and normalised.

        Args:
            image: path of a file, its bytes, a PIL image, or uint8 [3, H, W].

        Raises:
            ValueError, OSError: the picture cannot be read.
        """
        if isinstance(image, Tensor):
            if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
                raise ValueError(f"an image of {image.dtype} {list(image.shape)}: expected uint8 [3, H, W]")
            image = Image.fromarray(image.cpu().permute(1, 2, 0).contiguous().numpy())
        if not isinstance(image, str | Path | bytes | Image.Image):
            raise ValueError(
                f"an image of type {type(image).__name__}: expected a path, bytes, a PIL image or a uint8 tensor"
            )
        with quiet():
            x = self._square(Path(image) if isinstance(image, str) else image)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (x / 255 - mean) / std

    def _square(self, image: Source) -> Tensor:
        """uint8 [3, S, S], resized in the way in which the test images were when the network was measured."""
        if self.resize == self.image_size:
            return stack(bytearray(fitted(image, self.image_size)), self.image_size)[0]
        from dasgm.data._photographs import centred, decoded, from_pillow

        try:
            whole = decoded(image)
        except ModuleNotFoundError:  # without torchcodec: the same within rounding
            whole = from_pillow(upright_rgb(image))
        return centred(whole, self.image_size)

    def predict(
        self,
        images: Picture | Sequence[Picture],
        top: int = 5,
        *,
        threshold: float = 0.0,
        batch_size: int = 64,
        skip_unreadable: bool = False,
    ) -> list[Prediction]:
        """The `top` most probable classes of each picture, as (name, probability), the most probable first.

        Args:
            images: a file, a folder (all pictures below it), a pattern such as `holiday/*.jpg`, or a list of these, of
                files' bytes, PIL images and uint8 tensors [3, H, W].
            threshold: probability from 0 to 1 that a picture's best class must have; otherwise it is none of these.
            batch_size: number of pictures that the network sees at once.
            skip_unreadable: keep the place of a picture that cannot be read: its prediction is empty and has an
                `error`.

        Raises:
            ValueError: a picture cannot be read and is not to be skipped (the message names its path or its place in
                the list), or an argument is not as described.
        """
        found = []
        for prediction in self.predictions(images, top, threshold=threshold, batch_size=batch_size):
            if prediction.error and not skip_unreadable:
                raise ValueError(printable(f"{prediction.picture}: {prediction.error}"))
            found.append(prediction)
        return found

    def predictions(
        self,
        images: Picture | Sequence[Picture | Unreadable],
        top: int = 5,
        *,
        threshold: float = 0.0,
        batch_size: int = 64,
    ) -> Iterator[Prediction]:
        """The same, batch by batch while it is asked for. A picture that cannot be read is no exception."""
        if isinstance(images, bytes | Image.Image | Tensor):
            raise ValueError(f"one {type(images).__name__} is given: expected a list of pictures, [picture]")
        if top < 1 or batch_size < 1:
            raise ValueError(f"top {top}, batch_size {batch_size}: expected at least 1 of each")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold}: expected a probability from 0 to 1")
        if threshold and NONE in self.classes:
            raise ValueError(f"threshold {threshold}: the model has a class {NONE!r} itself; leave the threshold out")
        return self._batches(_pictures(images), top, threshold, batch_size)

    def _batches(
        self, pictures: list[tuple[str, Picture | Unreadable]], top: int, threshold: float, batch_size: int
    ) -> Iterator[Prediction]:
        with ThreadPoolExecutor(cpus()) as pool:
            for first in range(0, len(pictures), batch_size):
                names, images = zip(*pictures[first : first + batch_size], strict=True)
                alone = all(isinstance(image, Path | bytes | Unreadable) for image in images)  # nobody else's objects
                with quiet():
                    read = list(pool.map(self._attempt, images) if alone else map(self._attempt, images))
                inputs = [x for x in read if isinstance(x, Tensor)]
                classes = iter(self.named(torch.stack(inputs), top) if inputs else ())
                for name, x in zip(names, read, strict=True):
                    if isinstance(x, str):
                        yield Prediction(name, error=x)
                    else:
                        yield Prediction(name, next(classes), threshold)

    def _attempt(self, image: Picture | Unreadable) -> Tensor | str:
        """The network's input, or why there is none."""
        if isinstance(image, Unreadable):
            return image.why
        try:
            return self.preprocess(image)
        except Exception as error:  # decoders raise whatever they stumble over
            return reason(error)

    @full_precision()
    @torch.no_grad()
    def named(self, x: Tensor, top: int = 5) -> list[list[tuple[str, float]]]:
        """The same for images [N, 3, S, S] from `preprocess`."""
        logits = self(x.to(next(self.parameters()).device))
        probabilities, classes = logits.softmax(1).topk(min(top, len(self.classes)), 1)
        return [
            [(self.classes[i], p) for i, p in zip(row.tolist(), ps.tolist(), strict=True)]
            for row, ps in zip(classes, probabilities, strict=True)
        ]


def _pictures(images: str | Path | Sequence[Picture | Unreadable]) -> list[tuple[str, Picture | Unreadable]]:
    """Each picture with its name; of folders and patterns all pictures that they stand for."""
    found = list[tuple[str, "Picture | Unreadable"]]()
    for place, image in enumerate([images] if isinstance(images, str | Path) else images):
        if isinstance(image, Unreadable):
            found.append((str(image.path), image))
        elif isinstance(image, str | Path):
            for one in pictures(image):
                found.append((str(one.path if isinstance(one, Unreadable) else one), one))
        else:
            found.append((f"picture {place} of the list", image))
    return found


def save(
    folder: Path, network: DerivedNetwork, genotype: Genotype, config: EvaluateConfig, data: Any, result: dict[str, Any]
) -> None:
    """Writes both files of a trained network, without its auxiliary head. Each file is replaced atomically.

    Args:
        data: the data set: names of the classes, size of the images and their normalisation.
        result: the last row of the run's metrics, whose `result/...` entries are kept.
    """
    tensors = {
        k: t.detach().cpu().contiguous() for k, t in network.state_dict().items() if k.split(".")[0] != "auxiliary"
    }
    content = packed(tensors, {"format": "pt"})
    about = {
        "format": FORMAT,
        "dasgm": __version__,
        "genotype": json.loads(genotype.to_json()),
        "form": config.form,
        "cells": config.cells,
        "channels": config.channels,
        "classes": list(data.classes),
        "image_size": data.image_size,
        "resize": data.resize,
        "mean": list(data.mean),
        "std": list(data.std),
        "result": {k.removeprefix("result/"): v for k, v in result.items() if k.startswith("result/")},
        "data": key_of(config.data),
        "recipe": to_json(config) | {"data_dir": None},
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    write_atomic(folder / WEIGHTS, content)
    write_atomic(folder / DESCRIPTION, json.dumps(about, indent=1))


def load(path: str | Path, device: str = "cpu") -> Model:
    """Loads a trained network in eval mode.

    Args:
        path: folder of a finished evaluation, or its model.json or model.safetensors.
        device: name of the device to load it to.

    Raises:
        ValueError: there is no network at `path`, or it cannot be used. The message is one line.
    """
    path = here(path)
    folder = path if path.is_dir() else path.parent
    described, weights = folder / DESCRIPTION, folder / WEIGHTS
    if not path.is_dir():
        if path.suffix not in (".json", ".safetensors"):
            raise ValueError(f"model {path}: expected a run's folder, a model.json or a model.safetensors")
        described, weights = path.with_suffix(".json"), path.with_suffix(".safetensors")
    for file in (described, weights):
        if not file.is_file():
            raise ValueError(f"model {path}: there is no {file.name}; dasgm evaluate writes it when it has finished")
    try:
        about = _described(described)
        genotype = Genotype.from_json(json.dumps(about["genotype"]))
        if max(len(cell.edges) for cell in genotype.graphs.values()) > MOST_EDGES:
            raise ValueError(f"a cell of more than {MOST_EDGES} edges")
        with torch.device("meta"):
            model = Model(genotype, about)
    except (ValueError, OSError) as error:
        raise ValueError(f"model {described}: {error}") from None
    try:
        tensors = _tensors(weights, model.network.state_dict())
        if hashlib.sha256(weights.read_bytes()).hexdigest() != about["sha256"]:
            raise ValueError(f"not the weights that {described.name} describes; copy both files of one run")
    except (ValueError, OSError, SafetensorError) as error:
        raise ValueError(f"model {weights}: {_line(error)}") from None
    model.network.load_state_dict(tensors, assign=True)
    return model.requires_grad_(False).eval().to(device)


def _tensors(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the file.

    Their names, shapes and types are compared with the expected ones before any of them is read.
    """
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        if odd := sorted(names ^ expected.keys()):
            raise ValueError(
                f"{len(odd)} tensors are missing or unexpected for the network of {DESCRIPTION}, such as "
                f"{short(odd[0])}"
            )
        for name, tensor in expected.items():
            found = file.get_slice(name)
            kind = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
            if list(found.get_shape()) != list(tensor.shape) or found.get_dtype() != kind:
                raise ValueError(f"{name} is {found.get_dtype()} {found.get_shape()}, not {kind} {list(tensor.shape)}")
        return {name: file.get_tensor(name) for name in expected}


def _described(path: Path) -> dict[str, Any]:
    """Reads a model.json and checks that a network can be built from its values."""
    try:
        about = plain(text(path))
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else about
        raise ValueError(f"format {short(found)}, expected {FORMAT}")
    for name, most in MOST.items():
        value = about.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ValueError(f"{name} {short(value)}: expected a whole number from 1 to {most}")
    classes = about.get("classes")
    if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(c, str) for c in classes):
        raise ValueError(f"classes {short(classes)}: expected a list of at least two names")
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes {short(classes)}: expected names that differ")
    for name in ("mean", "std"):
        value = about.get(name)
        if not isinstance(value, list) or len(value) != 3 or not all(_finite(v, name == "std") for v in value):
            raise ValueError(f"{name} {short(value)}: expected three numbers")
    if about.get("form") not in tuple(SHRINKS):
        raise ValueError(f"form {short(about.get('form'))}: expected {' or '.join(SHRINKS)}")
    check_image_size(about["form"], about["image_size"])
    size = about["image_size"]
    if about.get("resize", size) not in (size, shorter_side(size)):
        raise ValueError(f"resize {short(about['resize'])}: expected {size} or {shorter_side(size)}")
    if not isinstance(about.get("genotype"), dict) or not isinstance(about.get("sha256"), str):
        raise ValueError("genotype or sha256 is missing")
    return about


def _finite(value: Any, positive: bool) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return number and (value > 0 or not positive)


def _line(error: Exception) -> str:
    return first_line(error)[:200]
