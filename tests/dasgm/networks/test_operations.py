"""Every operation of the search space against a formula."""

from __future__ import annotations

import pytest
import torch
from formulas import (
    disturb,
    norm,
    windows,
)
from torch import Tensor, nn
from torch.nn import functional as F

from dasgm.genotype import PRIMITIVES
from dasgm.networks.operations import DepthwiseConv, operation, pool, pooled

pytestmark = pytest.mark.usefixtures("seeded", "float64")


def by_hand(name: str, layers: nn.Module, x: Tensor, stride: int) -> Tensor:
    """The operation from its definition, with the weights of `layers`."""
    if name == "none":
        return 0.0 * x[:, :, ::stride, ::stride]
    if name == "max_pool_3x3":
        return windows(x, 3, stride, 1, -torch.inf).amax(2)
    if name == "avg_pool_3x3":
        return windows(x, 3, stride, 1, 0).sum(2) / windows(torch.ones_like(x), 3, stride, 1, 0).sum(2)
    weights = [p for p in layers.parameters() if p.ndim == 4]
    norms = iter(layer for layer in layers.modules() if isinstance(layer, nn.BatchNorm2d))
    if name == "skip_connect":
        if stride == 1:
            return x
        even, odd = (w[:, :, 0, 0] for w in weights)
        r = F.pad(x.relu(), (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        halves = (torch.einsum("dc,nchw->ndhw", m, r[:, :, k::2, k::2]) for m, k in ((even, 0), (odd, 1)))
        return norm(torch.cat(list(halves), 1), next(norms))
    kernel, dilation = int(name[-1]), 2 if name.startswith("dil") else 1
    for depthwise, pointwise in zip(weights[::2], weights[1::2], strict=True):
        seen = windows(x.relu(), kernel, stride, dilation, 0)
        x = torch.einsum("nckhw,ck,dc->ndhw", seen, depthwise.flatten(1), pointwise[:, :, 0, 0])
        x, stride = norm(x, next(norms)), 1
    return x


@pytest.mark.parametrize("form", ["search", "network", "eval"])
@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_operations_follow_their_definition(name: str, stride: int, size: int, form: str) -> None:
    layers = operation(name, 4, stride, affine=form != "search").train(form != "eval")
    disturb(layers)
    x = torch.randn(3, 4, size, size, requires_grad=True)
    ours, expected = layers(x), by_hand(name, layers, x, stride)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(ours)
    parameters = [x, *layers.parameters()]
    for a, b in zip(*(torch.autograd.grad(y, parameters, cotangent) for y in (ours, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["max_pool_3x3", "avg_pool_3x3"])
@pytest.mark.parametrize("stride", [1, 2])
def test_pooling_several_images_as_one_changes_nothing(kind: str, stride: int) -> None:
    layer = pool(kind, stride)
    x = torch.randn(12, 3, 32, 32).contiguous(memory_format=torch.channels_last).requires_grad_()
    ours, expected = pooled(layer, x), layer(x)
    assert torch.equal(ours, expected) and ours.is_contiguous(memory_format=torch.channels_last)
    assert x.numel() >= 2**15, "smaller maps are pooled as they are"
    cotangent = torch.randn_like(ours)
    assert torch.equal(*(torch.autograd.grad(y, x, cotangent)[0] for y in (ours, expected)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wide_filters_are_converted_by_autocast(dtype: torch.dtype) -> None:
    layer, x = DepthwiseConv(8, 5).float(), torch.randn(2, 8, 64, 64)
    assert x.numel() >= 2**16, "smaller maps are left to torch"
    expected = layer(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.to(dtype))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.02, atol=0.02)
    (gradient,) = torch.autograd.grad(y.float().sum(), layer.weight)
    assert gradient.dtype == torch.float32 and gradient.isfinite().all()
