"""Decodes photographs, and ImageNet's transforms for training and evaluation.

The transforms are DARTS's (train_imagenet.py): RandomResizedCrop, flip, ColorJitter(.4, .4, .4, .2), and resizing to
256/224 with a centre crop. They round to whole levels after each step, as torchvision does for uint8. Colours are
changed on the device of the network, a batch at once: on a CPU they cost as much as decoding.
"""

from __future__ import annotations

import math
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from dasgm.data._pictures import (
    Source,
    encoded,
    is_plain_jpeg,
    open_picture,
    quiet,
    shorter_side,
    upright,
    without_exif,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of RandomResizedCrop: share of the picture's area, and width / height
JITTER, HUE = 0.4, 0.2  # factors from 0.6 to 1.4 for brightness, contrast and saturation; a fifth of the circle for hue
TRIES = 10
LEVELS = 1.00392  # torchvision's 255.999 / 255: levels are rounded down, whole ones despite float32 to themselves
SCALES = (2, 4, 8)  # by which libjpeg can reduce a picture while it decodes it
LONGEST = 16  # ratio of the sides beyond which evaluation cuts off the ends before it resizes


def decoded(source: Source) -> Tensor:
    """uint8 RGB [3, H, W] of a JPEG, PNG, WebP or GIF, the same as `upright_rgb`.

    Plain photographs are decoded by torchcodec, which is faster than Pillow and gives the same pixels within rounding.
    Everything that decoders treat differently (transparency, rotation, CMYK, 16 bits, broken files) is decoded by
    Pillow.

    Raises:
        Exception: whatever Pillow raises.
    """
    if not isinstance(source, Image.Image):
        source = encoded(source)
    with quiet(), open_picture(source) as image:
        return _whole(source, image, is_plain_jpeg(image))


def _whole(source: Image.Image | bytes, image: Image.Image, plain: bool) -> Tensor:
    from torchcodec.decoders import decode_image

    if plain and isinstance(source, bytes):
        with suppress(Exception):  # then Pillow tells whether it can be read
            return decode_image(without_exif(source), mode="RGB")
    return from_pillow(upright(image))


def from_pillow(image: Image.Image) -> Tensor:
    """RGB pixels as uint8 [3, H, W], in torchcodec's memory layout."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def cropped(
    source: Path | bytes | None, size: int, random: np.random.Generator, crop: bool = True, flip: bool = True
) -> Tensor:
    """A random crop for training, uint8 [3, size, size], of which half are mirrored. All draws come from `random`.

    Without `crop` it is the evaluation's, without `flip` none is mirrored.

    A plain JPEG is decoded at half, a quarter or an eighth of its size where no pixel of the crop has to be invented
    then: libjpeg skips what would be averaged away.

    Raises:
        Exception: whatever Pillow raises.
    """
    square = _crop(encoded(source), size, random) if crop else centred(decoded(source), size)
    return square.flip(2) if random.random() < 0.5 and flip else square


def _crop(source: bytes, size: int, random: np.random.Generator) -> Tensor:
    with quiet(), open_picture(source) as image:
        if plain := is_plain_jpeg(image):
            box = crop_box(image.height, image.width, random)
            scale = max((scale for scale in SCALES if min(box[2:]) >= scale * size), default=1)
            if scale > 1:
                with suppress(Exception):  # then it is told as for every other picture whether it can be read
                    return _reduced(image, box, scale, size)
                return F.resized_crop(decoded(source), *box, [size, size], antialias=True)
        whole = _whole(source, image, plain)
    if not plain:  # its size is known only now
        box = crop_box(whole.shape[1], whole.shape[2], random)
    return F.resized_crop(whole, *box, [size, size], antialias=True)


def _reduced(image: Image.Image, box: tuple[int, int, int, int], scale: int, size: int) -> Tensor:
    """The crop `box` of a picture decoded at 1 / `scale` of its size."""
    image.draft(None, (image.width // scale, image.height // scale))
    top, left, height, width = (length / scale for length in box)
    within = (left, top, min(left + width, image.width), min(top + height, image.height))
    return from_pillow(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, within))


def crop_box(height: int, width: int, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop (Szegedy et al.

    2015); if none fits, the largest one in the centre.
    """
    for _ in range(TRIES):
        area = height * width * random.uniform(*AREA)
        ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(random.integers(height - h + 1)), int(random.integers(width - w + 1)), h, w
    w = min(width, max(1, round(height * RATIO[1])))
    h = min(height, max(1, round(width / RATIO[0])))
    return (height - h) // 2, (width - w) // 2, h, w


def centred(image: Tensor, size: int) -> Tensor:
    """The evaluation transform: uint8 [3, H, W] -> [3, size, size].

    The shorter side becomes 256/224 of `size`, then the centre is kept.
    """
    height, width = image.shape[1:]
    most = LONGEST * min(height, width)  # resized as a whole, a line of 1 x 20,000 pixels would take gigabytes
    if max(height, width) > most + 1:
        # cutting off an odd number of pixels would move the centre
        image = F.center_crop(image, [min(n, most + (n - most) % 2) for n in (height, width)])
    image = F.resize(image, [shorter_side(size)], antialias=True)
    return F.center_crop(image, [size, size])


# on the device


def jitter(random: np.random.Generator) -> Tensor:
    """ColorJitter's draws for one picture, float32 [8]: the factors of `CHANGES`, then the order of these four."""
    factors = [*random.uniform(1 - JITTER, 1 + JITTER, 3), random.uniform(-HUE, HUE)]
    return torch.tensor([*factors, *random.permutation(len(CHANGES))], dtype=torch.float32)


def coloured(x: Tensor, draws: Tensor) -> Tensor:
    """Changes brightness, contrast, saturation and hue of pictures, each in its own order. Waits for no device.

    Args:
        x: levels [n, 3, S, S] as float32. It may be overwritten.
        draws: [n, 8] of `jitter`, on the CPU.
    """
    there = draws.to(x.device, non_blocking=True)
    factors, order = there.split(len(CHANGES), 1)
    numbers = draws[:, len(CHANGES) :].t().tolist()
    for now, pictures in zip(numbers, order.argsort(0).unbind(1), strict=True):  # those of a change side by side
        counts = [now.count(number) for number in range(len(CHANGES))]
        for change, factor, some in zip(CHANGES, factors.unbind(1), pictures.split(counts), strict=True):
            if len(some) == len(x):
                x = change(x, factor)
            elif len(some):
                x.index_copy_(0, some, change(x[some], factor[some]))
    return x


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return _blended(x, torch.zeros_like(factor).view(-1, 1, 1, 1), factor)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    return _blended(x, _grey(x).mean((1, 2, 3), keepdim=True), factor)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    return _blended(x, _grey(x), factor)


def _blended(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = factor.view(-1, 1, 1, 1)
    return x.mul(factor).add_(other * (1 - factor)).clamp_(0, 255).floor_()


def _grey(x: Tensor) -> Tensor:
    red, green, blue = x.split(1, 1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def _hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turns the hue by `turn` of the circle, value and saturation (HSV) kept.

    In sixths of the circle, a channel's level is its highest within one of its own hue and its lowest beyond two.
    """
    red, green, blue = x.split(1, 1)
    highest = torch.maximum(torch.maximum(red, green), blue)
    lowest = torch.minimum(torch.minimum(red, green), blue)
    range_ = highest - lowest
    greenish = torch.where(green == highest, (blue - red).add_(range_, alpha=2), (red - green).add_(range_, alpha=4))
    hue = torch.where(red == highest, green - blue, greenish).div_(range_.clamp(min=1)).add_(6 * turn.view(-1, 1, 1, 1))
    away = hue - torch.arange(0, 6, 2, device=x.device).view(3, 1, 1)  # from the hue of red, green and blue
    away = away.sub_((away / 6).round_(), alpha=6).abs_()
    levels = torch.addcmul(lowest, (2 - away).clamp_(0, 1), range_)
    return levels.mul_(LEVELS).floor_()


CHANGES = (_brightness, _contrast, _saturation, _hue)


def normalised(pixels: Tensor, device: str = "cpu", draws: Tensor | None = None) -> Tensor:
    """uint8 [n, 3, S, S] -> float32 on `device`, normalised by ImageNet's mean and standard deviation.

    Args:
        draws: of `jitter`, for pictures whose colours are changed first.
    """
    mean, std = _statistics(device)
    x = torch.empty(pixels.shape, device=device)
    step = 1 if device == "cpu" else len(pixels)  # a picture stays in a CPU's cache, a batch does not
    for first in range(0, len(pixels), step):
        some = slice(first, first + step)
        levels = x[some].copy_(pixels[some].to(device, non_blocking=True))  # as bytes, converted there
        if draws is not None:
            levels = coloured(levels, draws[some])
        torch.div(levels, 255, out=x[some]).sub_(mean).div_(std)
    return x


@cache
def _statistics(device: str) -> tuple[Tensor, ...]:
    """Mean and standard deviation, which are copied to a device once."""
    return tuple(torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
