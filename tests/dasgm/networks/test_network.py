"""The network that is trained from scratch: both forms, the auxiliary head, drop-path."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import textbook
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dasgm.networks.network import AuxiliaryHead, Cell, Network, check_image_size, drop_paths
from dasgm.networks.operations import FactorizedReduce, ReLUConvBN
from dasgm.spaces.darts import KNOWN

pytestmark = pytest.mark.usefixtures("seeded")


def outputs(network: Network, x: Tensor) -> list[Tensor]:
    """Of every cell, as seen by hooks."""
    seen: list[Tensor] = []
    for cell in network.cells:
        cell.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        network.eval()(x)
    return seen


# forms and sizes


@pytest.mark.parametrize(
    ("form", "size"), [("cifar", 16), ("cifar", 32), ("cifar", 64), ("imagenet", 32), ("imagenet", 64)]
)
def test_any_image_size(form: Any, size: int) -> None:
    network = Network(KNOWN["PDARTS"], 4, 3, 7, in_channels=1, form=form, auxiliary=True)
    logits, auxiliary = network.forward_with_auxiliary(torch.randn(3, 1, size, size))
    y = torch.tensor([0, 1, 6])
    (F.cross_entropy(logits, y) + 0.4 * F.cross_entropy(auxiliary, y)).backward()
    assert logits.shape == auxiliary.shape == (3, 7)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_images_need_not_be_square() -> None:
    network = Network(KNOWN["DARTS_V2"], 4, 3, 7, auxiliary=True)
    assert [y.shape for y in network.forward_with_auxiliary(torch.randn(2, 3, 16, 48))] == [(2, 7)] * 2


@pytest.mark.parametrize(
    ("form", "sizes"),
    [("cifar", [32] * 6 + [16] * 7 + [8] * 7), ("imagenet", [28] * 4 + [14] * 5 + [7] * 5)],
)
def test_maps_shrink_at_a_third_and_two_thirds(form: Any, sizes: list[int]) -> None:
    size = 32 if form == "cifar" else 224
    with torch.device("meta"):
        seen = outputs(Network(KNOWN["DARTS_V1"], 4, len(sizes), 10, form=form), torch.empty(1, 3, size, size))
    assert [x.shape[2] for x in seen] == sizes
    assert [x.shape[1] // 16 for x in seen] == [sizes[0] // s for s in sizes]


def test_stems_of_the_imagenet_form_by_their_definition() -> None:
    network = Network(KNOWN["DARTS_V1"], 4, 3, 10, form="imagenet").double()
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    convolutions = [m for m in (*network.stem, *network.second_stem) if isinstance(m, nn.Conv2d)]

    def layer(x: Tensor, convolution: nn.Conv2d) -> Tensor:
        x = F.conv2d(x, convolution.weight, stride=2, padding=1)
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt()

    a = layer(x, convolutions[0])
    s0 = layer(a.relu(), convolutions[1])
    s1 = layer(s0.relu(), convolutions[2])
    given: list[Tensor] = []
    for stem in (network.stem, network.second_stem):
        stem.register_forward_hook(lambda _, __, output: given.append(output))
    network(x)
    assert [s.shape for s in given] == [(3, 4, 8, 8), (3, 4, 4, 4)]
    for ours, expected in zip(given, (s0, s1), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("form", "halved"), [("cifar", {3, 6}), ("imagenet", {0, 3, 6})])
def test_the_first_input_is_halved_after_a_reduction_and_behind_the_imagenet_stem(form: Any, halved: set[int]) -> None:
    network = Network(KNOWN["DARTS_V1"], 4, 8, 10, form=form)  # reductions: 2 and 5
    kinds = [type(cell.preprocess[0]) for cell in network.cells]
    assert {i for i, kind in enumerate(kinds) if kind is FactorizedReduce} == halved
    assert all(isinstance(cell.preprocess[1], ReLUConvBN) for cell in network.cells)


@pytest.mark.parametrize(("form", "size"), [("cifar", 30), ("cifar", 0), ("imagenet", 46), ("imagenet", 28)])
def test_sizes_that_do_not_divide_are_refused(form: Any, size: int) -> None:
    least = 4 if form == "cifar" else 32
    with pytest.raises(ValueError, match=f"image size {size}: .* {form} .* multiple of 4 pixels, at least {least}"):
        check_image_size(form, size)
    if size:
        with pytest.raises(ValueError, match=f"image size {size}"):
            Network(KNOWN["DARTS_V1"], 4, 3, 10, form=form)(torch.zeros(1, 3, 32, size))


@pytest.mark.parametrize("size", [36, 100])
def test_the_imagenet_form_takes_sizes_whose_maps_are_odd(size: int) -> None:
    """100 -> 50 -> 25 -> 13 (stems and first cell) -> 7 -> 4; the shifted half sees zeros behind the last line."""
    network = Network(KNOWN["DARTS_V1"], 4, 3, 10, form="imagenet").eval()
    assert network(torch.randn(2, 3, size, size)).shape == (2, 10)
    layer = FactorizedReduce(4, 8, affine=False).eval()
    x, padded = torch.randn(2, 4, 5, 7), torch.zeros(2, 4, 6, 8)
    padded[:, :, :5, :7] = x
    assert torch.equal(layer(x), layer(padded))


def test_networks_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="cells = 2"):
        Network(KNOWN["DARTS_V1"], 4, 2, 10)
    with pytest.raises(ValueError, match="form 'image'"):
        Network(KNOWN["DARTS_V1"], 4, 3, 10, form="image")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="channels = 3"):
        Network(KNOWN["DARTS_V1"], 3, 3, 10, form="imagenet")


def test_a_trained_network_needs_no_supernet() -> None:
    code = "import sys, dasgm.networks.network; assert 'dasgm.networks.supernet' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# the textbook's network


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("form", "size", "name"),
    [
        ("cifar", 32, "DARTS_V1"),
        ("cifar", 32, "PDARTS"),
        ("cifar", 32, "FairDARTS_c"),
        ("imagenet", 224, "DARTS_V1"),
        ("imagenet", 224, "PDARTS"),
    ],
)
def test_network_is_the_textbooks(form: Any, size: int, name: str) -> None:
    """Both heads' logits, all gradients and running statistics, given the same weights in the same order."""
    ours = Network(KNOWN[name], 4, 5, 7, form=form, auxiliary=True)
    theirs = textbook.Network(KNOWN[name], 4, 5, 7, form, auxiliary=True)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x, y = torch.randn(3, 3, size, size), torch.tensor([0, 1, 6])
    logits = ours.forward_with_auxiliary(x), theirs(x)
    gradients = (
        torch.autograd.grad(F.cross_entropy(main, y) + 0.4 * F.cross_entropy(auxiliary, y), list(network.parameters()))
        for (main, auxiliary), network in zip(logits, (ours, theirs), strict=True)
    )
    states = (network.state_dict().values() for network in (ours, theirs))
    for kind in (logits, gradients, states):
        for a, b in zip(*kind, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# auxiliary head


@pytest.mark.parametrize(("cells", "index"), [(3, 2), (5, 3), (8, 5), (14, 9), (20, 13)])
def test_auxiliary_head_follows_the_second_reduction_cell(cells: int, index: int) -> None:
    network = Network(KNOWN["DARTS_V2"], 4, cells, 10, auxiliary=True).eval()
    x = torch.randn(2, 3, 32, 32)
    seen = outputs(network, x)
    with torch.no_grad():
        logits, auxiliary = network.forward_with_auxiliary(x)
        torch.testing.assert_close(auxiliary, network.auxiliary(seen[index]))
        assert torch.equal(logits, network(x))


def test_auxiliary_loss_trains_the_cells_before_it_alone() -> None:
    network = Network(KNOWN["DARTS_V2"], 4, 8, 10, auxiliary=True)
    network.forward_with_auxiliary(torch.randn(2, 3, 16, 16))[1].square().sum().backward()
    for index, cell in enumerate(network.cells):
        assert all((p.grad is not None) == (index <= 5) for p in cell.parameters()), index
    assert network.head.weight.grad is None


def test_the_head_does_not_change_the_rest() -> None:
    """Same draws, same keys besides its own: a network is trained with it and used without."""
    states = []
    for auxiliary in (False, True):
        torch.manual_seed(1)
        states.append(Network(KNOWN["PDARTS"], 4, 3, 10, auxiliary=auxiliary).state_dict())
    plain, whole = states
    assert {key for key in whole if not key.startswith("auxiliary.")} == plain.keys()
    assert all(torch.equal(whole[key], value) for key, value in plain.items())
    assert {key.split(".")[0] for key in plain} == {"stem", "cells", "head"}


@pytest.mark.parametrize(
    ("form", "size", "rows"),
    [
        ("cifar", 8, [(0, 5), (3, 8)]),  # the original's, at 32 pixels
        ("imagenet", 7, [(0, 5), (2, 7)]),  # and at 224
        ("cifar", 4, [(0, 2), (2, 4)]),
        ("cifar", 16, [(0, 8), (8, 16)]),
        ("imagenet", 1, [(0, 1), (0, 1)]),
    ],
)
def test_auxiliary_head_by_its_definition(form: Any, size: int, rows: list[tuple[int, int]]) -> None:
    head = AuxiliaryHead(6, 5, form).double()
    x = torch.randn(3, 6, size, size, dtype=torch.float64)

    def norm(x: Tensor) -> Tensor:
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt()

    r = x.clamp(min=0)
    pooled = torch.stack([r[:, :, a:b, c:d].mean((2, 3)) for a, b in rows for c, d in rows], 2).unflatten(2, (2, 2))
    narrow, wide = (m.weight for m in head.modules() if isinstance(m, nn.Conv2d))
    h = norm(torch.einsum("nchw,dc->ndhw", pooled, narrow[:, :, 0, 0])).clamp(min=0)
    h = torch.einsum("nchw,dchw->nd", h, wide)[:, :, None, None]
    h = (norm(h) if form == "cifar" else h).clamp(min=0)[:, :, 0, 0]
    torch.testing.assert_close(head(x), h @ head.head.weight.T + head.head.bias, rtol=1e-9, atol=1e-9)


# drop-path


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    rate, n = 0.3, 20_000
    x = torch.randn(1, 2, 3, 3).expand(n, -1, -1, -1).clone().requires_grad_()
    y = x * drop_paths(1, n, rate)[0]
    dropped = (y == 0).flatten(1).all(1)
    torch.testing.assert_close(y[~dropped], x[~dropped] / (1 - rate))
    deviation = (rate / (1 - rate) / n) ** 0.5  # of the mean of the masks
    assert ((y.mean(0) - x[0]).abs() < 5 * deviation * x[0].abs()).all()
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (~dropped).float()[:, None, None, None].expand_as(x) / (1 - rate))


def cell(names: tuple[str, str], reduction: bool) -> Cell:
    """One node, which reads both inputs; put out alone."""
    return Cell([(names[0], 0), (names[1], 1)], [2], 4, 4, 4, reduction, False).double()


def four_sums(cell: Cell, s0: Tensor, s1: Tensor, keep: float) -> Tensor:
    """[4, N, C, H, W]: neither, the first, the second, both operations' results, divided by `keep`."""
    x0, x1 = (layer(s) for layer, s in zip(cell.preprocess, (s0, s1), strict=True))
    a, b = cell.operations[0](x0) / keep, cell.operations[1](x1) / keep
    return torch.stack([torch.zeros_like(a), a, b, a + b])


@pytest.mark.parametrize(
    ("names", "reduction"),
    [
        (("sep_conv_3x3", "dil_conv_5x5"), False),
        (("max_pool_3x3", "avg_pool_3x3"), False),
        (("skip_connect", "skip_connect"), True),  # halving skips have weights
    ],
)
def test_each_operation_is_dropped_by_itself_and_by_sample(names: tuple[str, str], reduction: bool) -> None:
    layers, (s0, s1) = cell(names, reduction), torch.randn(2, 400, 4, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        distance = (
            (layers(s0, s1, iter(drop_paths(2, 400, 0.5))) - four_sums(layers, s0, s1, 0.5)).abs().amax((2, 3, 4))
        )
    nearest, which = distance.min(0)
    assert nearest.max() < 1e-9
    assert torch.bincount(which, minlength=4).min() > 60  # of 100 expected


def test_a_skip_that_is_the_identity_is_never_dropped() -> None:
    layers, (s0, s1) = cell(("skip_connect", "skip_connect"), False), torch.randn(2, 16, 4, 4, 4).double()
    with torch.no_grad():
        assert torch.equal(layers(s0, s1, iter(drop_paths(2, 16, 0.9))), layers(s0, s1))


def test_drop_path_is_of_training_alone_and_no_state() -> None:
    network, x = Network(KNOWN["DARTS_V2"], 4, 3, 10), torch.randn(8, 3, 16, 16)
    keys = network.state_dict().keys()

    def logits(rate: float, seed: int) -> Tensor:
        network.drop_path_rate = rate
        torch.manual_seed(seed)
        with torch.no_grad():
            return network(x)

    assert network.drop_path_rate == 0.0
    assert torch.equal(logits(0.0, 0), logits(0.0, 1))
    assert torch.equal(logits(0.4, 0), logits(0.4, 0)) and not torch.equal(logits(0.4, 0), logits(0.4, 1))
    network.eval()
    assert torch.equal(logits(0.4, 0), logits(0.0, 1))
    assert network.state_dict().keys() == keys
