"""A run as one value: frozen dataclasses, overridden by path, written and read as JSON. Free of torch."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from dasgm.data._base import YOUNGER, DataConfig
from dasgm.gans._base import GanConfig
from dasgm.genotype import DEFAULT_SPACE, space_of
from dasgm.methods._base import MOST_CELLS, WIDEST, MethodConfig, Stage
from dasgm.methods._cost import CostConfig
from dasgm.options import option
from dasgm.plugins import key_of, nearest, plugin
from dasgm.spaces._base import SearchSpace
from dasgm.store.files import short
from dasgm.store.records import digest

PARTS = {"method": "methods", "gan": "gans", "data": "data"}  # field of a configuration -> folder of its plug-ins
LARGEST_BATCH, MOST_THREADS = 2**20, 1024
PLACEMENT = {"mathematics": False}  # a field that may differ when a run is continued


def _check(config: Any, **bounds: tuple[float | None, float | None]) -> None:
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        ok = math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
        if not ok:
            span = f"between {low} and {high}" if high is not None else f"at least {low}"
            raise ValueError(f"{name.replace('_', '-')} {value}: expected a number {span}")


def _check_placement(config: Any) -> None:
    if config.threads is not None:
        _check(config, threads=(1, MOST_THREADS))
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?|mps", config.device):
        raise ValueError(f"device {short(config.device)}: expected auto, cpu, cuda, cuda:N or mps")


@dataclass(frozen=True)
class ProxyConfig:
    """The short training from scratch on J_1, measured on J_val, and the size of the network that both scores of a
    genotype are of: this one and NASWOT's."""

    epochs: int = 0
    """Number of epochs for which the found network is trained on J_1 to rank it (our choice).
    0 leaves this out, and NASWOT too."""
    cells: int = 8
    """Number of cells of the network that is trained to rank a genotype (our choice)."""
    channels: int = 16
    """Number of channels in the first cells of the network that ranks a genotype (our choice)."""
    batch_size: int = 64
    """Number of images in a batch of the training that ranks a genotype (our choice)."""
    lr: float = 0.025
    """Initial learning rate of the training that ranks a genotype (SGD, cosine to 0; DARTS: 0.025)."""

    def __post_init__(self) -> None:
        widths = {"cells": (3, MOST_CELLS), "channels": (1, WIDEST)}
        _check(self, epochs=(0, None), batch_size=(2, LARGEST_BATCH), lr=(0, None), **widths)


@dataclass(frozen=True)
class SearchConfig:
    """One search: Algorithm 1 with a method, a GAN (or none) and a data set."""

    method: MethodConfig
    gan: GanConfig | None
    data: DataConfig
    search_space: str = field(default=DEFAULT_SPACE, metadata=YOUNGER)
    """Space of cells that is searched (DARTS: darts)."""
    order: Literal["first", "second"] = "second"
    """Order of the gradient of A (Eq. 6).
    The second order differentiates through the step of W in Eq. 3, the first order does not (DARTS)."""
    search_discriminator: bool = True
    """Search the architecture B of the discriminator (Eq. 7).
    Otherwise the discriminator keeps the GAN's own layers."""
    hypergradient: Literal["difference", "exact"] = "difference"
    """How mixed second derivatives are computed: by a central difference (DARTS, Section 2.3), or exactly.
    Exact ones come from automatic differentiation, which does not see the kinks of ReLU and max pooling."""
    inner: Literal["taken", "sgd"] = "taken"
    """Generator step that Eq. 7 differentiates.
    The default, taken, is the step of the GAN's optimizer (our choice); sgd is the plain step of Eq. 4."""
    val_portion: float = 0.0
    """Share of real images of J_2 in a batch of J_3, from 0 to 1 (paper, Section 5.3: 0.3, 0.5, 0.7).
    The other images are generated."""
    batch_size: int = 64
    """Number of images in a batch of J_1, of J_2 and of J_3, per worker (paper, Section 5.2: 64)."""
    classifier_lr: float = 0.025
    """Initial learning rate of the supernet's weights W (Eq. 3, SGD; DARTS: 0.025)."""
    classifier_lr_min: float = 0.001
    """Learning rate of W at the end of its cosine schedule (DARTS: 0.001; P-DARTS and PC-DARTS: 0)."""
    classifier_momentum: float = 0.9
    """Momentum of W's SGD (DARTS: 0.9)."""
    classifier_nesterov: bool = field(default=False, metadata=YOUNGER)
    """Use Nesterov's momentum for W (NAS-Bench-201: yes)."""
    classifier_weight_decay: float = 3e-4
    """Weight decay of W (DARTS: 3e-4)."""
    classifier_clip: float = 5.0
    """Largest norm of the gradient of W; a longer one is scaled down to it, 0 sets no limit (DARTS: 5)."""
    arch_lr: float = 3e-4
    """Learning rate of the architecture A (Eq. 6, Adam; DARTS: 3e-4; P-DARTS and PC-DARTS: 6e-4)."""
    arch_beta1: float = field(default=0.5, metadata=YOUNGER)
    """First beta of A's Adam, from 0 to below 1 (DARTS: 0.5; Fair DARTS's code: 0.9). The second is 0.999."""
    arch_weight_decay: float = 1e-3
    """Weight decay of A (DARTS: 1e-3)."""
    arch_clip: float = 0.0
    """Largest norm of the gradient of A; a longer one is scaled down to it, 0 sets no limit (P-DARTS's code: 5)."""
    discriminator_arch_lr: float = 3e-4
    """Learning rate of the discriminator's architecture B (eta_b of Eq. 7, Adam). The paper gives none: our choice."""
    discriminator_steps: int = 1
    """Number of discriminator steps after each generator step (Algorithm 1: 1)."""
    freeze_gan: bool = False
    """Keep a pre-trained GAN as it is: G, E and B are never changed (paper, Section 5.3: "+ 30, 50, 70 % Val")."""
    stop_skips: int = 0
    """End a stage after the epoch in which the normal cell has this many skip connections (DARTS+: 2); 0 never does.
    With P-DARTS, skip connections are counted before its cap removes any."""
    stop_entropy: float = 0.0
    """End a stage once the mean entropy of the normal cell's edges is below this, in nats; 0 never does (our choice).
    The entropy is at most 2.08 with 8 operations per edge, and 1.10 with 3."""
    hessian_every: int = field(default=0, metadata=PLACEMENT)
    """Number of epochs between estimates of the largest eigenvalue of A's Hessian (Zela et al., 2020); 0 makes none."""
    sync_batch_norm: bool = False
    """Compute batch norm's statistics over the batches of all workers; needs GPUs.
    Otherwise each worker uses its own batch (our choice)."""
    proxy: ProxyConfig = ProxyConfig()
    cost: CostConfig = field(default=CostConfig(), metadata=YOUNGER)
    seed: int = 0
    """Seed of everything random: initial weights, batches, noise. The data split has its own (--data.split-seed)."""
    gan_checkpoint: str | None = field(default=None, metadata=PLACEMENT)
    """Folder or file of a pre-trained GAN to begin with (`dasgm pretrain` makes one). None begins with a new GAN."""
    data_dir: str | None = field(default=None, metadata=PLACEMENT)
    """Folder with the data set's files. A continued run may name another folder if the files hold the same data."""
    device: str = field(default="auto", metadata=PLACEMENT)
    """Device to compute on: auto (a GPU if there is one), cpu, cuda, cuda:N (GPU number N) or mps."""
    cuda_graph: Literal["off", "on", "auto"] = field(default="off", metadata=PLACEMENT)
    """Record an iteration as a CUDA graph, which a GPU repeats by itself: off, on, or auto (only if it works).
    The GAN's warm-up and pre-training and the proxy are taken without one."""
    threads: int | None = field(default=None, metadata=PLACEMENT)
    """Number of CPU threads per worker; None uses PyTorch's default. A continued run keeps its number."""
    checkpoints: int = field(default=2, metadata=PLACEMENT)
    """Number of most recent checkpoints to keep, in addition to the best one."""
    pictures_every: int = field(default=5, metadata=PLACEMENT)
    """Number of epochs between two pictures of the cells and of generated images."""
    fidelity_every: int = field(default=0, metadata=PLACEMENT)
    """Number of epochs between two measurements of FID and IS (paper, Table 5: 10).
    0 measures them only at the end, and only if --inception-weights is given."""
    inception_weights: str | None = field(default=None, metadata=PLACEMENT)
    """File with the Inception weights for FID and IS: weights-inception-2015-12-05-6726825d.pth, or safetensors.
    None downloads the file when it is needed."""
    truth: str | None = field(default=None, metadata=PLACEMENT)
    """File with the true accuracies of all cells of the search space, as `dasgm lookup` reads it: what each epoch's
    genotype is worth is logged as truth/.... The search does not read it."""

    def __post_init__(self) -> None:
        rates = ("classifier_lr", "classifier_lr_min", "arch_lr", "discriminator_arch_lr")
        weights = ("classifier_weight_decay", "classifier_clip", "arch_weight_decay", "arch_clip")
        others = ("stop_skips", "stop_entropy", "hessian_every", "fidelity_every")
        at_least_1 = ("discriminator_steps", "checkpoints", "pictures_every")
        _check(self, val_portion=(0, 1), batch_size=(2, LARGEST_BATCH), classifier_momentum=(0, 1))
        _check(self, **dict.fromkeys((*rates, *weights, *others), (0, None)), **dict.fromkeys(at_least_1, (1, None)))
        _check_placement(self)
        if not 0 <= self.arch_beta1 < 1:
            raise ValueError(f"arch-beta1 {self.arch_beta1}: expected a number from 0 to below 1")
        if self.classifier_nesterov and not self.classifier_momentum:
            raise ValueError("classifier-nesterov: classifier-momentum is 0; expected a momentum, such as 0.9")
        space_of(self.search_space)
        if (spaces := self.method.spaces) and self.search_space not in spaces:
            raise ValueError(
                f"search-space {self.search_space}: {key_of(self.method)} is not defined for it; expected another "
                f"{option('method')}, or {option('search_space')} {' or '.join(spaces)}"
            )
        if self.cost.kind != "none" and not self.total_epochs:
            raise ValueError(
                f"cost.kind {self.cost.kind}: {key_of(self.method)} takes no step of A that could heed it; leave it out"
            )
        if self.truth:
            self.space.architectures()  # ValueError where the space has no table

    @property
    def space(self) -> SearchSpace:
        """The search space. ValueError: there is none of this name."""
        return space_of(self.search_space)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages of the method, as far as they are known before the search."""
        return self.method.outline(self.space)

    @property
    def total_epochs(self) -> int:
        """Number of epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def real_portion(self) -> float:
        """Share of J_3 that is real: `val_portion`, and all of it without a GAN."""
        return self.val_portion if self.gan is not None else 1.0

    @property
    def searches_discriminator(self) -> bool:
        """Whether there is a B to search."""
        return self.gan is not None and self.search_discriminator and not self.freeze_gan

    def learning_rate(self, epoch: int, epochs: int) -> float:
        """Classifier's rate in `epoch` (from 0) of `epochs`: cosine, constant within an epoch (as the originals')."""
        low, high = min(self.classifier_lr_min, self.classifier_lr), self.classifier_lr
        return low + (high - low) * (1 + math.cos(math.pi * epoch / epochs)) / 2


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training: a GAN alone on J_2 (Eq. 4 and 5), with its own optimisers and number of discriminator steps."""

    gan: GanConfig
    data: DataConfig
    search_discriminator: bool = False
    """Train the discriminator with which a search of B begins (Eq. 7).
    Otherwise the GAN's own discriminator is trained."""
    batch_size: int = 64
    """Number of images in a batch of J_2, per worker (paper, Section 5.2: 64)."""
    seed: int = 0
    """Seed of everything random. It does not follow the seed of a search, so that all seeds share one pre-training."""
    data_dir: str | None = field(default=None, metadata=PLACEMENT)
    """Folder with the data set's files. A continued run may name another folder if the files hold the same data."""
    device: str = field(default="auto", metadata=PLACEMENT)
    """Device to compute on: auto (a GPU if there is one), cpu, cuda, cuda:N (GPU number N) or mps."""
    threads: int | None = field(default=None, metadata=PLACEMENT)
    """Number of CPU threads per worker; None uses PyTorch's default. A continued run keeps its number."""
    checkpoints: int = field(default=2, metadata=PLACEMENT)
    """Number of most recent checkpoints to keep."""
    pictures_every: int = field(default=5, metadata=PLACEMENT)
    """Number of epochs between two pictures of generated images."""
    fidelity_every: int = field(default=0, metadata=PLACEMENT)
    """Number of epochs between two measurements of FID and IS (paper, Table 5: 10).
    0 measures them only at the end, and only if --inception-weights is given."""
    inception_weights: str | None = field(default=None, metadata=PLACEMENT)
    """File with the Inception weights for FID and IS: weights-inception-2015-12-05-6726825d.pth, or safetensors.
    None downloads the file when it is needed."""

    def __post_init__(self) -> None:
        _check(self, batch_size=(2, LARGEST_BATCH), fidelity_every=(0, None))
        _check(self, checkpoints=(1, None), pictures_every=(1, None))
        _check_placement(self)

    @classmethod
    def of(cls, config: SearchConfig) -> PretrainConfig:
        """The pre-training that a search can begin with. ValueError where it has no GAN."""
        if config.gan is None:
            raise ValueError(f"there is no GAN to pre-train: choose one with {option('gan')}, such as biggan")
        own = {"gan", "search_discriminator", "seed"}
        settings = {f.name: getattr(config, f.name) for f in fields(cls) if f.name not in own}
        return cls(config.gan, search_discriminator=config.searches_discriminator, **settings)

    @property
    def name(self) -> str:
        """Of its run: what it depends on, so that whoever needs the same one finds it."""
        what = digest([mathematics(self), self.gan.pretraining_length, self.data_dir])[:8]
        return f"gan-{key_of(self.gan)}-{key_of(self.data)}-s{self.seed}-{what}"


# overriding and JSON


def override(config: Any, changes: Mapping[str, Any]) -> Any:
    """`config` with the settings at some paths changed, as in {"gan": "biggan", "gan.generator_lr": 1e-3}.

    Parts are changed before their settings, and all settings of a part at once, so that they are checked together.

    Raises:
        ValueError: an unknown path (the nearest is named) or a value of the wrong type.
    """
    steps = [(path.replace("-", "_").split("."), path, value) for path, value in changes.items()]
    for depth in (False, True):
        config = _override(config, [change for change in steps if (len(change[0]) > 1) == depth])
    return config


def _override(config: Any, changes: list[tuple[list[str], str, Any]]) -> Any:
    hints = typing.get_type_hints(type(config)) if is_dataclass(config) else {}
    values: dict[str, Any] = {}
    below: dict[str, list[tuple[list[str], str, Any]]] = {}
    for (name, *rest), path, value in changes:
        if name not in hints:
            what = f"{key_of(config)} has no setting" if config is not None else "there is no GAN, so no setting"
            raise ValueError(f"{what} {path!r}{nearest(name, list(hints))}")
        if rest:
            below.setdefault(name, []).append((rest, path, value))
        elif name in PARTS and (value is None or isinstance(value, str)):
            old, key = getattr(config, name), value or "none"
            none = (name, key) == ("gan", "none")
            values[name] = old if key == key_of(old) else None if none else plugin(PARTS[name], key)()
        else:
            values[name] = _typed(value, hints[name], path)
    values |= {name: _override(getattr(config, name), inner) for name, inner in below.items()}
    return replace(config, **values) if values else config


def _typed(value: Any, hint: Any, path: str) -> Any:
    """`value` if it is what the annotation says (an int serves as a float), else ValueError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for arg in args:
            with suppress(ValueError):
                return _typed(value, arg, path)
        return _typed(value, args[0], path)  # its error
    elif origin is Literal:
        if value in args:
            return value
        raise ValueError(f"{path} {value!r}: expected {' or '.join(map(str, args))}{nearest(str(value), list(args))}")
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif origin is tuple and isinstance(value, list | tuple):
        return tuple(_typed(v, args[0], path) for v in value)
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    elif hint is type(None) and value is None:
        return None
    raise ValueError(f"{path} {value!r}: expected {getattr(hint, '__name__', hint)}")


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as plain data; a part is {"key": ..., its settings}."""

    def plain(value: Any, name: str = "") -> Any:
        if is_dataclass(value):
            out = {"key": key_of(value)} if name in PARTS else {}
            return out | {f.name: plain(getattr(value, f.name), f.name) for f in fields(value)}
        return list(value) if isinstance(value, tuple) else value

    return plain(config)


def from_json(data: Any, kind: type = SearchConfig, path: str = "") -> Any:
    """The configuration that `to_json` wrote, each value checked against its annotation.

    Raises:
        ValueError: not such a configuration; names the setting.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{path or 'configuration'}: expected an object, got {type(data).__name__}")
    hints = typing.get_type_hints(kind)
    unknown = [k for k in data if k not in hints and k != "key"]
    if unknown:
        raise ValueError(f"no setting {path + unknown[0]!r}{nearest(unknown[0], list(hints))}")
    values: dict[str, Any] = {}
    for name, value in data.items():
        if name == "key":
            continue
        if name in PARTS and isinstance(value, dict):
            values[name] = from_json(value, plugin(PARTS[name], str(value.get("key"))), f"{path}{name}.")
        elif is_dataclass(hints[name]) and isinstance(hints[name], type) and name not in PARTS:
            values[name] = from_json(value, hints[name], f"{path}{name}.")
        else:
            values[name] = _typed(value, hints[name], path + name)
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{path or 'configuration'}: {error}") from None


def settings(config: Any, younger: bool = False) -> dict[str, Any]:
    """{path: value} of all settings but those of placement and logging; the key of a part is at `<part>.key`.

    A setting that is `younger` than runs that may still be continued is included only if it is not the default, or if
    asked for.
    """

    def flat(value: Any, path: str) -> dict[str, Any]:
        if not is_dataclass(value):
            return {path: list(value) if isinstance(value, tuple) else value}
        out = {path + ".key": key_of(value)} if path in PARTS else {}
        for f in fields(value):
            unasked = not younger and f.metadata.get("younger") and getattr(value, f.name) == f.default
            if f.metadata.get("mathematics", True) and not unasked:
                out |= flat(getattr(value, f.name), f"{path}.{f.name}" if path else f.name)
        return out

    return flat(config, "")


def mathematics(config: Any) -> dict[str, Any]:
    """The settings that identify a run: `settings` without those that may grow and those of another run.

    More epochs continue a search of one stage. They do not continue one of several stages, where each begins with what
    the one before kept, nor an evaluation, whose schedule they stretch. More iterations continue a pre-training. A
    search leaves out the settings of its pre-training, because it compares the GAN's file instead."""
    if isinstance(config, PretrainConfig):
        left_out: tuple[str, ...] = ("gan.warmup", "gan.pretrain_iterations", "data.cutout")
    elif isinstance(config, SearchConfig):
        left_out = ("gan.pretrain_", *(["method.epochs"] if len(config.stages) == 1 else []))
        left_out += () if config.sync_batch_norm else ("sync_batch_norm",)  # younger than runs that can go on
    else:
        left_out = ()
    return {path: value for path, value in settings(config).items() if not path.startswith(left_out)}
