"""The searchable discriminator: each operation, the folded convolution, and what is left after an error."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from small_gans import small

from dasgm.gans._resnet import Discriminator, DiscriminatorBlock, edges
from dasgm.gans._searchable import Choice, Searchable, relax
from dasgm.testing.gans import draw

pytestmark = pytest.mark.usefixtures("seeded")


def convolutions(in_channels: int, out_channels: int) -> Choice:
    block = DiscriminatorBlock(in_channels, out_channels, down=False, first=False)
    relax(block, edges(block), searched=True, init=0.0)
    return block.conv1


@pytest.mark.parametrize("channels, count", [((4, 4), 6), ((3, 4), 5)])
def test_folded_convolution_is_the_weighted_sum_of_its_operations(float64, channels, count):
    choice = convolutions(*channels).eval()
    x, cotangent = torch.randn(2, channels[0], 7, 7), torch.randn(2, 4, 7, 7)
    logits = torch.randn(count, requires_grad=True)

    def folded(logits):
        choice.weights = logits.softmax(0)
        return choice(x)

    def naive(logits):
        return sum(w * operation(x) for w, operation in zip(logits.softmax(0), choice.operations.values(), strict=True))

    assert choice.folds and len(choice.operations) == count
    assert (folded(logits) - naive(logits)).abs().max() < 1e-10
    gradients = [torch.autograd.grad((f(logits) * cotangent).sum(), logits)[0] for f in (folded, naive)]
    assert (gradients[0] - gradients[1]).abs().max() < 1e-10


def test_the_operations_are_what_their_names_say(float64):
    operations = convolutions(4, 4).eval().operations
    x = torch.randn(2, 4, 7, 7)
    assert list(operations) == ["default", "none", "skip", "sn_conv_1x1", "sn_conv_5x5", "sn_dil_conv_3x3"]
    assert operations["none"](x).abs().max() == 0 and torch.equal(operations["skip"](x), x)
    for name, (size, dilation) in {
        "default": (3, 1),
        "sn_conv_1x1": (1, 1),
        "sn_conv_5x5": (5, 1),
        "sn_dil_conv_3x3": (3, 2),
    }.items():
        operation, reach = operations[name], dilation * (size - 1) // 2
        w, padded = operation.normalised(), F.pad(x, [reach] * 4)
        terms = (
            torch.einsum("oi,nihw->nohw", w[:, :, i, j], padded[:, :, i * dilation :, j * dilation :][:, :, :7, :7])
            for i in range(size)
            for j in range(size)
        )
        assert torch.allclose(operation(x), sum(terms) + operation.bias[:, None, None], atol=1e-10)


def test_pooling_is_a_choice_where_the_map_is_halved():
    stock = Discriminator(10, 32, 4)
    names = {f"blocks.{i}.conv{j}" for i in range(4) for j in (1, 2)} | {"blocks.0.pool", "blocks.1.pool"}
    assert set(edges(stock)) == names
    discriminator, architecture = relax(stock, edges(stock), searched=True, init=2.0)
    assert architecture.operations["blocks.1.pool"] == ["default", "max"]
    assert [len(w) for w in architecture()] == [5, 6, 2, 6, 6, 2, 6, 6, 6, 6]
    share = architecture()[1][0].item()
    assert share == pytest.approx(math.exp(2) / (math.exp(2) + 5), abs=2e-3)


def test_weights_are_cleared_even_after_an_exception():
    gan = small("biggan")
    _, y, x = draw(gan)
    choices = [m for m in gan.discriminator.modules() if isinstance(m, Choice)]
    gan.discriminator(gan.architecture(), x, y)
    assert isinstance(gan.discriminator, Searchable) and all(c.weights is None for c in choices) and choices
    with pytest.raises(RuntimeError):
        gan.discriminator(gan.architecture(), x[:, :1], y)
    assert all(c.weights is None for c in choices)
