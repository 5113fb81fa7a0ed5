"""Adaptive discriminator augmentation (Karras et al. 2020, arXiv 2006.06676): pixel blitting, geometry and colour.

Every image has one 3x3 matrix of geometry and one 4x4 matrix of colour, composed as appendix B of the paper lists them.
A simplification: the paper resamples with a wavelet at twice the resolution on both sides, here the image is
doubled by a cubic interpolation and sampled bilinearly. At whole pixels (flips, quarter turns, shifts) it is exact.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor, nn


class Augmentation(nn.Module):
    """Images [N, 3, size, size] -> the same, each transformation with probability p; at p = 0 the images themselves.

    p follows r_t, the mean sign of the logits of real images: after every `interval` batches it moves by their number
    of images / `horizon`, up where r_t is above `target`, within [0, 1]. Each worker of several counts its own images,
    so p moves more slowly by their number. Draws are torch's, on the CPU: a stream entered again repeats them.
    """

    p: Tensor  # and, since it moved last:
    signs: Tensor  # the sum of the signs
    images: Tensor  # that many
    batches: Tensor  # in that many
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
        """Count the logits of a batch of real images, and move p where it is time."""
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
    """n maps [n, 3, 3] of pixels about the image's centre (x to the right, y down), from where they are to where they
    go."""
    flip, turn = 1.0 - 2 * _fires(n, p, torch.randint(2, (n,))), _fires(n, p, torch.randint(4, (n,)))
    shift = _fires(n, p, (torch.rand(2, n) * 2 - 1) * size / 8).round()
    scale, stretch = 2 ** _fires(n, p, 0.2 * torch.randn(n)), 2 ** _fires(n, p, 0.2 * torch.randn(n))
    either = 1 - math.sqrt(1 - p)  # so that one or the other of two turns has probability p
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
    """n maps [n, 4, 4] of (red, green, blue, 1) in [-1, 1]."""
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
    """Images [n, c, s, s] moved by [n, 3, 3]; beyond the border they go on mirrored.

    Gathers, not `grid_sample`: the second derivative, which R1 takes, is then there in every version of torch.
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
    """Images [n, 3, s, s] with colours changed by [n, 4, 4]."""
    matrix = colour.to(x)
    return (matrix[:, :3, :3] @ x.flatten(2) + matrix[:, :3, 3:]).view_as(x)


def interpolation(size: int) -> Tensor:
    """[2 size - 1, size]: pixels, and between each two of them the cubic through four, mirrored at the borders."""
    rows = torch.zeros(2 * size - 1, size)
    for i in range(2 * size - 1):
        taps = {0: 1.0} if i % 2 == 0 else {-1: -1 / 16, 0: 9 / 16, 1: 9 / 16, 2: -1 / 16}
        for offset, tap in taps.items():
            rows[i, size - 1 - abs(size - 1 - abs(i // 2 + offset))] += tap
    return rows


def _fires(n: int, p: float, values: Tensor) -> Tensor:
    """values [..., n] with probability p, all rows of a column together; else 0."""
    return torch.where(torch.rand(n) < p, values, 0)


def _matrix(*rows: list[Tensor | float]) -> Tensor:
    """[n, k, k] of k rows, each entry a number or [n]."""
    entries = torch.broadcast_tensors(*(torch.as_tensor(v, dtype=torch.get_default_dtype()) for r in rows for v in r))
    return torch.stack(entries, -1).unflatten(-1, (len(rows), len(rows)))


def _composed(steps: tuple[Tensor, ...]) -> Tensor:
    """The first step first."""
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
    """Scales by `luma` along the grey axis v = (1, 1, 1) / sqrt 3 (as `across`, by default), by `across` across it,
    with `turn` times the cross product v x ... (Rodrigues: cos, 1 and sin of an angle rotate)."""
    along = across if luma is None else luma
    same, cross = (along - across) / 3, turn / math.sqrt(3)
    near, far, own = same - cross, same + cross, same + across
    return _matrix([own, near, far, 0], [far, own, near, 0], [near, far, own, 0], [0, 0, 0, 1])
