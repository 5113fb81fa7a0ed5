"""Adaptive discriminator augmentation (Karras et al. 2020, arXiv 2006.06676): pixel blitting, geometry and colour.

Each image has one 3x3 matrix for geometry and one 4x4 matrix for colour, composed in the order of the paper's appendix
B. One simplification: the paper resamples with a wavelet filter at twice the resolution; here the image is doubled by
cubic interpolation and sampled bilinearly. Flips, quarter turns and shifts by whole pixels are exact.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor, nn


class Augmentation(nn.Module):
    """Augments images [N, 3, size, size]; each transformation is applied with probability p.

    At p = 0 the images are returned unchanged.

    p follows r_t, the mean sign of the logits of real images. After every `interval` batches it changes by their number
    of images / `horizon`, upwards if r_t is above `target`, and is clipped to [0, 1]. Each worker counts only its own
    images, so with several workers p changes more slowly. The draws are torch's on the CPU, so that `replay` repeats
    them.
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
        p = float(self.p)
        if p == 0:
            return x
        return coloured(moved(x, geometry(len(x), x.shape[-1], p), self.interpolation), colour(len(x), p))

    @torch.no_grad()
    def observe(self, logits: Tensor) -> None:
        """Counts the logits of a batch of real images, and changes p after every `interval` batches."""
        if not self.training:
            return
        signs, images = self.signs + logits.sign().sum(), self.images + len(logits)
        if int(self.batches) + 1 < self.interval:
            self.signs, self.images, self.batches = signs, images, self.batches + 1
            return
        step = (signs / images - self.target).sign() * images / self.horizon
        self.p = (self.p + step).clamp(0, 1)
        self.signs, self.images, self.batches = signs * 0, images * 0, self.batches * 0


def geometry(n: int, size: int, p: float) -> Tensor:
    """n random transformations [n, 3, 3] of pixel coordinates about the centre of the image (x to the right, y down).

    They map the position of a pixel to its new position.
    """
    flip, turn = 1.0 - 2 * _fires(n, p, torch.randint(2, (n,))), _fires(n, p, torch.randint(4, (n,)))
    shift = _fires(n, p, (torch.rand(2, n) * 2 - 1) * size / 8).round()
    scale, stretch = 2 ** _fires(n, p, 0.2 * torch.randn(n)), 2 ** _fires(n, p, 0.2 * torch.randn(n))
    either = 1 - math.sqrt(1 - p)  # with two turns, at least one happens with probability p
    before, after = (_fires(n, either, (torch.rand(n) * 2 - 1) * math.pi) for _ in range(2))
    drift = _fires(n, p, torch.randn(2, n) * size / 8)
    cosine, sine = torch.tensor([[1.0, 0.0, -1.0, 0.0], [0.0, -1.0, 0.0, 1.0]])[:, turn.long()]  # exact
    steps = (
        _diagonal(flip, 1.0),
        _rotation(cosine, sine),
        _translation(*shift),
        _diagonal(scale, scale),
        _rotation(before.cos(), -before.sin()),
        _diagonal(stretch, 1 / stretch),
        _rotation(after.cos(), -after.sin()),
        _translation(*drift),
    )
    return _composed(steps)


def colour(n: int, p: float) -> Tensor:
    """n random transformations [n, 4, 4] of (red, green, blue, 1), with colours in [-1, 1]."""
    bright, contrast = _fires(n, p, 0.2 * torch.randn(n)), 2 ** _fires(n, p, 0.5 * torch.randn(n))
    invert = _fires(n, p, torch.randint(2, (n,)))
    hue, saturation = _fires(n, p, (torch.rand(n) * 2 - 1) * math.pi), 2 ** _fires(n, p, torch.randn(n))
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
    rows, columns = torch.meshgrid(*[torch.arange(size) - centre] * 2, indexing="ij")
    places = torch.stack([columns, rows, torch.ones(size, size)]).flatten(1).to(geometry)
    places = torch.linalg.inv(geometry)[:, :2] @ places + centre  # [n, 2, s * s]: where each pixel comes from
    last = 2 * (size - 1)
    places = last - ((2 * places).remainder(2 * last) - last).abs()  # mirrored, on the doubled image
    near = places.floor().clamp(max=last - 1)
    corner, (right, down) = near.long().to(x.device), (places - near).to(x).unbind(1)
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


def _fires(n: int, p: float, values: Tensor) -> Tensor:
    """`values` [..., n] with probability p, else 0. One draw decides for a whole column."""
    return torch.where(torch.rand(n) < p, values, 0)


def _matrix(*rows: list[Tensor | float]) -> Tensor:
    """[n, k, k] from k rows, whose entries are numbers or [n]."""
    entries = torch.broadcast_tensors(*(torch.as_tensor(v, dtype=torch.get_default_dtype()) for r in rows for v in r))
    return torch.stack(entries, -1).unflatten(-1, (len(rows), len(rows)))


def _composed(steps: tuple[Tensor, ...]) -> Tensor:
    """The product of all steps; the first one is applied first."""
    first, *others = steps
    for step in others:
        first = step @ first
    return first


def _diagonal(x: Tensor | float, y: Tensor | float) -> Tensor:
    return _matrix([x, 0, 0], [0, y, 0], [0, 0, 1])


def _rotation(cosine: Tensor, sine: Tensor) -> Tensor:
    return _matrix([cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1])


def _translation(x: Tensor, y: Tensor) -> Tensor:
    return _matrix([1, 0, x], [0, 1, y], [0, 0, 1])


def _on_colours(across: Tensor | float, luma: Tensor | float | None = None, turn: Tensor | float = 0.0) -> Tensor:
    """The matrix that scales colours by `luma` along the grey axis v = (1, 1, 1) / sqrt 3 and by `across` perpendicular
    to it, plus `turn` times the cross product v x ... (Rodrigues: cos, 1 and sin of an angle give a rotation).
    """
    along = across if luma is None else luma
    same, cross = (along - across) / 3, turn / math.sqrt(3)
    near, far, own = same - cross, same + cross, same + across
    return _matrix([own, near, far, 0], [far, own, near, 0], [near, far, own, 0], [0, 0, 0, 1])
