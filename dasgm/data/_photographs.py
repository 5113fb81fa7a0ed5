"""Decodes photographs, and ImageNet's transforms for training and evaluation.

The transforms are DARTS's (train_imagenet.py): RandomResizedCrop, flip, ColorJitter(.4, .4, .4, .2), and resizing to
256/224 with a centre crop. They work on uint8 and round after each step, as Pillow does.
"""

from __future__ import annotations

import math
from contextlib import suppress

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
LONGEST = 16  # ratio of the sides beyond which evaluation cuts off the ends before it resizes


def decoded(source: Source) -> Tensor:
    """uint8 RGB [3, H, W] of a JPEG, PNG, WebP or GIF, the same as `upright_rgb`.

    Plain photographs are decoded by torchcodec, which is faster than Pillow and gives the same pixels within rounding.
    Everything that decoders treat differently (transparency, rotation, CMYK, 16 bits, broken files) is decoded by
    Pillow.

    Raises:
        Exception: whatever Pillow raises.
    """
    from torchcodec.decoders import decode_image

    if not isinstance(source, Image.Image):
        source = encoded(source)
    with quiet(), open_picture(source) as image:
        if isinstance(source, bytes) and is_plain_jpeg(image):
            with suppress(Exception):  # then Pillow tells whether it can be read
                return decode_image(without_exif(source), mode="RGB")
        return from_pillow(upright(image))


def from_pillow(image: Image.Image) -> Tensor:
    """RGB pixels as uint8 [3, H, W], in torchcodec's memory layout."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def augmented(image: Tensor, size: int, random: np.random.Generator) -> Tensor:
    """The training transform: uint8 [3, H, W] -> [3, size, size]. All draws come from `random`."""
    top, left, height, width = crop_box(image.shape[1], image.shape[2], random)
    image = F.resized_crop(image, top, left, height, width, [size, size], antialias=True)
    if random.random() < 0.5:
        image = F.horizontal_flip(image)
    brightness, contrast, saturation = random.uniform(1 - JITTER, 1 + JITTER, 3)
    hue = random.uniform(-HUE, HUE)
    for step in random.permutation(4):
        if step == 0:
            image = F.adjust_brightness(image, brightness)
        elif step == 1:
            image = F.adjust_contrast(image, contrast)
        elif step == 2:
            image = F.adjust_saturation(image, saturation)
        else:
            image = F.adjust_hue(image, hue)
    return image


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


def normalised(pixels: Tensor, device: str = "cpu") -> Tensor:
    """uint8 [n, 3, S, S] -> float32 on `device`, normalised by ImageNet's mean and standard deviation."""
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return pixels.to(device, non_blocking=True).float().div_(255).sub_(mean).div_(std)
