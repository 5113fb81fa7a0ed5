"""Derivatives of grouped convolutions against differences, and against torch's own."""

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

from dasgm.bilevel import Player, mixed_vjp, replay
from dasgm.bilevel.convolutions import GroupedConvolutions
from dasgm.methods import darts
from dasgm.networks.supernet import Architecture, Supernet

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
        with GroupedConvolutions():
            return function(x, w, bias, **settings)

    def slopes(x: Tensor, w: Tensor) -> Any:
        return torch.autograd.grad(convolved(x, w, given[2]).tanh().square().sum(), (x, w), create_graph=True)

    torch.testing.assert_close(convolved(*given), function(*given, **settings), rtol=1e-13, atol=1e-13)
    assert gradcheck(convolved, given, fast_mode=True) and gradgradcheck(convolved, given, fast_mode=True)
    assert gradgradcheck(slopes, given[:2], fast_mode=True), "the third derivative, as of a penalty of a slope"


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
        with GroupedConvolutions():
            y = F.conv2d(x, w, padding=1, groups=groups)
        slopes = torch.autograd.grad(y.sin().sum(), (x, w), create_graph=True)
        with Operations() as counted:
            torch.autograd.grad(slopes, (x, w), [t.detach() for t in slopes])
        counts.append(counted.found)
    assert counts[0] == counts[1] and counts[0]["aten::convolution_backward"] == 4


def test_exact_derivative_of_a_supernet_is_torchs(monkeypatch):
    stage = darts.Config(cells=3, channels=4).first()
    torch.manual_seed(1)
    W, A = Player(Supernet(stage, 5)), Player(Architecture(stage))
    x, y = torch.randn(4, 3, 16, 16), torch.arange(4)
    direction = {k: torch.randn_like(p) for k, p in W.params.items()}

    def loss(W: Any, A: Any) -> Tensor:
        with replay(0):
            return F.cross_entropy(W(x, A()), y)

    with Operations() as ours:
        found = mixed_vjp(loss, W.state(), A, direction, None)
    monkeypatch.setattr("dasgm.bilevel.hypergradient.GroupedConvolutions", nullcontext)
    with Operations() as theirs:
        truths = mixed_vjp(loss, W.state(), A, direction, None)
    assert theirs.found["aten::convolution"] > 5 * ours.found["aten::convolution"], "theirs goes group by group"
    for k, truth in truths.items():
        assert truth.norm() > 0
        torch.testing.assert_close(found[k], truth, rtol=1e-12, atol=1e-12 * float(truth.abs().max()))
