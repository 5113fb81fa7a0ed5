"""Photographs to square pixels: decoding, and ImageNet's transforms of training and of evaluation.

The transforms are DARTS's (facts: train_imagenet.py, lines 112-133): RandomResizedCrop, flip, ColorJitter(.4, .4, .4,
.2), and 256/224 resize with centre crop. They work on uint8 and round after each step, as Pillow does.
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
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of RandomResizedCrop: share of the picture's area, width / height
JITTER, HUE = 0.4, 0.2  # brightness, contrast and saturation by 0.6 to 1.4; hue by up to a fifth of the circle
TRIES = 10
LONGEST = 16  # sides' ratio beyond which evaluation drops the ends before it resizes


def decoded(source: Source) -> Tensor:
    """uint8 RGB [3, H, W] of a JPEG, PNG, WebP or GIF, as `upright_rgb` sees it.

    Photographs go through torchcodec, which is faster than Pillow and gives the same pixels within rounding. All that
    decoders see differently (transparency, turns, CMYK, 16 bits, what is broken) goes through Pillow.
    Raises whatever Pillow stumbles over.
    """
    from torchcodec.decoders import decode_image

    if not isinstance(source, Image.Image):
        source = encoded(source)
    with quiet(), open_picture(source) as image:
        if isinstance(source, bytes) and is_plain_jpeg(image):
            with suppress(Exception):  # whether it can be read, and why not, Pillow says
                return decode_image(without_exif(source), mode="RGB")
        return from_pillow(upright(image))


def from_pillow(image: Image.Image) -> Tensor:
    """RGB pixels as uint8 [3, H, W], laid out in memory as torchcodec does."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def augmented(image: Tensor, size: int, random: np.random.Generator) -> Tensor:
    """Of training: uint8 [3, H, W] -> [3, size, size]; all draws come from `random`."""
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
    """Top, left, height and width of a random crop (Szegedy et al. 2015); none fits: the largest in the centre."""
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
    """Of evaluation: uint8 [3, H, W] -> [3, size, size], the centre once the shorter side is 256/224 of `size`."""
    height, width = image.shape[1:]
    most = LONGEST * min(height, width)  # enlarged whole, a line of 1 x 20,000 pixels takes gigabytes
    if max(height, width) > most + 1:
        # an odd number less on both sides would move the centre
        image = F.center_crop(image, [min(n, most + (n - most) % 2) for n in (height, width)])
    image = F.resize(image, [shorter_side(size)], antialias=True)
    return F.center_crop(image, [size, size])


def normalised(pixels: Tensor, device: str = "cpu") -> Tensor:
    """uint8 [n, 3, S, S] -> float32 on `device`, with ImageNet's mean and standard deviation taken out."""
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return pixels.to(device, non_blocking=True).float().div_(255).sub_(mean).div_(std)
