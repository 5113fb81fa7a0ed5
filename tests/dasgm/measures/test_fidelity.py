"""FID, IS and fd_proxy against independent computations; Inception with random weights, as the published file."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dasgm.config import PretrainConfig, SearchConfig, override
from dasgm.data._base import DataConfig
from dasgm.data._images import Data
from dasgm.jobs.pretrain import main as pretrain
from dasgm.jobs.search import fits, main
from dasgm.measures import fidelity
from dasgm.measures.fidelity import (
    Fidelity,
    frechet_distance,
    generated,
    inception,
    inception_score,
    moments,
    quantised,
)
from dasgm.measures.judge import Judge, JudgeNetwork
from dasgm.pages.figures import nearest, nearest_grid
from dasgm.pages.report import report
from dasgm.presets import PRESETS, preset
from dasgm.search import Search
from dasgm.store.records import read_json, read_lines

TINY = {"gan.channels": 4, "gan.shared_dim": 8, "gan.z_dim": 16, "gan.warmup": 0, "method.channels": 2}


# numbers


@pytest.mark.parametrize(("d", "n"), [(5, 400), (12, 8), (40, 60)])  # 12 features of 8 samples: singular
def test_frechet_distance_is_scipys(d: int, n: int) -> None:
    rng = np.random.default_rng(d)
    x, y = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), 0.5 + rng.normal(size=(n + 3, d)) ** 3
    (m1, C1), (m2, C2) = ((s.mean(0), np.cov(s, rowvar=False)) for s in (x, y))
    expected = ((m1 - m2) ** 2).sum() + np.trace(C1 + C2 - 2 * scipy.linalg.sqrtm(C1 @ C2).real)
    found = [moments(torch.from_numpy(s).split(7)) for s in (x, y)]
    assert np.allclose(found[0][1], C1) and np.allclose(found[1][0], m2)
    assert frechet_distance(*found[0], *found[1]) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(*found[0], *found[0]) == pytest.approx(0, abs=1e-6 * np.trace(C1))


def test_frechet_distance_of_known_gaussians() -> None:
    """Commuting covariances: |m|^2 + sum (sqrt a - sqrt b)^2."""
    one, other = torch.tensor([1.0, 4.0, 9.0]).diag(), torch.tensor([4.0, 4.0, 1.0]).diag()
    mean = torch.tensor([1.0, 0.0, 2.0])
    assert frechet_distance(mean, one, torch.zeros(3), other) == pytest.approx(5 + 1 + 0 + 4)


def test_inception_score_is_the_formula() -> None:
    logits = torch.randn(103, 7, generator=torch.Generator().manual_seed(0)) * 2
    scores = []
    for i in range(10):
        p = np.exp(logits.double().numpy()[i * 103 // 10 : (i + 1) * 103 // 10])
        p /= p.sum(1, keepdims=True)
        scores.append(np.exp((p * np.log(p / p.mean(0))).sum(1).mean()))
    assert inception_score(logits) == pytest.approx((np.mean(scores), np.std(scores)))
    certain = 1e3 * torch.eye(5).repeat(20, 1)  # sure of each image, all five classes alike
    assert inception_score(certain) == pytest.approx((5.0, 0.0))
    assert inception_score(torch.zeros(50, 8)) == pytest.approx((1.0, 0.0))


def test_quantised_is_what_a_file_holds() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(quantised(levels.float() / 127.5 - 1), levels)
    assert quantised(torch.tensor([-1.2, 1.2, 0.0])).tolist() == [0, 255, 128]


# Inception


@pytest.fixture(scope="module", autouse=True)
def smaller() -> Iterator[None]:
    """Inception sees 107 pixels instead of 299, for the tests' sake: an eighth of the time, by the same path."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", 107)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, scaled so that features are about 1, as torch-fidelity's file holds them."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.manual_seed(0)
    for m in network.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight)
    nn.init.normal_(network.fc.weight, std=0.1)
    save_file(network.state_dict(), path)
    return path


def toy_data(n: int = 24, size: int = 16) -> Data:
    rng = torch.Generator().manual_seed(1)
    images = torch.randint(256, (n, 3, size, size), generator=rng, dtype=torch.uint8)
    images[::2] //= 3  # classes differ
    labels = torch.arange(n) % 2
    return Data("toy", ("a", "b"), (images, labels), (images[:4], labels[:4]), DataConfig(size, holdout=0.2))


def toy_judge() -> Judge:
    torch.manual_seed(3)
    return Judge(JudgeNetwork(2).eval(), 0.5, "J_val", 1.0)


def toy_search(data: Data, **changes: object) -> Search:
    return Search(override(preset("quickstart").config, TINY | changes), data)


def distance(x: Tensor, y: Tensor) -> float:
    """FID from few samples: the trace of the root is the nuclear norm of the centred samples' products."""
    (a, b), (n, m) = ((t - t.mean(0) for t in (x.double(), y.double())), (len(x), len(y)))
    cross = torch.linalg.matrix_norm(a @ b.mT, "nuc") / ((n - 1) * (m - 1)) ** 0.5
    spread = a.square().sum() / (n - 1) + b.square().sum() / (m - 1)
    return ((x.double().mean(0) - y.double().mean(0)).square().sum() + spread - 2 * cross).item()


def test_fid_and_is_by_both_libraries(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "SAMPLES", 16)
    monkeypatch.setattr(fidelity, "BATCH", 10)  # the last one is cut
    data, said = toy_data(), []
    search = toy_search(data, fidelity_every=2, inception_weights=str(weights))
    search.iterate()  # the averaged G is another than the live one only after a step
    found = Fidelity(search.config, data, search.gan, toy_judge(), said.append)
    assert "gan/fid" not in found.measure(1)
    row, end = found.measure(2), found.report()
    assert found.measure(2) == row  # the reference is kept, the draws are the same

    network, words = inception(weights)
    assert "OTHER weights" in words
    features = lambda x: network(x)  # noqa: E731
    real = features(data.images[torch.cat([data.J1, data.J2, data.Jval])])[0]
    assert len(real) == 24
    for seed, n, prefix, values in (("epoch", 16, "gan", row), ("report", 24, "best", end)):
        fake = torch.cat(list(generated(search.gan, n, fidelity.seed_of(found.seed, seed))))
        assert fake.shape == (n, 3, 16, 16) and fake.dtype == torch.uint8
        pool, logits = features(fake)
        assert values[f"{prefix}/fid"] == pytest.approx(distance(pool, real), rel=1e-3)
        if prefix == "gan":
            assert (values["gan/is"], values["gan/is_sd"]) == pytest.approx(inception_score(logits), rel=1e-5)
        else:  # torch-fidelity shuffles
            order = np.random.RandomState(2020).permutation(n)
            assert (values["best/is"], values["best/is_sd"]) == pytest.approx(inception_score(logits[order]), rel=1e-4)
    assert "FID-16: 16 images of the averaged G, batch statistics of 10" in found.protocols["gan/fid"]
    assert "all 24 training images (J_1, J_2, J_val; G saw J_2 alone)" in found.protocols["gan/fid"]
    assert "torchmetrics 1.9" in found.protocols["gan/fid"] and "torch-fidelity 0.4" in found.protocols["best/fid"]
    assert any("FID" in line and found.protocols["gan/fid"] in line for line in said)


def test_generated_images_are_the_averaged_generators_and_repeat() -> None:
    search = toy_search(toy_data())
    G = search.gan.G
    for value in G.mean.values():
        value.mul_(0.5)
    before = {k: b.clone() for k, b in G.buffers.items()}
    first, again = (torch.cat(list(generated(search.gan, 60, 7))) for _ in range(2))
    assert torch.equal(first, again) and all(torch.equal(b, before[k]) for k, b in G.buffers.items())
    z, y = search.gan.draw(50, fidelity.seed_of(7, 0))
    with torch.no_grad():
        assert torch.equal(first[:50], quantised(G.averaged()(z, y)))
        assert not torch.equal(first[:50], quantised(G.fixed(z, y)))


def test_fd_proxy_is_the_distance_of_the_judges_features() -> None:
    data, judge = toy_data(), toy_judge()
    search = toy_search(data)
    found = Fidelity(search.config, data, search.gan, judge)
    row = found.measure(1)
    assert set(row) == {"gan/fd_proxy"} == set(found.protocols) and found.report() == {}
    assert "not FID" in found.protocols["gan/fd_proxy"]
    fake = torch.cat(list(generated(search.gan, 24, fidelity.seed_of(found.seed, "judged"))))
    with torch.no_grad():
        a, b = (judge.network.features(data.to_classifier(x / 127.5 - 1)) for x in (fake, data.images))
    assert row["gan/fd_proxy"] == pytest.approx(distance(a, b), rel=1e-6)


@pytest.mark.parametrize("content", [None, b"", b"no weights", "other", "pickle", "list", "code"])
def test_what_is_no_file_of_weights_is_one_line(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "other":
        save_file(nn.Linear(2, 2).state_dict(), path)
    elif content is not None:
        pickled = {"pickle": nn.Linear(2, 2).state_dict(), "list": [1], "code": Hostile(tmp_path / "ran")}
        torch.save(pickled[content], path)
    config = override(preset("quickstart").config, TINY | {"inception_weights": str(path)})
    with pytest.raises(ValueError, match="weights-inception-2015-12-05-6726825d.pth") as error:
        fits(config, config.data.load(None), 1)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


class Hostile:
    """What a hostile file would do when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)


def test_download_is_tried_once_and_only_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def unreachable(url: str, timeout: float) -> None:
        tried.append(url)
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(fidelity, "urlopen", unreachable)
    data, said = toy_data(), []
    search = toy_search(data)
    assert "gan/fd_proxy" in Fidelity(search.config, data, search.gan, toy_judge(), said.append).measure(1)
    assert not tried and not said
    asked = Fidelity(replace(search.config, fidelity_every=1), data, search.gan, toy_judge(), said.append)
    assert set(asked.measure(1)) == {"gan/fd_proxy"} and asked.report() == {} and len(tried) == 1
    (line,) = said
    assert line.startswith("no FID and IS:") and "Name or service not known" in line and "--inception-weights" in line


def test_a_download_that_is_another_file_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(fidelity, "urlopen", lambda *_, **__: io.BytesIO(b"a page that says no"))
    with pytest.raises(OSError, match="another SHA-256"):
        fidelity.downloaded()
    assert not list(tmp_path.rglob("*.pth"))


# a run


class Fake(nn.Module):
    """Stands for Inception where only the way of its numbers is looked at."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(1).float() / 255
        return torch.cat([flat, flat, flat], 1)[:, :2048], flat[:, :30]


def test_a_run_has_its_figures_protocols_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "inception", lambda path: (Fake(), "a fake"))
    monkeypatch.setattr("dasgm.jobs.search.inception", lambda path: None)
    monkeypatch.setattr("torchmetrics.image.fid._compute_fid", frechet_tensor)
    monkeypatch.setattr(fidelity.Fidelity, "report", lambda self, interrupt_check: {"best/fid": 7.25, "best/is": 2.5})
    small = {"method.epochs": 2, "proxy.epochs": 0, "data.limit": 120, "fidelity_every": 2, "inception_weights": "x"}
    config: SearchConfig = override(preset("quickstart").config, TINY | small | {"order": "first"})
    last = main(config, tmp_path / "run")
    rows = read_lines(tmp_path / "run/metrics.jsonl")
    assert "gan/fid" not in rows[0] and {"gan/fid", "gan/is", "gan/is_sd"} <= set(rows[1])
    assert all(row["gan/fd_proxy"] >= 0 for row in rows[:2]) and last["best/fid"] == rows[-1]["best/fid"] == 7.25
    protocols = read_json(tmp_path / "run/run.json")["protocols"]
    assert set(protocols) == {"gan/fd_proxy", "gan/fid", "gan/is", "best/fid", "best/is"}
    names = sorted(path.name for path in (tmp_path / "run/pictures").glob("nearest-*.png"))
    assert names == ["nearest-000.png", "nearest-001.png", "nearest-002.png"]
    page = re.sub(r"\s+", " ", report(tmp_path / "run").read_text())
    for protocol in (protocols["gan/fid"], protocols["gan/fd_proxy"], protocols["best/fid"]):
        assert protocol in page
    assert "FID 7.25" in page and f"<td>{rows[1]['gan/fid']:.2f}</td>" in page and "nearest in pixels" in page
    assert not (tmp_path / "run/report.html").read_text().count("FID NaN")


@pytest.mark.slow
def test_a_pretraining_has_its_figures_and_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "inception", lambda path: (Fake(), "a fake"))
    monkeypatch.setattr("dasgm.jobs.pretrain.inception", lambda path: None)
    monkeypatch.setattr("torchmetrics.image.fid._compute_fid", frechet_tensor)
    monkeypatch.setattr(fidelity.Fidelity, "report", lambda self, interrupt_check: {"best/fid": 7.25, "best/is": 2.5})
    small = {"data.limit": 120, "fidelity_every": 2, "inception_weights": "x", "gan.pretrain_iterations": 210}
    config = PretrainConfig.of(override(preset("quickstart").config, TINY | small))
    last = pretrain(config, tmp_path / "gan")
    rows, about = read_lines(tmp_path / "gan/metrics.jsonl"), read_json(tmp_path / "gan/gan.json")
    assert ["gan/fid" in row for row in rows] == [False, True, False, False] and all(
        "gan/fd_proxy" in r for r in rows[:3]
    )
    assert (about["fid"], about["is"], last["best/fid"]) == (7.25, 2.5, 7.25)
    assert set(about["protocols"]) == {"fd_proxy", "fid", "is"} and "torch-fidelity" in about["protocols"]["fid"]
    assert "FID 7.25" in (tmp_path / "gan/report.html").read_text()
    monkeypatch.undo()
    with pytest.raises(ValueError, match="weights-inception-2015-12-05-6726825d.pth"):
        pretrain(config, tmp_path / "other")


def frechet_tensor(*arguments: Tensor) -> Tensor:
    return torch.tensor(frechet_distance(*arguments))


def test_page_without_protocols_says_so(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"state": "finished", "protocols": 3}))
    measured = [{"gan/fid": 60.0 + e, "gan/is": 2.0, "gan/fd_proxy": 1.0 / e} for e in range(1, 31)]
    rows = [{"epoch": e, "phase": "search 1", "time": 1.0} | one for e, one in enumerate(measured, 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = report(tmp_path).read_text()
    table = page[page.index('id="fidelity"') :]
    assert re.findall(r"<td>([\d.]+)</td>", table[: table.index("</table>")])[:6] == [
        *("10", "20", "30"),
        *("70.00", "80.00", "90.00"),
    ]
    assert "unrecorded protocol" in page


def test_presets_measure_as_the_paper_does() -> None:
    """Table 5: every ten epochs; the small sizes not at all unless asked."""
    for name, found in PRESETS.items():
        assert found.config.fidelity_every == (
            0 if name.startswith(("quickstart", "cifar10-smoke", "fit-small")) else 10
        ), name


# Figure 4


def test_a_training_image_finds_itself(tmp_path: Path) -> None:
    data = toy_data(60)
    some = torch.tensor([5, 0, 17, 42])
    assert torch.equal(nearest(data.images[some], data.labels[some], data.images, data.labels), data.images[some])
    shifted = (data.images[some].int() + torch.tensor([1, -1, 2]).view(3, 1, 1)).clamp(0, 255).to(torch.uint8)
    assert torch.equal(nearest(shifted, data.labels[some], data.images, data.labels), data.images[some])
    other = nearest(data.images[some], 1 - data.labels[some], data.images, data.labels)  # of the class that is asked
    squares = (data.images[some].double()[:, None] - data.images.double()[None]).square().sum((2, 3, 4))
    squares[data.labels[None] == data.labels[some][:, None]] = torch.inf
    assert torch.equal(other, data.images[squares.argmin(1)])
    assert (nearest(data.images[:1], torch.tensor([7]), data.images, data.labels) == 255).all()


def test_nearest_stands_beside_its_sample(tmp_path: Path) -> None:
    from PIL import Image

    images, found = torch.randint(256, (2, 6, 3, 4, 4), dtype=torch.uint8)
    nearest_grid(images, found, tmp_path / "grid.png", columns=3)
    with Image.open(tmp_path / "grid.png") as picture:
        grid = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert grid.shape == (3, 9, 14 + 2 + 14)
    assert torch.equal(grid[:, 5:9, 5:9], images[4]) and torch.equal(grid[:, 5:9, 21:25], found[4])
