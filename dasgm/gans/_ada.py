"""Adaptive discriminator augmentation (Karras et al. 2020, arXiv 2006.06676): pixel blitting, geometry and colour.

Each image has one 3x3 matrix for geometry and one 4x4 matrix for colour, composed in the order of the paper's appendix
B. One simplification: the paper resamples with a wavelet filter at twice the resolution; here the image is doubled by
cubic interpolation and sampled bilinearly. Flips, quarter turns and shifts by whole pixels are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from dasgm.bilevel.draws import draw


class Augmentation(nn.Module):
    """Augments images [N, 3, size, size]; each transformation is applied with probability p.

    At p = 0 the images are returned unchanged.

    p follows r_t, the mean sign of the logits of real images. After every `interval` batches it changes by their number
    of images / `horizon`, upwards if r_t is above `target`, and is clipped to [0, 1]. Each worker counts only its own
    images, so with several workers p changes more slowly.
    """

    p: Tensor
    signs: Tensor  # sum of the signs since p changed last
    images: Tensor  # number of images since then
    batches: Tensor  # number of batches since then
    interpolation: Tensor

    def __init__(self, size: int, start: float, target: float, interval: int, horizon: float) -> None:
        super().__init__()
        self.target, self.interval, self.horizon = target, interval, horizon
        self.register_buffer("p", torch.tensor(float(start)))
        self.register_buffer("signs", torch.tensor(0.0))
        self.register_buffer("images", torch.tensor(0.0))
        self.register_buffer("batches", torch.tensor(0))
        self.register_buffer("interpolation", interpolation(size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and self.p == 0:  # a GPU would have to be waited for, to know this
            return x
        n, size = len(x), x.shape[-1]
        return coloured(moved(x, geometry(n, size, self.p), self.interpolation), colour(n, self.p))

    @torch.no_grad()
    def observe(self, logits: Tensor) -> None:
        """Counts the logits of a batch of real images, and changes p after every `interval` batches."""
        if not self.training:
            return
        signs, images, batches = self.signs + logits.sign().sum(), self.images + len(logits), self.batches + 1
        due = batches >= self.interval
        step = (signs / images - self.target).sign() * images / self.horizon
        self.p = torch.where(due, (self.p + step).clamp(0, 1), self.p)
        self.signs, self.images = torch.where(due, 0, signs), torch.where(due, 0, images)
        self.batches = torch.where(due, 0, batches)


def geometry(n: int, size: int, p: Tensor) -> Tensor:
    """n random transformations [n, 3, 3] of pixel coordinates about the centre of the image (x to the right, y down).

    They map the position of a pixel to its new position.
    """
    fires, numbers = partial(_fires, n, p), partial(_numbers, p.device)
    flip, turn = 1 - 2 * fires(numbers(torch.randint, 2, (n,))), fires(numbers(torch.randint, 4, (n,)))
    shift = fires((numbers(torch.rand, 2, n) * 2 - 1) * size / 8).round()
    scale, stretch = 2 ** fires(0.2 * numbers(torch.randn, n)), 2 ** fires(0.2 * numbers(torch.randn, n))
    either = p / (1 + (1 - p).sqrt())  # 1 - sqrt(1 - p): with two turns, at least one happens with probability p
    before, after = (_fires(n, either, (numbers(torch.rand, n) * 2 - 1) * math.pi) for _ in range(2))
    drift = fires(numbers(torch.randn, 2, n) * size / 8)
    odd = turn % 2 == 1  # quarter turns are exact
    cosine, sine = torch.where(odd, 0.0, 1 - turn), torch.where(odd, turn - 2, 0.0)
    steps = (
        _diagonal(flip, 1),
        _rotation(cosine, sine),
        _translation(*shift),
        _diagonal(scale, scale),
        _rotation(before.cos(), -before.sin()),
        _diagonal(stretch, 1 / stretch),
        _rotation(after.cos(), -after.sin()),
        _translation(*drift),
    )
    return _composed(steps)


def colour(n: int, p: Tensor) -> Tensor:
    """n random transformations [n, 4, 4] of (red, green, blue, 1), with colours in [-1, 1]."""
    fires, numbers = partial(_fires, n, p), partial(_numbers, p.device)
    bright, contrast = fires(0.2 * numbers(torch.randn, n)), 2 ** fires(0.5 * numbers(torch.randn, n))
    invert = fires(numbers(torch.randint, 2, (n,)))
    hue, saturation = fires((numbers(torch.rand, n) * 2 - 1) * math.pi), 2 ** fires(numbers(torch.randn, n))
    return _composed(
        (
            _matrix([1, 0, 0, bright], [0, 1, 0, bright], [0, 0, 1, bright], [0, 0, 0, 1]),
            _on_colours(contrast),
            _on_colours(1.0, luma=1.0 - 2 * invert),
            _on_colours(hue.cos(), luma=1.0, turn=hue.sin()),
            _on_colours(saturation, luma=1.0),
        )
    )


def moved(x: Tensor, geometry: Tensor, interpolation: Tensor) -> Tensor:
    """Images [n, c, s, s] transformed by `geometry` [n, 3, 3].

    Beyond the border the image is continued by reflection.

    It gathers pixels instead of calling `grid_sample`, so that the second derivative, which R1 needs, exists in every
    version of torch.
    """
    size, centre = x.shape[-1], (x.shape[-1] - 1) / 2
    line = torch.arange(size, device=x.device).to(geometry) - centre
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack([columns, rows, torch.ones_like(rows)]).flatten(1)
    places = _inverse(geometry) @ places + centre  # [n, 2, s * s]: where each pixel comes from
    last = 2 * (size - 1)
    places = last - ((2 * places).remainder(2 * last) - last).abs()  # mirrored, on the doubled image
    near = places.floor().clamp(max=last - 1)
    corner, (right, down) = near.long(), (places - near).to(x).unbind(1)
    pixels = (interpolation @ x @ interpolation.T).flatten(2)
    out = torch.zeros_like(x).flatten(2)
    for i, j in product((0, 1), repeat=2):
        at = (corner[:, 1] + i) * (last + 1) + corner[:, 0] + j
        share = (down if i else 1 - down) * (right if j else 1 - right)
        out = out + share[:, None] * pixels.gather(2, at[:, None].expand(-1, x.shape[1], -1))
    return out.view_as(x)


def coloured(x: Tensor, colour: Tensor) -> Tensor:
    """Images [n, 3, s, s] with colours transformed by `colour` [n, 4, 4]."""
    matrix = colour.to(x)
    return (matrix[:, :3, :3] @ x.flatten(2) + matrix[:, :3, 3:]).view_as(x)


def interpolation(size: int) -> Tensor:
    """The matrix [2 size - 1, size] that doubles a row of pixels: the pixels themselves and, between two of them, the
    cubic through four, with reflection at the borders.
    """
    rows = torch.zeros(2 * size - 1, size)
    for i in range(2 * size - 1):
        taps = {0: 1.0} if i % 2 == 0 else {-1: -1 / 16, 0: 9 / 16, 1: 9 / 16, 2: -1 / 16}
        for offset, tap in taps.items():
            rows[i, size - 1 - abs(size - 1 - abs(i // 2 + offset))] += tap
    return rows


def _numbers(device: torch.device, function: Callable[..., Tensor], *args: Any) -> Tensor:
    """What a function of torch draws."""
    return draw(lambda: function(*args), device)


def _fires(n: int, p: Tensor, values: Tensor) -> Tensor:
    """`values` [..., n] with probability p, else 0. One draw decides for a whole column."""
    return torch.where(draw(lambda: torch.rand(n), values.device) < p, values, 0.0)


def _matrix(*rows: list[Tensor | int]) -> Tensor:
    """[n, k, k] from k rows, whose entries are 0, 1 or [n]."""
    entries = [entry for row in rows for entry in row]
    some = next(entry for entry in entries if isinstance(entry, Tensor))
    known = torch.zeros_like(some), torch.ones_like(some)
    stacked = torch.stack([e if isinstance(e, Tensor) else known[e] for e in entries], -1)
    return stacked.unflatten(-1, (len(rows), len(rows)))


def _inverse(geometry: Tensor) -> Tensor:
    """The first two rows of the inverse of affine matrices [n, 3, 3]. `torch.linalg.inv` would wait for a GPU."""
    (a, b, c), (d, e, f) = (row.unbind(1) for row in geometry[:, :2].unbind(1))
    rows = [e, -b, b * f - c * e, -d, a, c * d - a * f]
    return torch.stack(rows, -1).unflatten(-1, (2, 3)) / (a * e - b * d)[:, None, None]


def _composed(steps: tuple[Tensor, ...]) -> Tensor:
    """The product of all steps; the first one is applied first."""
    first, *others = steps
    for step in others:
        first = step @ first
    return first


def _diagonal(x: Tensor, y: Tensor | int) -> Tensor:
    return _matrix([x, 0, 0], [0, y, 0], [0, 0, 1])


def _rotation(cosine: Tensor, sine: Tensor) -> Tensor:
    return _matrix([cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1])


def _translation(x: Tensor, y: Tensor) -> Tensor:
    return _matrix([1, 0, x], [0, 1, y], [0, 0, 1])


def _on_colours(across: Any, luma: Any = None, turn: Any = 0.0) -> Tensor:
    """The matrix that scales colours by `luma` along the grey axis v = (1, 1, 1) / sqrt 3 and by `across` perpendicular
    to it, plus `turn` times the cross product v x ... (Rodrigues: cos, 1 and sin of an angle give a rotation).
    """
    along = across if luma is None else luma
    same, cross = (along - across) / 3, turn / math.sqrt(3)
    near, far, own = same - cross, same + cross, same + across
    return _matrix([own, near, far, 0], [far, own, near, 0], [near, far, own, 0], [0, 0, 0, 1])
