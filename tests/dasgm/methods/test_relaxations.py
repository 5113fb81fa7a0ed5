"""What the methods make of the alphas, against facts/more-methods, section 1.19, and laws written out again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributions import Dirichlet, kl_divergence

from dasgm.genotype import PRIMITIVES, space_of
from dasgm.methods import _dirichlet, betadarts, dartsminus, drnas, dropnas, fairdarts, gdas, sdarts
from dasgm.methods._base import CellType, Relaxation
from dasgm.networks.supernet import Architecture, Mixture, Supernet
from dasgm.plugins import plugin
from dasgm.spaces.darts import SearchSpace

pytestmark = pytest.mark.usefixtures("float64")
SPACE = SearchSpace()
ROW = (0, 0.5, -0.5, 1, 2, 0, -1, 0.3)
SOFTMAX = (0.062188, 0.102530, 0.037719, 0.169044, 0.459509, 0.062188, 0.022878, 0.083945)


def row(values: Any = ROW, **kind: Any) -> torch.Tensor:
    return torch.tensor([values], **kind)


def near(found: torch.Tensor, expected: Any, atol: float = 5e-7) -> None:
    torch.testing.assert_close(found.detach().flatten(), torch.as_tensor(expected).flatten(), rtol=0, atol=atol)


def scheduled(key: str, name: str, epochs: int, asked: tuple[int, ...], **settings: Any) -> list[float]:
    method = plugin("methods", key)(**settings)
    return [method.times(SPACE, SimpleNamespace(epochs=epochs), epoch, {})[name] for epoch in asked]


@pytest.mark.parametrize(
    ("key", "name", "epochs", "expected"),
    [
        ("sdarts", "epsilon", 50, {0: 0.03, 25: 0.165, 49: 0.2946}),
        ("betadarts", "lambda", 100, {0: 0, 1: 0.5, 50: 25, 99: 49.5}),
        ("dartsminus", "beta", 50, {0: 1, 25: 0.5, 49: 0.02}),
        ("gdas", "tau", 250, {0: 10, 1: 9.96024, 125: 5.03012, 249: 0.1}),
    ],
)
def test_numbers_of_the_epochs(key: str, name: str, epochs: int, expected: dict[int, float]) -> None:
    assert scheduled(key, name, epochs, tuple(expected)) == pytest.approx(list(expected.values()), abs=5e-6)


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (drnas.Config(), 2_986_462),
        (dropnas.Config(), 3_239_674),
        (dartsminus.Config(), 1_971_578),
    ],
)
def test_sizes_of_the_supernets(config: Any, weights: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in Supernet(config.first(SPACE), 10).parameters()) == weights


def test_the_space_of_drnas_has_no_none() -> None:
    stage = drnas.Config().first(SPACE)
    assert {names for cell in stage.operations for names in cell} == {PRIMITIVES[1:]}
    assert sum(p.numel() for p in Architecture(stage, SPACE).parameters()) == 196

    class Whole(SearchSpace):
        """One in which `none` may be chosen."""

        kept = None

    assert drnas.Config(kept=0).first(Whole()).operations == Whole().everything


def test_the_outline_of_drnas_has_the_dearest_operations() -> None:
    """So that what is measured on it bounds the cost of the second half."""
    whole = space_of("nasbench201")
    for space, kept, left in (
        (SPACE, 1, ("sep_conv_5x5",)),
        (SPACE, 3, ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_5x5")),
        (whole, 2, ("nor_conv_1x1", "nor_conv_3x3")),
    ):
        first, second = drnas.Config(kept=kept, partial=1).outline(space)
        assert {names for cell in second.operations for names in cell} == {left} and second.continues
        assert len(first.operations) == len(second.operations)
    with pytest.raises(ValueError, match=r"^method\.kept 1: [^\n]*none alone; expected at least 2, or 0$"):
        drnas.Config(kept=1).first(whole)


def test_betadarts_adds_the_mean_logsumexp() -> None:
    alphas = [row(requires_grad=True), torch.cat([row(), row()])]
    loss = betadarts.Config().arch_loss(alphas, {"lambda": torch.tensor(2.0)})
    near(loss / 2, [2 * 2.7775967], 1e-7)
    near(torch.autograd.grad(loss, alphas[0])[0] / 2, SOFTMAX)


def test_clipping_of_sdarts() -> None:
    d = row((0.3, -0.3, 0.1, -0.1, 0.2, -0.2, 0, 0.05))
    near(sdarts.clipped(row().softmax(1) + d), (0.261454, 0, 0.099416, 0.049841, 0.476083, 0, 0.016515, 0.096691))
    near(sdarts.clipped(row((-3.0, -1, -2, -1))), (0, 1.0, 0, 0))


def test_the_attack_of_sdarts_ends_where_a_linear_loss_says() -> None:
    """The slope is constant, so each step of 2 epsilon / 7 goes the same way; without a rise the clean weights stay."""
    clean, slope = Mixture((row().softmax(1),)), row((1.0, -1, 1, -1, 1, -1, 1, -1))
    epsilon, w = torch.tensor(0.07), row().softmax(1)
    expected = w
    for _ in range(7):
        expected = sdarts.clipped(w + (expected + 0.02 * slope - w).clamp(-0.07, 0.07))
    for sign in (1, -1):
        (found,) = sdarts.attacked(clean, [w], lambda m, s=sign: s * (m.cells[0] * slope).sum(), epsilon, 7)
        raised = (found * slope).sum() * sign > (w * slope).sum() * sign
        assert raised
        if sign == 1:
            torch.testing.assert_close(found, expected)
    (found,) = sdarts.attacked(clean, [w], lambda m: -(m.cells[0] - w).abs().sum(), epsilon, 7)
    assert torch.equal(found, sdarts.clipped(w)), "every move lowers this loss"


@pytest.mark.parametrize("gradient", ["all", "drawn"])
def test_gdas_is_one_hot_with_the_gradient_of_the_softmax(gradient: str) -> None:
    noise, alphas = row((0.1, -0.3, 0.7, 0.2, -0.5, 1, 0, 0.4)), row(requires_grad=True)
    m = gdas.straight_through(alphas, noise, 1.0, gradient)
    assert m.tolist() == [[0, 0, 0, 0, 1, 0, 0, 0]] and PRIMITIVES[4] == "sep_conv_3x3"
    p = (alphas.log_softmax(1) + noise).softmax(1)
    near(p, (0.067185, 0.074251, 0.074251, 0.201835, 0.272448, 0.165248, 0.022364, 0.122419))
    over = row((0.3, -1, 2, 0.5, 1, 0, -2, 4))
    expected = (p * over).sum() if gradient == "all" else p[0, 4] * over[0, 4]
    near(*(torch.autograd.grad(x, alphas)[0] for x in ((m * over).sum(), expected)), 1e-12)


def test_gdas_draws_each_operation_as_often_as_its_softmax() -> None:
    """The Gumbel-max trick, at any temperature."""
    torch.manual_seed(0)
    alphas = row().expand(20_000, -1)
    for tau in (10.0, 0.1):
        m = gdas.straight_through(alphas, gdas.gumbel(alphas), tau)
        assert m.sum(1).eq(1).all() and m.unique().tolist() == [0, 1]
        near(m.mean(0), SOFTMAX, 4 * (0.25 / 20_000) ** 0.5)


def test_a_node_of_gdas_may_read_one_input_twice() -> None:
    method, generator = gdas.Config(), torch.Generator().manual_seed(0)
    weights = torch.rand(14, 8, generator=generator).softmax(1)
    weights[:, 0] = 0.9  # `none` is never chosen
    weights[1, 4:6] = torch.tensor([0.8, 0.7])
    found = method.genotype(SPACE, method.first(SPACE), Relaxation((weights.tolist(),) * 2))
    assert found.normal == found.reduce and found.normal[:2] == ((PRIMITIVES[4], 1), (PRIMITIVES[5], 1))
    first = 0
    for node, number in enumerate((2, 3, 4, 5)):
        of_node = weights[first : first + number, 1:]
        best = of_node.flatten().topk(2).indices.tolist()
        assert found.normal[2 * node : 2 * node + 2] == tuple((PRIMITIVES[1 + i % 7], i // 7) for i in best)
        first += number


def test_drops_of_dropnas() -> None:
    mask = row((1, 1, 0, 1, 1, 0, 1, 1)).bool()
    weights = dropnas.masked_softmax(row(), mask)
    near(weights, (0.069090, 0.113911, 0, 0.187807, 0.510513, 0, 0.025417, 0.093262))
    # the share of exp(alpha) of the operations that are left, before a step and after
    after = row() + 0.3 * torch.randn(1, 8)
    restored = dropnas.share_restored(row(), after, weights)
    torch.testing.assert_close(restored.softmax(1)[mask].sum(), row().softmax(1)[mask].sum())
    assert (restored - after)[mask].std() < 1e-12 and torch.equal(restored[~mask], after[~mask])
    assert torch.equal(dropnas.share_restored(row(), after, row().softmax(1)), after), "nothing was dropped"


@pytest.mark.parametrize(("rate", "p"), [(3e-5, 0.0740083), (0.3, 0.3**0.25)])
def test_how_often_dropnas_drops(rate: float, p: float) -> None:
    torch.manual_seed(0)
    masks = dropnas.drawn_mask((PRIMITIVES,) * 10_000, rate)
    assert masks[:, :4].any(1).all() and masks[:, 4:].any(1).all(), "no group loses all"
    left = 1 - (p - p**4) / (1 - p**4)  # of those draws in which not all four are dropped
    near(masks.double().mean(0), [left] * 8, 4 * (left * (1 - left) / 10_000) ** 0.5)


def test_weights_and_loss_of_fair_darts() -> None:
    method, cell = fairdarts.Config(strength=1.0), CellType("normal", (PRIMITIVES,))
    near(method.relaxed(cell, row(), {}), (0.5, 0.622459, 0.377541, 0.731059, 0.880797, 0.5, 0.268941, 0.574443))
    near(method.arch_loss([row(), torch.cat([row(), row()])], {}), [-0.0359146], 5e-8)
    assert sum(p.numel() for p in Architecture(method.first(SPACE), SPACE).parameters()) == 196


def test_genotype_of_fair_darts_has_what_is_above_the_threshold() -> None:
    """A node without an edge vanishes with what reads it; a cell without any keeps its strongest from an input."""
    method = fairdarts.Config()
    weights, low = torch.full((14, 7), 0.1), torch.full((14, 7), 0.1)
    for edge, column, weight in ((0, 3, 0.9), (1, 4, 0.95), (2, 3, 0.8), (7, 2, 0.99), (8, 1, 0.97), (9, 3, 0.85)):
        weights[edge, column] = (
            weight  # edges 0-1: node 2; 2-4: node 3; 5-8: node 4, where 8 reads node 3; 9-13: node 5
        )
    low[3, 5], low[4, 6] = 0.6, 0.7
    found = method.genotype(SPACE, method.first(SPACE), Relaxation((weights.tolist(), low.tolist())))
    names = PRIMITIVES[1:]
    assert found.normal[:2] == ((names[4], 1), (names[3], 0)) and found.normal_concat == (2, 4, 5)
    assert [name for name, _ in found.normal[2:4]] == ["none", "none"]
    assert found.normal[4:6] == ((names[2], 2), ("none", 3)) and found.normal[6] == (names[3], 0)
    assert found.normal[7][0] == "none" and found.connected
    assert [edge for edge in found.reduce if edge[0] != "none"] == [(names[5], 1)] and found.reduce_concat == (3,)


def concentrations() -> torch.Tensor:
    found = drnas.concentrations(row())
    near(found, (1, 1.5, 0.606531, 2, 3, 1, 0.367879, 1.3))
    return found


def test_concentrations_of_drnas_are_elu_plus_one_and_never_0() -> None:
    alphas = torch.tensor([[-50.0, -5, -0.1, 0.1, 5]], requires_grad=True)
    found = drnas.concentrations(alphas)
    torch.testing.assert_close(found[:, 1:], torch.nn.functional.elu(alphas[:, 1:]) + 1)
    assert found[0, 0].item() == pytest.approx(1.9287498e-22)
    near(torch.autograd.grad(found.sum(), alphas)[0], (1.9287e-22, 0.0067379, 0.904837, 1, 1))
    assert concentrations().sum().item() == pytest.approx(10.774410)


def test_the_law_of_drnas_is_dirichlets() -> None:
    """Mean and variance of the law, and quantiles against torch's own draws."""
    torch.manual_seed(0)
    n, c = 40_000, concentrations()
    drawn = _dirichlet.dirichlet(c.expand(n, -1).contiguous())
    torch.testing.assert_close(drawn.sum(1), torch.ones(n))
    mean = c[0] / 10.774410
    variance = mean * (1 - mean) / 11.774410
    assert ((drawn.mean(0) - mean).abs() < 4 * (variance / n).sqrt()).all()
    torch.testing.assert_close(drawn.var(0), variance, rtol=0.06, atol=0)
    theirs = Dirichlet(c[0]).sample((n,))
    steps = torch.linspace(0, 1, 101)[1:-1]
    for ours, others in zip(drawn.T, theirs.T, strict=True):
        below = (torch.searchsorted(others.sort().values, ours.quantile(steps)) / n).to(steps.dtype)
        assert (below - steps).abs().max() < 2.2 * (2 / n) ** 0.5  # Kolmogorov-Smirnov, 1 in 8,000


def test_the_gradient_of_drnas_is_that_of_torchs_dirichlet() -> None:
    torch.manual_seed(0)
    n, over = 40_000, torch.arange(8.0)
    c = concentrations().detach().expand(n, -1).clone().requires_grad_()
    total = torch.tensor(10.774410)
    # of the mean of over @ draw, whose derivative is known
    exact = over / total - (concentrations()[0] * over).sum() / total**2
    for draw in (_dirichlet.dirichlet(c), Dirichlet(c).rsample()):
        (found,) = torch.autograd.grad((draw * over).sum(), c)
        assert ((found.mean(0) - exact).abs() < 4 * found.std(0) / n**0.5).all()


def test_hardly_any_concentration_gives_no_nan() -> None:
    torch.manual_seed(0)
    c = torch.full((50, 7), 1e-6, requires_grad=True)
    drawn = _dirichlet.dirichlet(c)
    (slope,) = torch.autograd.grad(drawn[:, 0].sum(), c)
    assert drawn.isfinite().all() and slope.isfinite().all()
    torch.testing.assert_close(drawn.sum(1), torch.ones(50))


def test_distance_from_the_even_law() -> None:
    c = torch.cat([concentrations(), torch.ones(1, 8)])
    found = _dirichlet.kl_to_uniform(c)
    torch.testing.assert_close(found, kl_divergence(Dirichlet(c), Dirichlet(torch.ones(2, 8))))
    assert found[1].abs() < 1e-12
    alphas = [row(), torch.zeros(2, 8)]
    assert drnas.Config(kl=2.0).arch_loss(alphas, {}) == pytest.approx(2 * found[0].item())
    assert drnas.Config().arch_loss(alphas, {}) == 0.0


def test_what_is_drawn_is_the_same_in_each_pass_of_a_stream() -> None:
    from dasgm.bilevel import replay

    cell = CellType("normal", (PRIMITIVES,) * 14)
    for key in ("gdas", "drnas", "dropnas"):
        method, alphas = plugin("methods", key)(), torch.randn(14, 8)
        times = {"tau": torch.tensor(1.0)}
        drawn = []
        for stream in (1, 1, 2):
            with replay(stream):
                drawn.append(method.mixture(cell, alphas, times))
        assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
        assert torch.equal(method.relaxed(cell, alphas, times), alphas.softmax(1))
