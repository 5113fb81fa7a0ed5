"""Batch norm and windows, written out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def norm(x: Tensor, layer: nn.BatchNorm2d | None = None) -> Tensor:
    """By the batch's statistics; in eval mode by the running ones of `layer`, whose gain and bias follow."""
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    if layer is not None and not layer.training:
        assert layer.running_mean is not None and layer.running_var is not None
        mean, var = layer.running_mean, layer.running_var
    x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    return x if layer is None or not layer.affine else x * layer.weight[:, None, None] + layer.bias[:, None, None]


def disturb(module: nn.Module, variance: float = 1.0) -> None:
    """Gains, biases and running statistics as after a training."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.affine:
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, variance**0.5)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5 * variance, 1.5 * variance)


def windows(x: Tensor, kernel: int, stride: int, dilation: int, fill: float) -> Tensor:
    """[N, C, kernel * kernel, H', W']: what a filter sees, by slicing alone."""
    reach = dilation * (kernel // 2)
    h, w = x.shape[2:]
    x = F.pad(x, (reach,) * 4, value=fill)
    taps = [(i * dilation, j * dilation) for i in range(kernel) for j in range(kernel)]
    return torch.stack([x[:, :, i : i + h : stride, j : j + w : stride] for i, j in taps], 2)
