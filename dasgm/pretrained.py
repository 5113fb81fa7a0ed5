"""A pre-trained GAN as two files, gan.safetensors (tensors) and gan.json (what they are): writing, reading, checking.

gan.safetensors holds the tensors of the live generator under `G.`, those of the averaged generator with buffers of its
own under `G_average.`, those of the discriminator under `E.` and, where the discriminator is one whose architecture can
be searched, those of the architecture under `B.`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dasgm.adversary import Adversary
from dasgm.bilevel import replay, seed_of
from dasgm.config import GanConfig, PretrainConfig, SearchConfig, override, to_json
from dasgm.options import option
from dasgm.plugins import key_of
from dasgm.store.files import write_atomic
from dasgm.store.records import digest, read_json
from dasgm.store.replica import here

if TYPE_CHECKING:
    from dasgm.data._images import Data

FORMAT = 1
WEIGHTS, ABOUT = "gan.safetensors", "gan.json"
SETTLING = 50  # passes of the averaged generator: its running statistics then keep 0.9^50 = 0.5 % of the live one's
REQUIRED = {"sha256", "gan", "discriminator", "data", "classes", "data_digest", "J2_digest", "iterations"}
SPLIT = ("split", "split_seed", "weight_portion", "holdout", "limit")
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Pretrained:
    """The files of a pre-trained GAN, read and checked."""

    path: Path
    """Path of gan.safetensors."""
    about: dict[str, Any]
    """Content of gan.json."""
    tensors: Tensors
    digest: str
    """SHA-256 of gan.safetensors, which is part of the identity of a search that begins with it."""

    @property
    def relaxed(self) -> bool:
        """Whether its discriminator is one whose architecture B can be searched."""
        return self.about["discriminator"] == "relaxed"

    def part(self, name: str) -> Tensors:
        """The tensors of G, G_average, E or B, under the names that the module gives them."""
        return {k.removeprefix(f"{name}."): t for k, t in self.tensors.items() if k.startswith(f"{name}.")}

    def into(self, gan: Adversary) -> None:
        """Loads the tensors into `gan`.

        A frozen generator gets the averaged weights, one that is trained further the live ones.
        """
        G, average = gan.G, self.part("G_average")
        G.module.load_state_dict(average if G.frozen else self.part("G"))
        gan.E.module.load_state_dict(self.part("E"))
        gan.B.module.load_state_dict(self.part("B"))
        G.steps = self.about["iterations"]
        for name, mean in (G.mean or {}).items():
            mean.copy_(average[name])


@contextmanager
def at_average(gan: Adversary, n: int, *stream: object) -> Iterator[None]:
    """Inside, G has its averaged weights, and buffers that fit them.

    The spectral-norm vectors and running statistics of the live generator do not fit the averaged weights. They are
    therefore settled by `SETTLING` passes of n images.
    """
    module = gan.G.module
    before = {k: t.clone() for k, t in module.state_dict().items()}
    try:
        module.load_state_dict(before | (gan.G.mean or {}))
        for i in range(SETTLING):
            z, y = gan.draw(n, seed_of(*stream, i, "z"))
            with torch.no_grad(), replay(*stream, i):
                gan.G.live(z, y)
        yield
    finally:
        module.load_state_dict(before)


def state(name: str, module: torch.nn.Module) -> Tensors:
    """Copies of a module's parameters and buffers on the CPU, their names prefixed by `name`."""
    return {f"{name}.{k}": t.detach().cpu().clone().contiguous() for k, t in module.state_dict().items()}


def write(folder: Path, config: PretrainConfig, data: Data, tensors: Tensors, **about: Any) -> None:
    """Writes both files. Each is replaced atomically; gan.json comes last and holds the digest of gan.safetensors.

    Args:
        about: further entries of gan.json.
    """
    from safetensors.torch import save

    content = save(tensors)
    plain = to_json(config)
    what = {
        "format": FORMAT,
        "sha256": hashlib.sha256(content).hexdigest(),
        "gan": plain["gan"],
        "discriminator": "relaxed" if config.search_discriminator else "stock",
        "data": plain["data"],
        "classes": list(data.classes),
        "data_digest": data.digest,
        "J2_digest": digest(data.J2.tolist()),
        "batch_size": config.batch_size,
        "seed": config.seed,
    }
    write_atomic(folder / WEIGHTS, content)
    write_atomic(folder / ABOUT, json.dumps(what | about, indent=1))


def read(place: str | Path) -> Pretrained:
    """Reads the files at `place`, the folder of a pre-training or either of its files.

    Raises:
        ValueError: a file is missing, the two do not belong together, or they have another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = here(place)
    folder = place if place.is_dir() else place.parent
    weights, about = folder / WEIGHTS, read_json(folder / ABOUT)
    if not place.exists():
        raise ValueError(
            f"gan-checkpoint {place}: no such folder or file; expected the folder of a pre-training, which "
            "`dasgm pretrain` makes"
        )
    if not place.is_dir() and place.name not in (WEIGHTS, ABOUT):
        raise ValueError(f"gan-checkpoint {place}: expected the folder of a pre-training, or its {WEIGHTS}")
    if not about or not weights.is_file():
        missing = WEIGHTS if about else ABOUT
        raise ValueError(f"gan-checkpoint {place}: there is no {missing}; `dasgm pretrain` writes it when it ends")
    if about.get("format") == FORMAT and not set(about) >= REQUIRED:
        raise ValueError(
            f"gan-checkpoint {folder / ABOUT}: it lacks {', '.join(sorted(REQUIRED - set(about)))}; copy it again"
        )
    if about.get("format") != FORMAT:
        raise ValueError(f"gan-checkpoint {folder / ABOUT}: format {about.get('format')}, expected {FORMAT}")
    _check(folder / ABOUT, about)
    with open(weights, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != about.get("sha256"):
        raise ValueError(f"gan-checkpoint {weights}: it is not the file that its {ABOUT} describes; copy both again")
    try:
        return Pretrained(weights, about, load_file(weights), sha256)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"gan-checkpoint {weights}: not a safetensors file ({error})") from None


def _check(path: Path, about: dict[str, Any]) -> None:
    """ValueError where an entry of gan.json is missing or has another type than `write` gives it."""
    kinds = dict.fromkeys(("gan", "data"), dict) | {"classes": list, "iterations": int}
    kinds |= dict.fromkeys(("sha256", "discriminator", "data_digest", "J2_digest"), str)
    odd = [name for name, kind in kinds.items() if not isinstance(about[name], kind)]
    if missing := {"key", "image_size", *SPLIT} - set(about["data"]) if "data" not in odd else set():
        odd += [f"data.{name}" for name in sorted(missing)]
    if odd or "key" not in about["gan"]:
        raise ValueError(
            f"gan-checkpoint {path}: its {(odd or ['gan.key'])[0]} is missing or has the wrong type; copy it again"
        )


def chosen(config: SearchConfig, data: Data) -> Pretrained | None:
    """The pre-trained GAN that a search begins with, or None.

    Raises:
        ValueError: it does not fit this search (the message names both values and what to do), or a frozen search has
            none.
    """
    if config.gan is None:
        if config.freeze_gan or config.gan_checkpoint:
            asked = "freeze-gan" if config.freeze_gan else "gan-checkpoint"
            raise ValueError(
                f"{asked} with gan none: there is no GAN; choose one with {option('gan')}, or leave it out"
            )
        return None
    if config.gan_checkpoint is None:
        if config.freeze_gan:
            raise ValueError(
                f"freeze-gan needs a pre-trained GAN: name its folder with {option('gan_checkpoint')} (`dasgm "
                "pretrain` with the same preset makes one), or let `dasgm search` run that first, with --pretrain"
            )
        return None
    found = read(config.gan_checkpoint)
    for told, there, asked, mend in _compared(found, config, data):
        if there != asked:
            raise ValueError(f"gan-checkpoint {found.path}: {told} {there}, this search's {asked}; {mend}")
    return found


def _compared(found: Pretrained, config: SearchConfig, data: Data) -> Iterator[tuple[str, Any, Any, str]]:
    """(what is compared, its value in the file, its value in the search, what to do), the most general first."""
    about, gan, here = found.about, config.gan, to_json(config)["data"]
    assert gan is not None
    anew = "or pre-train with this search's settings (dasgm pretrain)"
    there = about["data"]
    yield "its GAN is", about["gan"]["key"], key_of(gan), f"use that one ({option('gan')}), {anew}"
    yield "its data set is", there["key"], here["key"], f"use --dataset {there['key']}, {anew}"
    names, ours = list(map(str, about["classes"])), list(data.classes)
    yield "its classes are", _brief(names, ours), _brief(ours, names), f"use its data, {anew}"
    size = there["image_size"]
    yield "its image size is", size, here["image_size"], f"use {option('data.image_size')} {size}, {anew}"
    for name in SPLIT:
        flag = f"{option(f'data.{name}')} {there[name]}"
        yield f"it has seen another J_2: its data.{name} is", there[name], here[name], f"use {flag}, {anew}"
    images, J2 = about["data_digest"], digest(data.J2.tolist())
    yield "its images are those of", images[:8], data.digest[:8], f"use the files that it was pre-trained on, {anew}"
    yield "it has seen another J_2:", about["J2_digest"][:8], J2[:8], f"use its split, {anew}"
    if not config.freeze_gan:  # a frozen GAN's discriminator is not used
        asked = "relaxed" if config.searches_discriminator else "stock"
        flag = option("search_discriminator" if found.relaxed else "no_search_discriminator")
        yield "its discriminator is", about["discriminator"], asked, f"use {flag}, {anew}"
    yield from _shapes(found, gan, data, anew)


def _brief(classes: list[str], others: list[str]) -> str:
    """The number of classes and the names of three, beginning with the first that differs from `others`."""
    first = next((i for i, (one, other) in enumerate(zip(classes, others, strict=False)) if one != other), 0)
    listed = ", ".join(classes[first : first + 3])
    return f"{len(classes)} ({'..., ' if first else ''}{listed}{', ...' if first + 3 < len(classes) else ''})"


def _shapes(found: Pretrained, gan: GanConfig, data: Data, anew: str) -> Iterator[tuple[str, Any, Any, str]]:
    """For a tensor whose shape differs: the setting that determines the shape, or the tensor itself."""

    def shapes(gan: GanConfig) -> dict[str, tuple[int, ...]]:
        with replay("never drawn from"):
            built = gan.build(len(data.classes), data.image_size, found.relaxed)
        parts = {"G": built.generator, "G_average": built.generator, "E": built.discriminator, "B": built.architecture}
        return {f"{p}.{k}": tuple(t.shape) for p, module in parts.items() for k, t in module.state_dict().items()}

    ours, theirs = shapes(gan), {k: tuple(t.shape) for k, t in found.tensors.items()}
    differing = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    if not differing:
        return
    old, new = found.about["gan"], to_json(gan)
    for setting in (name for name in new if name in old and old[name] != new[name]):
        if shapes(override(gan, {setting: old[setting]})) != ours:
            flag = f"{option(f'gan.{setting}')} {old[setting]}"
            yield f"its gan.{setting} is", old[setting], new[setting], f"use {flag}, {anew}"
    name = differing[0]
    yield f"its {name} is", theirs.get(name), ours.get(name), anew.removeprefix("or ")
