"""Derivatives of grouped convolutions and batch norms against differences, and against torch's own."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dasgm.bilevel import Player, convolutions, mixed_vjp, replay
from dasgm.bilevel.derivatives import ShortDerivatives
from dasgm.methods import darts
from dasgm.networks.supernet import Architecture, Supernet
from dasgm.spaces.darts import SearchSpace

pytestmark = pytest.mark.usefixtures("float64")

PLAIN = [  # settings of conv2d, kernel, output channels
    ({"groups": 2, "padding": 1}, (3, 3), 4),
    ({"groups": 4, "stride": 2, "padding": 2, "dilation": 2}, (3, 3), 4),
    ({"groups": 2, "stride": (1, 2), "padding": (0, 1), "dilation": (2, 1)}, (3, 2), 6),
    ({"groups": 4, "padding": "same", "dilation": 2}, (3, 3), 8),
    ({"groups": 2, "padding": "valid", "stride": 2}, (2, 2), 4),
    ({"groups": 2, "padding": "same"}, (2, 3), 4),
]
TRANSPOSED = [
    ({"groups": 4, "stride": 2, "padding": 1}, (4, 4), 4),
    ({"groups": 2, "stride": (2, 3), "padding": 1, "output_padding": (1, 2), "dilation": (2, 1)}, (3, 2), 6),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    ("function", "settings", "kernel", "channels"),
    [(F.conv2d, *case) for case in PLAIN] + [(F.conv_transpose2d, *case) for case in TRANSPOSED],
)
def test_all_derivatives_are_those_of_differences(function, settings, kernel, channels):
    torch.manual_seed(0)
    shape = (channels, 4 // settings["groups"]) if function is F.conv2d else (4, channels // settings["groups"])
    given = [torch.randn(*size, requires_grad=True) for size in ((1, 4, 5, 4), (*shape, *kernel), (channels,))]

    def convolved(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        with ShortDerivatives():
            return function(x, w, bias, **settings)

    def slopes(x: Tensor, w: Tensor) -> Any:
        return torch.autograd.grad(convolved(x, w, given[2]).tanh().square().sum(), (x, w), create_graph=True)

    torch.testing.assert_close(convolved(*given), function(*given, **settings), rtol=1e-13, atol=1e-13)
    assert gradcheck(convolved, given, fast_mode=True) and gradgradcheck(convolved, given, fast_mode=True)
    assert gradgradcheck(slopes, given[:2], fast_mode=True), "the third derivative, as of a penalty of a slope"


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(7, 8), (6, 2), (8, 7)])
def test_a_5x5_filter_per_channel_on_a_cpu_has_torchs_derivatives(stride, size):
    torch.manual_seed(0)
    x, w = (torch.randn(*shape, dtype=torch.float32) for shape in ((3, 6, *size), (6, 1, 5, 5)))
    settings = convolutions.Settings([stride] * 2, [2, 2], [1, 1], 6)
    assert convolutions.five_wide(w, settings)

    def derivatives(function: Any, x: Tensor, w: Tensor) -> list[Tensor]:
        x, w = (t.clone().requires_grad_() for t in (x, w))
        y = function(x, w, None, stride, 2, 1, 6)
        slopes = torch.autograd.grad(y.square().sum(), (x, w), create_graph=True)
        return [y, *slopes, *torch.autograd.grad(slopes, (x, w), [t.detach() for t in slopes])]

    found, expected = derivatives(convolutions.conv2d, x, w), derivatives(F.conv2d, x.double(), w.double())
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, exact.float(), rtol=1e-4, atol=1e-6 * float(exact.detach().abs().max()))
    if size[1] % 2 == 0:
        x, w = x.double(), w.double().requires_grad_()
        y = F.conv2d(x, w, None, stride, 2, 1, 6)
        g = torch.randn_like(y)
        torch.testing.assert_close(
            convolutions.in_pairs(x, g, stride), torch.autograd.grad(y, w, g)[0], rtol=1e-12, atol=1e-12
        )


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def test_a_second_derivative_takes_no_more_operations_for_more_groups():
    counts = []
    for groups in (2, 32):
        x, w = torch.randn(2, 32, 6, 6, requires_grad=True), torch.randn(32, 32 // groups, 3, 3, requires_grad=True)
        with ShortDerivatives():
            y = F.conv2d(x, w, padding=1, groups=groups)
        slopes = torch.autograd.grad(y.sin().sum(), (x, w), create_graph=True)
        with Operations() as counted:
            torch.autograd.grad(slopes, (x, w), [t.detach() for t in slopes])
        counts.append(counted.found)
    assert counts[0] == counts[1] and counts[0]["aten::convolution_backward"] == 4


@pytest.mark.parametrize(("shape", "affine"), [((3, 4, 2, 3), True), ((3, 4, 2, 3), False), ((5, 4), True)])
def test_all_derivatives_of_a_batch_norm_are_those_of_differences(shape, affine):
    torch.manual_seed(0)
    x = 3 + 2 * torch.randn(shape)  # a mean that must be taken out
    given = [t.requires_grad_() for t in ([x, torch.randn(4), torch.randn(4)] if affine else [x])]

    def normed(*given: Tensor) -> Tensor:
        with ShortDerivatives():
            return F.batch_norm(given[0], None, None, *given[1:], training=True)

    def slopes(*given: Tensor) -> Any:
        return torch.autograd.grad(normed(*given).tanh().square().sum(), given, create_graph=True)

    torch.testing.assert_close(normed(*given), F.batch_norm(x, None, None, *given[1:], training=True))
    assert gradcheck(normed, given, fast_mode=True) and gradgradcheck(normed, given, fast_mode=True)
    for number in range(len(given)):
        assert gradcheck(lambda *given, number=number: slopes(*given)[number], given, fast_mode=True), "of one slope"
    assert gradgradcheck(slopes, given, fast_mode=True), "the third derivative, as of a penalty of a slope"


def test_a_batch_norm_keeps_its_statistics_and_its_errors():
    x, ours, theirs = torch.randn(4, 3, 2, 2), *([torch.zeros(3), torch.ones(3)] for _ in range(2))
    for training in (True, False):
        with ShortDerivatives():
            found = F.batch_norm(x, *ours, training=training, momentum=0.3, eps=0.1)
        truth = F.batch_norm(x, *theirs, training=training, momentum=0.3, eps=0.1)
        torch.testing.assert_close((found, ours), (truth, theirs), rtol=1e-13, atol=1e-13)
    with ShortDerivatives(), pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        F.batch_norm(x[:1, :, :1, :1], None, None, training=True)


def test_exact_derivative_of_a_supernet_is_torchs(monkeypatch):
    stage = darts.Config(cells=3, channels=4).first(SearchSpace())
    torch.manual_seed(1)
    W, A = Player(Supernet(stage, 5)), Player(Architecture(stage, SearchSpace()))
    x, y = torch.randn(4, 3, 16, 16), torch.arange(4)
    direction = {k: torch.randn_like(p) for k, p in W.params.items()}

    def loss(W: Any, A: Any) -> Tensor:
        with replay(0):
            return F.cross_entropy(W(x, A()), y)

    with Operations() as ours:
        found = mixed_vjp(loss, W.state(), A, direction, None)
    monkeypatch.setattr("dasgm.bilevel.hypergradient.ShortDerivatives", nullcontext)
    with Operations() as theirs:
        truths = mixed_vjp(loss, W.state(), A, direction, None)
    assert theirs.found["aten::convolution"] > 5 * ours.found["aten::convolution"], "theirs goes group by group"
    norms = ours.found["aten::native_batch_norm"]
    assert norms > 50 and theirs.found["aten::sum"] - ours.found["aten::sum"] > 20 * norms, "theirs sums each again"
    for k, truth in truths.items():
        assert truth.norm() > 0
        torch.testing.assert_close(found[k], truth, rtol=1e-12, atol=1e-12 * float(truth.abs().max()))
