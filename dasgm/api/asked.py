"""What a fit is asked for: the settings of both of its stages, and what their defaults depend on. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dasgm.api.choices import Settings, changed
from dasgm.api.places import absolute, check_time_budget
from dasgm.api.stages import COMMON, SEARCH, TRAINING, spelling
from dasgm.config import SearchConfig
from dasgm.data import _base, folder
from dasgm.designs.known import KnownNetwork, is_known
from dasgm.genotype import Genotype
from dasgm.given import NOTHING, Given
from dasgm.options import flag
from dasgm.presets import preset as preset_named
from dasgm.presets import with_dataset
from dasgm.recipes import EvaluateConfig

SIDE = 32  # of the images of a search, in pixels


def known_networks(names: Sequence[str]) -> tuple[KnownNetwork, ...]:
    """The networks of --against. ValueError: one that is not known, or is named twice."""
    for name in names:
        if not is_known(name):
            raise ValueError(f"against {name:.80}: expected a known network, such as torchvision:resnet18")
        if names.count(name) > 1:
            raise ValueError(f"against {name:.80}: it is named twice; name each network once")
    return tuple(KnownNetwork.load(name) for name in names)


@dataclass(frozen=True)
class FitOptions:
    """Where a fit lies, its budget, and the settings of its stages."""

    search: SearchConfig
    training: EvaluateConfig
    time_budget: float | None = None
    """Seconds within which the whole is to end: the numbers of epochs are chosen by what a few steps take here, and
    measuring these takes a part of it. None takes the preset's and the recipe's numbers."""
    search_share: float = 0.4
    """Share of the search in what measuring leaves of the time budget, from 0 to 1 (our choice: 0.4)."""
    against: tuple[str, ...] = ()
    """Known networks, as torchvision:resnet18 or timm:resnet18, that are trained on the same data by the same recipe
    for as many epochs, and compared with the found one on the test pictures. They share the time of the training."""
    storage: Path = Path("runs")
    """Folder for all runs."""
    name: str = ""
    """Name of the folder of both runs, by default fit-<folder of pictures>-s<seed>. One that is there is continued."""
    skip_unreadable: bool = False
    """Leave out pictures that cannot be read, and say which. Otherwise the first ones end the command."""
    dry_run: bool = False
    """Print what would be done and what it costs (hours, memory, disk), and start nothing."""

    def __post_init__(self) -> None:
        check_time_budget(self.time_budget)
        if not 0 < self.search_share < 1:
            raise ValueError(f"search-share {self.search_share}: expected a number between 0 and 1, such as 0.4")
        if self.training.folds:
            raise ValueError(
                f"--training.folds {self.training.folds}: dasgm fit trains one network, on the whole training part; "
                f"leave it out, and give --folds {self.training.folds} to dasgm evaluate with the search's folder, at "
                "a size that is held in memory (up to 64 pixels)"
            )
        known_networks(self.against)


@dataclass(frozen=True)
class Asked:
    """A fit, as far as it is asked for before the settings of its stages, whose defaults depend on it."""

    pictures: str
    """The folder."""
    gpu: bool
    """Whether both stages run on a GPU."""
    genotype: Genotype | None = None
    """What is trained. None: what a search finds."""
    source: str = ""
    """What that genotype is called."""
    preset_name: str = ""
    """What the search begins with; empty: the usual one of the device."""
    recipe_name: str = ""
    """What the training begins with; empty: the usual one of the device and the size."""
    image_size: int | None = None
    """Of the training, in pixels. None: chosen by the photographs."""
    search_image_size: int = SIDE
    config: str = ""
    """Which of several data sets in Parquet files is read."""
    device: str | None = None
    seed: int = 0
    skip_unreadable: bool = False
    given: Given = NOTHING
    """Settings that the user names, as in search.method.epochs."""
    settle: Callable[[FitOptions], FitOptions] = lambda default: default
    """Makes of the options by default those of the user."""

    def __post_init__(self) -> None:
        if self.genotype is None:
            return
        if without := [name for name in sorted(self.given) if name.startswith("search.")]:
            option = without[0].replace("_", "-")
            raise ValueError(f"--{option} with --genotype: there is no search; leave one of the two out")
        if self.preset_name:
            raise ValueError(
                f"--preset {self.preset_name} with --genotype: there is no search; leave one of the two out"
            )

    @property
    def preset(self) -> str:
        """What the search begins with."""
        return self.preset_name or ("dasgm-darts" if self.gpu else "fit-small")

    @property
    def name(self) -> str:
        """Of the folder, by default."""
        return f"fit-{Path(self.pictures).expanduser().absolute().name or 'pictures'}-s{self.seed}"

    @property
    def model_name(self) -> str:
        """Of the registered model that the fits of a folder of pictures are versions of, as MLflow takes it."""
        name = Path(self.pictures).expanduser().absolute().name
        return re.sub(r"[^\w.-]+", "-", name[:200]).strip("-.") or "pictures"

    @property
    def data(self) -> folder.Config:
        """How the pictures are listed."""
        return folder.Config(skip_unreadable=self.skip_unreadable, config=self.config)

    def with_common(self, config: Any, size: int) -> Any:
        """The configuration of a stage with the settings of both, and its own size."""
        own = {"image_size": size, "skip_unreadable": self.skip_unreadable, "config": self.config}
        data, place = replace(config.data, **own), absolute(self.pictures)
        return replace(config, data=data, data_dir=place, device=self.device or config.device, seed=self.seed)

    def search(self, pictures: int) -> SearchConfig:
        """The search by default, on so many training pictures."""
        from dasgm.api.fitting import check_size, fitting_batch

        side = self.search_image_size
        check_size(side, "search.image-size", _base.SMALLEST, _base.LARGEST)
        found = with_dataset(preset_named(self.preset).config, "folder")
        used = min(pictures, found.data.limit or pictures)
        # FID and IS would be of the GAN alone, and need weights that are downloaded
        found = replace(found, batch_size=fitting_batch(found.batch_size, used), fidelity_every=0)
        config: SearchConfig = self.with_common(found, side)
        return config

    def recipe(self, size: int) -> str:
        """What the training begins with."""
        from dasgm.api.fitting import usual_recipe

        space = self.genotype.space if self.genotype else preset_named(self.preset).config.space
        return self.recipe_name or usual_recipe(space, size, self.gpu)

    def training(self, size: int, pictures: int) -> EvaluateConfig:
        """The training by default, at this size."""
        from dasgm.api.fitting import at_size

        config: EvaluateConfig = self.with_common(at_size(self.recipe(size), size, pictures), size)
        return config

    def options(self, size: int, pictures: int) -> FitOptions:
        """All settings, with the defaults for a training at this size."""
        return self.settle(FitOptions(self.search(pictures), self.training(size, pictures)))


def on_gpu(device: str | None) -> bool:
    """Whether a device, by default the usual one, is a GPU. ValueError: there is no such device."""
    from dasgm.device import device_of

    return device_of(device or "auto").startswith("cuda")


def elsewhere(option: str) -> str:
    """Where `dasgm fit` takes the setting of an option from, if not from this option; '': from this one."""
    path = option.removeprefix("--").replace("-", "_")
    stage, _, setting = path.partition(".")
    stage, setting = (stage, setting) if stage in (SEARCH, TRAINING) else ("", path)
    if setting.removeprefix("data.") not in COMMON:
        return ""
    place = spelling(stage)(setting)
    return place if place != option else ""


def ensure_here(paths: Iterable[str]) -> None:
    """ValueError for a setting of a stage that a fit takes from an option of its own."""
    for option in map(flag, sorted(paths)):
        if place := elsewhere(option):
            raise ValueError(f"{option}: dasgm fit takes it from {place}; give it there")


def with_settings(options: FitOptions, settings: Settings) -> FitOptions:
    """With other settings of the stages, as in {"training.epochs": 30}. ValueError: see `changed`."""
    of_stages: dict[str, dict[str, Any]] = {SEARCH: {}, TRAINING: {}}
    for path, value in settings.items():
        stage, _, setting = path.partition(".")
        if stage not in of_stages or not setting:
            raise ValueError(f"setting {path!r}: expected one of a stage, such as search.arch_lr or training.epochs")
        of_stages[stage][setting] = value
    search, training = changed(options.search, of_stages[SEARCH]), changed(options.training, of_stages[TRAINING])
    return replace(options, search=search, training=training)
