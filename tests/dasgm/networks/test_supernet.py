"""The search space: published counts, every operation against a formula, the supernet against its plain form."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from formulas import disturb
from textbook import EDGES, SearchNetwork
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transplants import as_textbook, drop_paths_alike

from dasgm.genotype import PRIMITIVES, Edge, Genotype
from dasgm.methods._base import Stage
from dasgm.networks import operations
from dasgm.networks.network import Network
from dasgm.networks.regularisation import Regularisation
from dasgm.networks.supernet import Architecture, Cell, Mixture, Supernet
from dasgm.spaces.darts import KNOWN, SearchSpace
from dasgm.testing._plugins import ensure_two_routes_agree

pytestmark = pytest.mark.usefixtures("seeded", "float64")

SPACE = SearchSpace()
ALL = (tuple(PRIMITIVES),) * 14
DARTS = Stage(0, 50, 0, cells=8, channels=16, operations=(ALL, ALL))
PC = replace(DARTS, partial=4, edge_weights=True)


def sets(count: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """A later stage of P-DARTS: each edge keeps its own operations."""
    rng = random.Random(seed)
    kept = [sorted(rng.sample(range(8), count)) for _ in range(14)]
    return tuple(tuple(PRIMITIVES[i] for i in ([1, 3, 4][:count] if names == [0] else names)) for names in kept)


ONE = (("skip_connect", "sep_conv_3x3"), *((("skip_connect", "none"),) * 13))
STAGES = {
    "darts": replace(DARTS, cells=3, channels=4),
    "pcdarts": replace(PC, cells=3, channels=8),
    "pdarts-2": replace(DARTS, cells=3, channels=4, operations=(sets(5, 0), sets(5, 1))),
    "pdarts-3": replace(DARTS, cells=3, channels=4, operations=(sets(3, 2), sets(3, 3))),
    "one convolution": replace(DARTS, cells=3, channels=4, operations=(ONE, ONE)),
    "s2": replace(DARTS, cells=3, channels=4, operations=((("skip_connect", "sep_conv_3x3"),) * 14,) * 2),
}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("stage", "ten", "hundred", "architecture"),
    [
        (DARTS, 1_930_618, 1_953_748, 224),
        (PC, 299_578, 322_708, 252),
        (replace(DARTS, cells=5), 1_275_834, 1_298_964, 224),  # P-DARTS, first stage
    ],
)
def test_counts_of_the_supernets(stage: Stage, ten: int, hundred: int, architecture: int) -> None:
    assert (count(Supernet(stage, 10)), count(Supernet(stage, 100))) == (ten, hundred)
    assert count(Architecture(stage, SPACE)) == architecture


@pytest.mark.parametrize(
    ("name", "ten", "hundred"),
    [
        ("DARTS_V1", 3_169_414, 3_221_344),
        ("DARTS_V2", 3_349_342, 3_401_272),
        ("PDARTS", 3_433_798, 3_485_728),
        ("PC_DARTS_cifar", 3_634_678, 3_686_608),
    ],
)
def test_counts_of_the_networks(name: str, ten: int, hundred: int) -> None:
    assert count(Network(KNOWN[name], 36, 20, 10)) == ten
    assert count(Network(KNOWN[name], 36, 20, 100)) == hundred


def multiply_adds(module: nn.Module, *inputs: object) -> int:
    """Of convolutions and linear layers, for one image, as torch counts them in the form that a GPU computes. On a CPU
    some convolutions are products of matrices.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(*inputs)
    found = counter.get_flop_counts()
    layers = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    linear = sum(found[f"{type(module).__name__}.{name}"][torch.ops.aten.addmm] for name in layers)
    return (found["Global"][torch.ops.aten.convolution] + linear) // 2


@pytest.mark.parametrize(("stage", "expected"), [(DARTS, 300_255_744), (PC, 56_596_992)])
def test_multiply_adds_of_the_supernets(stage: Stage, expected: int) -> None:
    with torch.device("meta"):
        found = multiply_adds(Supernet(stage, 10), torch.empty(1, 3, 32, 32), Architecture(stage, SPACE)())
    assert found == expected


def test_multiply_adds_of_a_network() -> None:
    with torch.device("meta"):
        assert multiply_adds(Network(KNOWN["DARTS_V2"], 36, 20, 10), torch.empty(1, 3, 32, 32)) == 528_359_040


def weights_and_norms(network: nn.Module) -> dict[str, Tensor]:
    """All that a network holds, but the counts of batches that torch's own norms keep."""
    return {name: t for name, t in network.state_dict().items() if t.is_floating_point()}


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(
    ("name", "drops"), [*((name, False) for name in STAGES), *((name, True) for name in ("darts", "pcdarts"))]
)
def test_supernet_is_the_textbooks(name: str, drops: bool, narrow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits, all gradients and running statistics, given the same weights; then the logits in eval mode. In the form
    that a GPU computes, and in that of a CPU; with drop path, and without.
    """
    monkeypatch.setattr(operations, "narrow_form", lambda x: narrow)
    stage = STAGES[name]
    ours, A, theirs = Supernet(stage, 5), Architecture(stage, SPACE), SearchNetwork(stage, 5)
    alphas = list(A.parameters())
    with torch.no_grad():
        for p in alphas:
            p.normal_()
    theirs.load_state_dict(as_textbook(stage, dict(ours.state_dict())), strict=False)
    x, y = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    if drops:
        drop_paths_alike(ours, [*theirs.cells], EDGES, 4)
    logits = ours(x, A()), theirs(x, alphas)
    found, expected = (
        torch.autograd.grad(F.cross_entropy(out, y), [*network.parameters(), *alphas])
        for out, network in zip(logits, (ours, theirs), strict=True)
    )
    gradients = as_textbook(stage, dict(zip(dict(ours.named_parameters()), found, strict=False)))
    assert gradients.keys() == dict(theirs.named_parameters()).keys()
    after = as_textbook(stage, weights_and_norms(ours))
    assert after.keys() == weights_and_norms(theirs).keys()
    for a, b in (
        logits,
        *zip(found[-len(alphas) :], expected[-len(alphas) :], strict=True),
        *((gradients[key], g) for key, g in zip(dict(theirs.named_parameters()), expected, strict=False)),
        *((t, after[key]) for key, t in weights_and_norms(theirs).items()),
        (ours.eval()(x, A()), theirs.eval()(x, alphas)),
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("narrow", [False, True])
def test_an_auxiliary_skip_connection_adds_to_the_skip_connection(
    narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the weights of the other where it has some, it is the same as more weight of the other; with weight 0, it is
    nothing. P-DARTS's dropout is of the other alone.
    """
    monkeypatch.setattr(operations, "narrow_form", lambda x: narrow)
    stage = STAGES["s2"]
    plain, W = Supernet(stage, 5), Supernet(replace(stage, auxiliary_skip=True), 5)
    state, own = plain.state_dict(), W.state_dict()
    assert own.keys() - state.keys() == {name for name in own if ".auxiliary_skip." in name}
    assert len([name for name in own.keys() - state.keys() if "running" not in name]) == 2 * 2 * 2  # cells, inputs
    mixture = Architecture(stage, SPACE)()
    wider = Mixture(tuple(F.pad(w, (0, 1), value=0.7) for w in mixture.cells))
    more = Mixture(tuple(w + torch.tensor([0.7, 0.0]) for w in mixture.cells))
    nothing = Mixture(tuple(F.pad(w, (0, 1)) for w in mixture.cells))
    x = torch.randn(4, 3, 16, 16)
    W.load_state_dict(own | state)
    torch.testing.assert_close(W(x, nothing), plain(x, mixture), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(W(x, wider), plain(x, more)), "it has weights of its own"
    W.load_state_dict(own | state | {n: own[n] * 0 + state[n.replace("auxiliary_skip", "skip_connect")] for n in own})
    torch.testing.assert_close(W(x, wider), plain(x, more), rtol=1e-12, atol=1e-12)
    without = Mixture(tuple(w * torch.tensor([0.0, 1, 1]) for w in wider.cells))
    expected = W(x, without)
    W.regularisation = Regularisation(skip_dropout=0.4)
    torch.testing.assert_close(W(x, without), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(W(x, wider), W(x, wider))


def one_hot(edges: tuple[Edge, ...]) -> Tensor:
    """[14, 8]: the chosen edges on their operation, all others on `none`."""
    mixture = F.one_hot(torch.zeros(14, dtype=torch.int64), 8).double()
    for place, (name, state) in enumerate(edges):
        edge = sum(range(2, 2 + place // 2)) + state
        mixture[edge] = F.one_hot(torch.tensor(PRIMITIVES.index(name)), 8)
    return mixture


def transplant(W: Supernet, network: Network, genotype: Genotype) -> None:
    """The supernet's weights and running statistics into the network, whose norms keep gain 1 and bias 0."""
    stage = replace(DARTS, cells=len(W.cells), channels=4)
    edges = SearchNetwork(stage, 7)
    edges.load_state_dict(as_textbook(stage, dict(W.state_dict())), strict=False)
    pairs: list[tuple[nn.Module, nn.Module]] = [(W.stem, network.stem), (W.head, network.head)]
    for cell, wide, own in zip(edges.cells, W.cells, network.cells, strict=True):
        pairs += zip(wide.preprocess, own.preprocess, strict=True)
        for place, (name, state) in enumerate(genotype.reduce if cell.reduction else genotype.normal):
            chosen = cell.edges[EDGES.index((state, place // 2))].operations[name]
            pairs.append((nn.Module() if "pool" in name else chosen, own.operations[place]))
    for source, target in pairs:
        missing, unexpected = target.load_state_dict(source.state_dict(), strict=False)
        assert not unexpected and all(target.state_dict()[key].ndim == 1 for key in missing)


def without_pools(edges: tuple[Edge, ...]) -> tuple[Edge, ...]:
    instead = {"max_pool_3x3": "dil_conv_5x5", "avg_pool_3x3": "sep_conv_5x5"}
    return tuple((instead.get(name, name), state) for name, state in edges)


@pytest.mark.parametrize("pools", [False, True])
@pytest.mark.parametrize("name", [name for name in KNOWN if "Fair" not in name])
def test_network_with_the_supernets_weights_gives_its_output(name: str, pools: bool) -> None:
    """In eval mode; what a search adds to a pool, a norm of its own, is taken out where a pool is chosen."""
    genotype = KNOWN[name]
    if not pools:
        reduction = without_pools(genotype.reduce)
        genotype = replace(genotype, normal=without_pools(genotype.normal), reduce=reduction)
    W, network = Supernet(replace(DARTS, cells=5, channels=4), 7), Network(genotype, 4, 5, 7)
    mixture, x = Mixture((one_hot(genotype.normal), one_hot(genotype.reduce))), torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        disturb(W, variance=0.15)  # small, as of what convolutions put out: the image must not fade
        for layers in (layers for cell in W.cells if pools for fan in cell.fans for layers in fan.pools.values()):
            layers[1].running_mean.zero_()
            layers[1].running_var.fill_(1 - 1e-5)
        transplant(W, network, genotype)
        theirs, ours = W.eval()(x, mixture), network.eval()(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert 0.01 < theirs.std(0).max() < 100  # and depends on the image


def test_mixture_is_softmaxed_by_edge_and_by_node() -> None:
    A = Architecture(PC, SPACE)
    with torch.no_grad():
        for p in A.parameters():
            p.normal_()
    mixture = A()
    torch.testing.assert_close(mixture.cells[0], A.alphas_normal.exp() / A.alphas_normal.exp().sum(1, keepdim=True))
    assert mixture.edges[1].shape == (14,)
    for part, betas in zip(mixture.edges[1].split([2, 3, 4, 5]), A.betas_reduce.split([2, 3, 4, 5]), strict=True):
        torch.testing.assert_close(part, betas.exp() / betas.exp().sum())
    assert not Architecture(DARTS, SPACE)().edges
    assert 5e-4 < Architecture(DARTS, SPACE).alphas_normal.std() < 2e-3


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # inside torch.func.jvp
@pytest.mark.parametrize("name", STAGES)
def test_second_derivatives_by_two_routes(name: str) -> None:
    """Double backward equals forward mode over the gradient, from W to A; and pure calls leave buffers alone."""
    stage = STAGES[name]
    W, A = Supernet(stage, 5), Architecture(stage, SPACE)
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    before = {k: b.clone() for k, b in W.named_buffers()}
    ensure_two_routes_agree(W, A, x, y)
    assert all(torch.equal(before[k], b) for k, b in W.named_buffers())
    W(x, A())
    assert any(not torch.equal(before[k], b) for k, b in W.named_buffers())


def test_skip_dropout() -> None:
    stage = replace(STAGES["darts"], skip_dropout=0.4)
    torch.manual_seed(1)
    W, A = Supernet(stage, 5), Architecture(stage, SPACE)
    torch.manual_seed(1)
    without, x = Supernet(replace(stage, skip_dropout=0.0), 5), torch.randn(4, 3, 8, 8)
    assert W.regularisation == Regularisation(skip_dropout=0.4)

    def run(rate: float, seed: int) -> Tensor:
        W.regularisation = Regularisation(skip_dropout=rate)
        torch.manual_seed(seed)
        return W(x, A())

    assert torch.equal(run(0.0, 0), without(x, A())) and torch.equal(run(0.0, 0), run(0.0, 1))
    assert torch.equal(run(0.4, 0), run(0.4, 0)) and not torch.equal(run(0.4, 0), run(0.4, 1))


def test_skips_drop_elements_of_their_own() -> None:
    """With all weight on skips, a node of a normal cell is a sum of dropped inputs, a fresh draw an edge."""
    cell = Cell(ALL, 3, 3, 4, False, False, 1)
    mixture = torch.zeros(14, 8)
    mixture[:5, PRIMITIVES.index("skip_connect")] = 1.0
    s = torch.randn(2, 3, 8, 8)
    x0, x1 = (layer(s) for layer in cell.preprocess)
    first, second, *_ = cell(s, s, F.pad(mixture.flatten(), (0, 1)), lambda: 0.5).chunk(4, 1)
    possible = torch.stack([torch.zeros_like(x0), 2 * x0, 2 * x1, 2 * x0 + 2 * x1])
    nearest, which = (first - possible).abs().min(0)
    assert nearest.max() < 1e-12
    assert torch.bincount(which.flatten(), minlength=4).min() > 0.15 * which.numel()
    again = (second - first[..., :] * 2 - possible).abs().min(0).values  # node 1 reads node 0 too, dropped anew
    assert not (again < 1e-12).all()


def test_weight_of_none_is_missing_from_the_sum() -> None:
    cell = Cell(ALL, 3, 3, 4, True, False, 1)
    s, mixture = torch.randn(2, 3, 8, 8), torch.zeros(14, 8)
    mixture[:, 0] = 1.0
    assert cell(s, s, F.pad(mixture.flatten(), (0, 1)), lambda: 0.0).abs().max() == 0


@pytest.mark.parametrize(("channels", "partial"), [(7, 1), (0, 1), (14, 4), (6, 4)])
def test_channels_that_do_not_divide_are_refused(channels: int, partial: int) -> None:
    with pytest.raises(ValueError, match=f"channels = {channels}: .* multiple of {max(2, partial)}"):
        Supernet(replace(DARTS, channels=channels, partial=partial), 10)


def test_odd_network_is_refused() -> None:
    with pytest.raises(ValueError, match="channels = 7"):
        Network(KNOWN["PDARTS"], 7, 8, 10)


@pytest.mark.parametrize("size", [16, 28, 64])
def test_sizes_classes_and_input_channels(size: int) -> None:
    torch.set_default_dtype(torch.float32)
    x = torch.randn(2, 1, size, size)
    stage = replace(DARTS, cells=3, channels=4)
    W, A = Supernet(stage, 7, in_channels=1), Architecture(stage, SPACE)
    network = Network(KNOWN["PDARTS"], 4, 3, 7, in_channels=1)
    for logits, module in ((W(x, A()), W), (network(x), network)):
        assert logits.shape == (2, 7) and logits.isfinite().all()
        F.cross_entropy(logits, torch.tensor([0, 6])).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_mixture_may_be_given_as_plain_tensors() -> None:
    stage = STAGES["darts"]
    W, uniform = Supernet(stage, 3), torch.full((14, 8), 1 / 8)
    assert W(torch.randn(2, 3, 8, 8), Mixture((uniform, uniform))).shape == (2, 3)
