"""How close generated images are to the training set: FID and IS by Inception, and `fd_proxy` by the judge.

Every `fidelity_every` epochs FID and IS are computed from 10,000 images (torchmetrics' streaming sums), at the end from
50,000 (torch-fidelity), in both cases from at most as many as the training set has. Each figure comes with its
protocol, without which it cannot be compared.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import torch
from torch import Tensor, nn

from dasgm.adversary import Adversary
from dasgm.bilevel import full_precision, replay, seed_of
from dasgm.config import PretrainConfig, SearchConfig
from dasgm.measures.judge import Judge
from dasgm.options import option
from dasgm.store.files import contents, exclusive, printable, write_atomic

SAMPLES, REPORTED, JUDGED = 10_000, 50_000, 1_000  # images: for FID and IS within a run, at its end, for fd_proxy
BATCH, SPLITS = 50, 10  # batch size of G and of Inception; splits of IS
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # of weights-inception-2015-12-05
MOST = 256 * 2**20  # bytes of a file of weights; the published one has 91 MiB
NETWORK = "inception-v3-compat"  # its name in torch-fidelity


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """The squared Fréchet distance of two Gaussians with means [d] and covariances [d, d] (Heusel et al.

    2017, Eq. 6).

    It is |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2), in float64. The last trace is computed from the symmetric (C1^1/2
    C2 C1^1/2)^1/2, so that no complex numbers occur.
    """
    m1, C1, m2, C2 = (t.double() for t in (mean1, covariance1, mean2, covariance2))
    values, vectors = torch.linalg.eigh(C1)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.mT
    inner = root @ C2 @ root
    cross = torch.linalg.eigvalsh((inner + inner.mT) / 2).clamp_min(0).sqrt().sum()
    return ((m1 - m2).square().sum() + C1.trace() + C2.trace() - 2 * cross).item()


def inception_score(logits: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """The Inception score of logits [n, c]: mean and standard deviation over the splits (Salimans et al. 2016).

    Each split gives exp of the mean KL(p(y|x) || p(y)). The images must be in random order. Splits and standard
    deviation (divided by `splits`) are computed as in torch-fidelity.
    """
    n, log_p = len(logits), logits.double().log_softmax(1)
    scores = []
    for i in range(splits):
        part = log_p[i * n // splits : (i + 1) * n // splits]
        log_marginal = part.logsumexp(0) - torch.tensor(len(part), dtype=torch.float64).log()
        scores.append((part.exp() * (part - log_marginal)).sum(1).mean().exp())
    found = torch.stack(scores)
    return found.mean().item(), found.std(correction=0).item()


def moments(features: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean [d] and covariance [d, d] of batches of features [n_i, d], in float64 on the CPU."""
    n, total, outer = 0, torch.zeros(()), torch.zeros(())
    for batch in features:
        x = batch.cpu().double()
        n, total, outer = n + len(x), total + x.sum(0), outer + x.mT @ x
    assert n > 1, n
    mean = total / n
    return mean, (outer - n * mean.outer(mean)) / (n - 1)


def quantised(images: Tensor) -> Tensor:
    """Converts [-1, 1] to uint8 with rounding, as image files store it."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def generated(gan: Adversary, n: int, seed: int) -> Iterator[Tensor]:
    """Generates n images of the averaged generator, as uint8 batches of `BATCH`, with uniform labels.

    A seed repeats the draws.

    G is in training mode, as in the search: batch norm uses the statistics of the whole batch.
    """
    G = gan.G.averaged()
    for i in range(-(-n // BATCH)):
        z, y = gan.draw(BATCH, seed_of(seed, i))
        with replay(seed, i, "G"), torch.no_grad():
            x = G(z, y)
        yield quantised(x)[: n - i * BATCH]


# Inception's weights


def inception(path: str | Path) -> tuple[nn.Module, str]:
    """torch-fidelity's Inception with the weights of a file, on the CPU, and a description of the weights for the
    protocol.

    The network returns 2048 features of uint8 images, and their logits (without bias, as IS uses them). The published
    file is a pickle, which its SHA-256 proves; other weights may come from anybody, so they are read as safetensors.

    Raises:
        ValueError: the file is missing or holds something else. The message is one line.
    """
    from safetensors.torch import load
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = Path(path)
    wanted = "expected torch-fidelity's weights-inception-2015-12-05-6726825d.pth, or others as a safetensors file"
    try:
        content = contents(path, MOST)
        found = hashlib.sha256(content).hexdigest()
        published = found == SHA256  # the published file may have an older torch format
        state = torch.load(io.BytesIO(content), "cpu", weights_only=True) if published else load(content)
        with _as_file(state) as clean, replay("never drawn from"):
            network = FeatureExtractorInceptionV3(NETWORK, ["2048", "logits_unbiased"], clean)
    except OSError as error:
        raise ValueError(f"inception-weights {path}: {error.strerror}; {wanted}") from None
    except Exception:  # torch raises many types for a file that is not its own or holds another network
        raise ValueError(f"inception-weights {path}: not the weights of Inception; {wanted}") from None
    if published:
        return network, "Inception 2015-12-05"
    return network, f"Inception with OTHER weights than 2015-12-05 (sha256 {found[:8]}): comparable with nothing else"


@contextmanager
def _as_file(state: dict[str, Any]) -> Iterator[str]:
    """What was read safely, as a temporary file of our own. torch-fidelity unpickles any file that it is given."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inception.pth"
        torch.save(state, path)
        yield str(path)


def downloaded(say: Callable[[str], None] = print) -> Path:
    """The path at which torch-fidelity keeps Inception's weights.

    They are downloaded if the file is missing or broken.

    Raises:
        OSError: they cannot be downloaded. An existing file is kept.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
    with exclusive(path.with_suffix(".lock")):
        if why := _unusable(path):
            if path.exists():
                say(printable(f"{why}; it is downloaded again"))
            try:
                with urlopen(URL_INCEPTION_V3, timeout=20) as answer:
                    content = answer.read()
            except HTTPException as error:
                raise OSError(str(error)) from None
            if hashlib.sha256(content).hexdigest() != SHA256:
                raise OSError("the downloaded file has another SHA-256")
            write_atomic(path, content)
    return path


def _unusable(path: Path) -> str:
    """Why a file does not hold weights of Inception; '' if it does.

    The user's own weights in that place are accepted.
    """
    try:
        if hashlib.sha256(contents(path, MOST)).hexdigest() != SHA256:
            inception(path)
    except FileNotFoundError:
        return "there is none"
    except (OSError, ValueError) as error:
        return str(error)
    return ""


# a run's figures


class _Given(nn.Module):
    """Passes features through, for torchmetrics. They are computed once, for FID and for IS."""

    num_features = 2048

    def forward(self, x: Tensor) -> Tensor:
        return x


class _Images(torch.utils.data.Dataset[Tensor]):
    def __init__(self, images: Tensor, interrupt_check: Callable[[], None]):
        self.images, self.interrupt_check = images, interrupt_check

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        self.interrupt_check()
        return self.images[i]


class Fidelity:
    """The figures of one search or pre-training.

    Only rank 0 computes them, so they do not depend on the number of workers.

    The reference is the whole training set (J_1, J_2 and J_val), as in published figures, although G learns from J_2
    only.

    Raises:
        ValueError: `inception_weights` does not name such a file. If weights cannot be downloaded, a line says so.
    """

    def __init__(
        self,
        config: SearchConfig | PretrainConfig,
        data: Any,
        gan: Adversary,
        judge: Judge,
        say: Callable[[str], None] = print,
    ):
        self.config, self.data, self.gan, self.judge, self.say = config, data, gan, judge, say
        self.train = torch.cat([data.J1, data.J2, data.Jval])
        self.seed = seed_of(config.seed, "fidelity")
        self.inception: nn.Module | None = None
        self.protocols = {"gan/fd_proxy": self._proxy_protocol()}
        self._judged: tuple[Tensor, Tensor] | None = None
        self._fid: Any = None  # torchmetrics' object, which keeps the sums of the training set
        if config.fidelity_every or config.inception_weights:
            self._find_inception()

    def measure(self, epoch: int) -> dict[str, float]:
        """The figures of an epoch: `fd_proxy`, and every `fidelity_every` epochs also FID and IS."""
        row = self.proxy()
        every = self.config.fidelity_every
        if self.inception is None or not every or epoch % every:
            return row
        fid, (score, sd) = self._fid_and_is()
        self.say(f"epoch {epoch}: FID {fid:.2f}, IS {score:.2f} ± {sd:.2f} ({self.protocols['gan/fid']})")
        return row | {"gan/fid": fid, "gan/is": score, "gan/is_sd": sd}

    @full_precision()
    @torch.no_grad()
    def proxy(self) -> dict[str, float]:
        """`fd_proxy` of the averaged generator as it is now."""

        def features(batches: Iterable[Tensor]) -> Iterator[Tensor]:
            for x in batches:
                yield self.judge.network.features(self.data.to_classifier(x.float() / 127.5 - 1))

        if self._judged is None:
            self._judged = moments(features(self._real()))
        fake = generated(self.gan, self._count(JUDGED), seed_of(self.seed, "judged"))
        return {"gan/fd_proxy": frechet_distance(*moments(features(fake)), *self._judged)}

    @full_precision()
    def report(self, interrupt_check: Callable[[], None] = lambda: None) -> dict[str, float]:
        """The figures to be reported, by torch-fidelity; {} without Inception.

        Args:
            interrupt_check: is called between batches.
        """
        if self.inception is None:
            return {}
        from torch_fidelity import calculate_metrics

        images = []
        for batch in generated(self.gan, self._count(REPORTED), seed_of(self.seed, "report")):
            interrupt_check()
            images.append(batch.cpu())
        with _as_file(self.inception.state_dict()) as weights:
            found = calculate_metrics(
                input1=_Images(torch.cat(images), interrupt_check),
                input2=_Images(self.data.images[self.train].cpu(), interrupt_check),
                fid=True,
                isc=True,
                isc_splits=SPLITS,
                feature_extractor=NETWORK,
                feature_extractor_weights_path=weights,
                batch_size=BATCH,
                cuda=self.gan.device.type == "cuda",
                cache=False,  # a cache would be unpickled
                save_cpu_ram=True,  # starts no processes
                verbose=False,
            )
        fid, score, sd = (
            found[key] for key in ("frechet_inception_distance", "inception_score_mean", "inception_score_std")
        )
        self.say(f"at the end: FID {fid:.2f}, IS {score:.2f} ± {sd:.2f} ({self.protocols['best/fid']})")
        return {"best/fid": fid, "best/is": score, "best/is_sd": sd}

    # the parts

    def _count(self, most: int) -> int:
        return min(most, len(self.train))

    def _real(self) -> Iterator[Tensor]:
        return (self.data.images[i] for i in self.train.split(BATCH))

    def _find_inception(self) -> None:
        path: str | Path | None = self.config.inception_weights
        try:
            network, weights = inception(path or downloaded(self.say))
        except OSError as error:
            self.say(
                f"no FID and IS: Inception's weights could not be downloaded ({error}); "
                f"name the file with {option('inception_weights')}. fd_proxy is logged instead"
            )
            return
        self.inception = network.to(self.gan.device)
        tools = {
            "gan": (SAMPLES, f"torchmetrics {version('torchmetrics')}"),
            "best": (REPORTED, f"torch-fidelity {version('torch-fidelity')}"),
        }
        for prefix, (most, tool) in tools.items():
            n = self._count(most)
            k = f"{n // 1000}k" if n % 1000 == 0 else str(n)
            images = self._images_protocol(n)
            self.protocols[f"{prefix}/fid"] = f"FID-{k}: {images}, against {self._reference()}; {tool}, {weights}"
            own = tool if prefix == "best" else "own sum over the same pass"
            self.protocols[f"{prefix}/is"] = f"IS-{k}, {SPLITS} splits: {images}; {own}, {weights}"

    def _images_protocol(self, n: int) -> str:
        normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.gan.gan.generator.modules())
        norm = f"batch statistics of {BATCH}" if normed else "no batch norm"
        size = self.data.image_size
        return f"{n:,} images of the averaged G, {norm}, uniform labels, no truncation, uint8, {size}x{size} pixels"

    def _reference(self) -> str:
        parts = "J_1, J_2, J_val" if len(self.data.Jval) else "J_1, J_2"
        return f"all {len(self.train):,} training images ({parts}; G saw J_2 alone)"

    def _proxy_protocol(self) -> str:
        return (
            f"fd_proxy, not FID: Fréchet distance of 64 features of a small CNN trained on J_1 (accuracy "
            f"{self.judge.accuracy:.3f} on {self.judge.measured_on}), {self._images_protocol(self._count(JUDGED))}, "
            f"against {self._reference()}; comparable on this data set and split alone"
        )

    @full_precision()
    @torch.no_grad()
    def _fid_and_is(self) -> tuple[float, tuple[float, float]]:
        assert self.inception is not None
        if self._fid is None:
            from torchmetrics.image.fid import FrechetInceptionDistance

            where = self.gan.device if self.gan.device.type != "mps" else "cpu"  # mps has no float64
            # no sync: only this worker computes it
            self._fid = FrechetInceptionDistance(_Given(), reset_real_features=False, sync_on_compute=False).to(where)
            for x in self._real():
                self._fid.update(self.inception(x)[0].double().to(where), real=True)
        logits = []
        for x in generated(self.gan, self._count(SAMPLES), seed_of(self.seed, "epoch")):
            features, batch_logits = self.inception(x)
            self._fid.update(features.double().to(self._fid.device), real=False)
            logits.append(batch_logits.cpu())
        fid = self._fid.compute().item()
        self._fid.reset()
        return fid, inception_score(torch.cat(logits))
