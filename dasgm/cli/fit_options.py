"""The command line of `dasgm fit`: what it takes, the settings of both stages, and what it refuses at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dasgm.api.places import absolute, check_time_budget
from dasgm.cli.arguments import parse, take
from dasgm.cli.stages import COMMON, SEARCH, TRAINING, spelling
from dasgm.config import SearchConfig
from dasgm.data import _base, folder
from dasgm.designs.known import KnownNetwork, is_known
from dasgm.genotype import Genotype
from dasgm.given import Given, flags
from dasgm.options import flag
from dasgm.presets import PRESETS, preset, with_dataset
from dasgm.recipes import RECIPES, EvaluateConfig

BEFORE = {
    "--genotype": "Genotype to train instead of a search: a file, a run's folder, its text, or a name (DARTS_V2).",
    "--preset": f"Settings of the search to begin with: {', '.join(PRESETS)}, or a JSON file. The default is fit-small "
    "on a CPU, dasgm-darts on a GPU.",
    "--recipe": f"Settings of the training to begin with: {', '.join(RECIPES)}. The default is the ImageNet form above "
    "64 pixels, else the CIFAR form, both in small sizes on a CPU.",
    "--image-size": "Side of the images that the network is trained on, in pixels: a multiple of 4 from 32 to 320. The "
    "default is the largest of 32, 64, 96, ... 224 that is no more than the shorter side of half of the photographs "
    "and leaves the budget at least 10 epochs.",
    "--config": "Configuration or folder below PICTURES to read, if the Parquet files there hold several data sets.",
    "--search.image-size": "Side of the images of the search, in pixels. The default is 32.",
    "--device": "Device of both stages: auto (a GPU if there is one), cpu, cuda, cuda:N or mps.",
    "--seed": "Seed of both stages. The default is 0.",
}
ABOUT = (
    "From a folder of pictures to a trained model: a search, then the training of the network that it finds. To "
    "continue, run the same command.\n- PICTURES: Folder with class/*.jpg, or train/ val/ test/ with such folders, or "
    "Parquet files, or CSV files (path,label).\n"
    + "\n".join(f"- {option} VALUE: {sentence}" for option, sentence in BEFORE.items())
)


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
    """A command line, as far as it is read before the settings of the stages."""

    pictures: str
    values: Mapping[str, str]
    rest: list[str]
    genotype: Genotype | None
    gpu: bool

    @property
    def given(self) -> Given:
        """Settings that the command line names."""
        return flags(self.rest)

    def number(self, flag: str, default: int) -> int:
        """The value of an option that takes a whole number."""
        given = self.values.get(flag, str(default))
        if not given.isdecimal():
            raise ValueError(f"{flag} {given!r:.80}: expected a whole number")
        return int(given)

    @property
    def preset(self) -> str:
        """What the search begins with."""
        return self.values.get("--preset") or ("dasgm-darts" if self.gpu else "fit-small")

    @property
    def seed(self) -> int:
        return self.number("--seed", 0)

    @property
    def name(self) -> str:
        """Of the folder, by default."""
        return f"fit-{Path(self.pictures).expanduser().absolute().name or 'pictures'}-s{self.seed}"

    @property
    def data(self) -> folder.Config:
        """How the pictures are listed."""
        return folder.Config(skip_unreadable="skip_unreadable" in self.given, config=self.values.get("--config", ""))

    def with_common(self, config: Any, size: int) -> Any:
        """The configuration of a stage with the settings of both, and its own size."""
        own = {"image_size": size, "skip_unreadable": self.data.skip_unreadable, "config": self.data.config}
        device = self.values.get("--device", config.device)
        data, place = replace(config.data, **own), absolute(self.pictures)
        return replace(config, data=data, data_dir=place, device=device, seed=self.seed)

    def search(self, pictures: int) -> SearchConfig:
        """The search by default, on so many training pictures."""
        from dasgm.cli.fitting import check_size, fitting_batch

        side = self.number("--search.image-size", 32)
        check_size(side, "search.image-size", _base.SMALLEST, _base.LARGEST)
        found = with_dataset(preset(self.preset).config, "folder")
        used = min(pictures, found.data.limit or pictures)
        # FID and IS would be of the GAN alone, and need weights that are downloaded
        found = replace(found, batch_size=fitting_batch(found.batch_size, used), fidelity_every=0)
        config: SearchConfig = self.with_common(found, side)
        return config

    def recipe(self, size: int) -> str:
        """What the training begins with."""
        from dasgm.cli.fitting import usual_recipe

        space = self.genotype.space if self.genotype else preset(self.preset).config.space
        return self.values.get("--recipe") or usual_recipe(space, size, self.gpu)

    def training(self, size: int, pictures: int) -> EvaluateConfig:
        """The training by default, at this size."""
        from dasgm.cli.fitting import at_size

        config: EvaluateConfig = self.with_common(at_size(self.recipe(size), size, pictures), size)
        return config

    def options(self, size: int, pictures: int) -> FitOptions:
        """All settings, with the defaults for a training at this size."""
        default = FitOptions(self.search(pictures), self.training(size, pictures))
        found: FitOptions = parse(
            FitOptions, self.rest, default, "dasgm fit", ABOUT, tuple(BEFORE), "PICTURES", elsewhere
        )
        return found


def elsewhere(option: str) -> str:
    """Where `dasgm fit` takes the setting of an option from, if not from this option; '': from this one."""
    path = option.removeprefix("--").replace("-", "_")
    stage, _, setting = path.partition(".")
    stage, setting = (stage, setting) if stage in (SEARCH, TRAINING) else ("", path)
    if setting.removeprefix("data.") not in COMMON:
        return ""
    place = spelling(stage)(setting)
    return place if place != option else ""


def asked(argv: Sequence[str]) -> Asked:
    """The command line up to the settings of the stages. ValueError: something of it cannot be used."""
    from dasgm.device import device_of

    values, first, rest = take(argv, tuple(BEFORE), 1)
    if not first and {"-h", "--help"} & set(rest):
        first = ["PICTURES"]
    if not first:
        raise ValueError("name the folder with your pictures first, as in dasgm fit PICTURES")
    for option in map(flag, sorted(flags(rest))):
        if place := elsewhere(option):
            raise ValueError(f"{option}: dasgm fit takes it from {place}; give it there")
    genotype = Genotype.load(values["--genotype"]) if "--genotype" in values else None
    if genotype and (without := [f"--{name}" for name in flags(argv) if name.startswith("search.")]):
        raise ValueError(f"{without[0]} with --genotype: there is no search; leave one of the two out")
    if genotype and "--preset" in values:
        raise ValueError(f"--preset {values['--preset']} with --genotype: there is no search; leave one of the two out")
    gpu = device_of(values.get("--device", "auto")).startswith("cuda")
    return Asked(first[0], values, rest, genotype, gpu)
