"""Convolutions recorded from networks, and computed again in a process of their own against float64.

`python tests/tools/convolutions.py FILE` reads what `write` wrote. For each call it prints the call and the relative
errors of its results. A fault in a kernel may end this process or hang it: the last call printed is the one that did.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
Call = dict[str, Any]
SETTINGS = ("stride", "padding", "dilation", "transposed", "extra", "groups")


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, Call] = {}

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if op is aten.convolution.default:
            x, weight, _, *rest = args
            self._add(x, weight, rest)
        elif op is aten.convolution_backward.default:
            output, x, weight, _, *rest, _ = args
            self._add(x, weight, rest, output)
        return op(*args, **(kwargs or {}))

    def _add(self, x: Tensor, weight: Tensor, rest: list[Any], output: Tensor | None = None) -> None:
        call = dict(zip(SETTINGS, rest, strict=True))
        call |= {name: [list(t.shape), list(t.stride())] for name, t in (("x", x), ("weight", weight))}
        forward = json.dumps(call)
        if output is None:
            self.calls.setdefault(forward, call)
        else:
            self.calls.pop(forward, None)  # `results` computes the forward pass of every call
            call["output"] = [list(output.shape), list(output.stride())]
            self.calls[json.dumps(call)] = call


@contextmanager
def recorded() -> Iterator[dict[str, Call]]:
    """Every convolution that is computed inside, forward and backward, once: shapes and strides of its tensors."""
    with _Recorder() as recorder:
        yield recorder.calls


def _random(about: list[list[int]], seed: int) -> Tensor:
    """A tensor of this shape and these strides."""
    shape, strides = about
    generator = torch.Generator().manual_seed(seed)
    extent = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return torch.randn(extent, generator=generator).as_strided(shape, strides)


def convolution(x: Tensor, weight: Tensor, call: Call) -> Tensor:
    """The definition, as a sum over the kernel's taps; no convolution kernel of torch takes part."""
    (s, t), (p, q), (d, e), g = call["stride"], call["padding"], call["dilation"], call["groups"]
    (n, c, h, w), (k, l) = x.shape, weight.shape[2:]
    taps = list(product(range(k), range(l)))
    if call["transposed"]:
        grouped = x.reshape(n, g, c // g, h, w)
        kernels = weight.reshape(g, c // g, -1, k, l)
        height, width = ((size - 1) * step + gap * (kernel - 1) + 1 + more for size, step, gap, kernel, more in
                         zip((h, w), (s, t), (d, e), (k, l), call["extra"], strict=True))  # fmt: skip
        y = x.new_zeros(n, g * kernels.shape[2], height, width)
        for i, j in taps:
            part = torch.einsum("ngchw,gco->ngohw", grouped, kernels[..., i, j]).flatten(1, 2)
            y[:, :, i * d : i * d + s * (h - 1) + 1 : s, j * e : j * e + t * (w - 1) + 1 : t] += part
        return y[:, :, p : height - p, q : width - q]
    padded = F.pad(x, (q, q, p, p))
    height, width = (h + 2 * p - d * (k - 1) - 1) // s + 1, (w + 2 * q - e * (l - 1) - 1) // t + 1
    kernels = weight.reshape(g, -1, c // g, k, l)
    total = x.new_zeros(())
    for i, j in taps:
        part = padded[:, :, i * d : i * d + s * (height - 1) + 1 : s, j * e : j * e + t * (width - 1) + 1 : t]
        part = part.reshape(n, g, c // g, height, width)
        total = total + torch.einsum("ngchw,goc->ngohw", part, kernels[..., i, j])
    return total.flatten(1, 2)


def _inputs(call: Call) -> list[Tensor]:
    """x, weight and the gradient of the output; the last is missing where only the forward pass was recorded."""
    return [_random(call[name], seed) for seed, name in enumerate(("x", "weight", "output")) if name in call]


def true(call: Call) -> list[Tensor]:
    """The output, and the gradients of x, weight and bias, computed in float64."""
    x, weight, *output = [t.double() for t in _inputs(call)]
    if not output:  # without a graph: second derivatives have kernels as large as their images, a thousand taps
        return [convolution(x, weight, call)]
    exact = [x.requires_grad_(), weight.requires_grad_()]
    y = convolution(*exact, call)
    return [y.detach(), *torch.autograd.grad(y, exact, output[0]), output[0].sum((0, 2, 3))]


def computed(call: Call) -> list[Tensor]:
    """The same by torch's kernels in float32."""
    x, weight, *output = _inputs(call)
    settings = [call[name] for name in SETTINGS]
    y = aten.convolution(x, weight, None, *settings)
    if output:
        sizes = [output[0].shape[1]]
        return [y, *aten.convolution_backward(output[0], x, weight, sizes, *settings, [True, True, True])]
    return [y]


def write(path: Path, calls: Iterable[Call]) -> None:
    """The calls and their true results, for `main`."""
    torch.save([(call, [t.float() for t in true(call)]) for call in calls], path)


def main(path: str) -> None:
    for call, expected in torch.load(path, weights_only=True):
        print(json.dumps(call), flush=True)
        errors = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found = computed(call)
            errors += [
                ((a - b).norm() / b.norm().clamp(min=1e-30)).item() for a, b in zip(found, expected, strict=True)
            ]
        print(json.dumps(errors), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
