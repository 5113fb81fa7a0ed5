"""How long a trained network takes for a batch on this machine's CPU, by PyTorch or from an ONNX file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dasgm.model import Model
from dasgm.store.files import first_line

WARM_UP = 5, 0.5  # at least so many calls and seconds, whose times are not kept
LEAST, SECONDS = 30, 2.0  # at least so many calls and seconds are measured
LONGEST = 60.0  # seconds after which the measurement ends once there are `FEWEST` calls
FEWEST = 5


@dataclass(frozen=True)
class Latency:
    """Times of a batch.

    Attributes:
        program: what computed, with its version.
        milliseconds: of each call.
        batch_size: number of pictures in a batch.
        threads: CPU threads.
    """

    program: str
    milliseconds: tuple[float, ...]
    batch_size: int
    threads: int

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """The lower quartile, the median and the upper quartile, in milliseconds a batch."""
        lower, median, upper = np.percentile(self.milliseconds, (25, 50, 75)).tolist()
        return lower, median, upper

    def to_json(self) -> dict[str, object]:
        """As plain data; times in milliseconds."""
        names, quartiles = ("lower_quartile", "median", "upper_quartile"), self.quartiles
        return {
            "program": self.program,
            "calls": len(self.milliseconds),
            "batch_ms": dict(zip(names, quartiles, strict=True)),
            "picture_ms": {name: q / self.batch_size for name, q in zip(names, quartiles, strict=True)},
        }


def of_model(model: Model, batch_size: int, threads: int) -> Latency:
    """That of the network itself, in float32."""
    x = torch.randn(batch_size, 3, model.image_size, model.image_size)
    with _threads(threads), torch.inference_mode():
        return Latency(f"PyTorch {torch.__version__}", timed(lambda: model(x)), batch_size, threads)


def of_onnx(path: Path, batch_size: int, threads: int) -> Latency:
    """That of an ONNX file with one input of float32 images [N, 3, S, S].

    Raises:
        ValueError: onnxruntime is not installed, or the file cannot be run so.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise ValueError("--onnx needs onnxruntime: pip install 'dasgm[export]'") from None
    if not path.is_file():
        raise ValueError(f"--onnx {path}: no such file; dasgm export --format onnx writes one")
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (image,) = session.get_inputs()
        x = {image.name: np.random.default_rng(0).standard_normal((batch_size, *image.shape[1:]), dtype=np.float32)}
        times = timed(lambda: session.run(None, x))
    except Exception as error:  # onnxruntime has its own types of errors, which derive from Exception alone
        raise ValueError(f"--onnx {path}: cannot be run on {batch_size} images ({first_line(error):.200})") from None
    return Latency(f"onnxruntime {onnxruntime.__version__}, {path.name}", times, batch_size, threads)


def timed(call: Callable[[], object]) -> tuple[float, ...]:
    """Milliseconds of each call, after a warm-up."""
    _repeated(call, *WARM_UP, LONGEST / 4)
    return _repeated(call, LEAST, SECONDS, LONGEST)


def _repeated(call: Callable[[], object], least: int, seconds: float, longest: float) -> tuple[float, ...]:
    """At least so many calls and seconds; after `longest` seconds `FEWEST` calls are enough."""
    begin, found = time.perf_counter(), list[float]()
    while True:
        before = time.perf_counter()
        call()
        now = time.perf_counter()
        found.append(1000 * (now - before))
        if len(found) >= (FEWEST if now - begin > longest else least) and now - begin >= seconds:
            return tuple(found)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
