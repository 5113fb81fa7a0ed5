"""What a search or a training is, by names and values: a preset or a recipe, its parts, and settings. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dasgm import given as given_settings
from dasgm import recipes
from dasgm.api.places import absolute, run_of
from dasgm.config import SearchConfig, from_json, override
from dasgm.data._base import IN_MEMORY, DataConfig
from dasgm.designs.design import Design, ensure_effect, load_design
from dasgm.genotype import Genotype, genotype_text, name_of, to_stderr
from dasgm.given import NOTHING, Given
from dasgm.options import option
from dasgm.plugins import key_of, plugin
from dasgm.presets import preset as preset_named
from dasgm.presets import with_dataset, with_gan, with_method
from dasgm.recipes import PHOTOGRAPHS, EvaluateConfig
from dasgm.store.bucket import lies_at
from dasgm.store.files import printable
from dasgm.store.records import read_json
from dasgm.store.replica import here
from dasgm.store.run import state_of

Settings = Mapping[str, Any]
"""Settings by path, as in {"method.epochs": 2, "arch_lr": 1e-3}; dashes serve as underscores."""
NO_SETTINGS: Settings = MappingProxyType({})


def ensure_meant(data: DataConfig, data_dir: str | Path | None) -> None:
    """ValueError where a folder is named and the data set is one that needs none."""
    if data_dir and data.packaged:
        raise ValueError(
            f"{option('data_dir')} {data_dir}: {key_of(data)} come with dasgm, so the folder would not be read; leave "
            "it out, or name what it holds, as in --dataset folder"
        )


def placed(config: Any) -> Any:
    """With the places of its files as seen from anywhere."""
    files = ("gan_checkpoint", "inception_weights", "truth", "data_dir")
    names = [name for name in files if hasattr(config, name)]
    return replace(config, **{name: absolute(getattr(config, name)) for name in names})


def changed(config: Any, settings: Settings) -> Any:
    """A configuration with other settings. ValueError: an unknown path, or a value that it cannot have."""
    plain = {path: str(value) if isinstance(value, Path) else value for path, value in settings.items()}
    return placed(override(config, plain))


# searches


@dataclass(frozen=True)
class SearchChoice:
    """A search, by the preset that it begins with."""

    preset: str
    config: SearchConfig
    published: str = ""
    """What the paper published of the preset."""
    given: Given = NOTHING
    """Settings that the user or the user's own preset files name, even if they name the default."""

    @property
    def dataset(self) -> str:
        return key_of(self.config.data)

    def name(self) -> str:
        """The run's name by default: <preset>-<dataset>-s<seed>."""
        return f"{Path(self.preset).stem}-{self.dataset}-s{self.config.seed}"

    def changed(self, settings: Settings) -> SearchChoice:
        """With other settings. ValueError: see `changed`, or a setting without effect."""
        config = changed(self.config, settings)
        given = given_settings.after(self.given, self.config, config, settings)
        given_settings.ensure_effect(given, config)
        return replace(self, config=config, given=given)


def choose_search(
    preset: str,
    *,
    gan: str | None = None,
    method: str | None = None,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
) -> SearchChoice:
    """The search of a preset with other parts.

    Raises:
        ValueError: an unknown preset or part (the nearest name is suggested), or a folder that would not be read.
    """
    found = preset_named(preset)
    config, parts = found.config, {"data": dataset, "gan": gan, "method": method}
    for part, choose in (("data", with_dataset), ("gan", with_gan), ("method", with_method)):
        if (key := parts[part]) is not None:
            config = choose(config, key)
    ensure_meant(config.data, data_dir)
    named = [part for part, key in parts.items() if key is not None]
    given = given_settings.after(found.given, found.config, config, named)
    return SearchChoice(preset, replace(config, data_dir=absolute(data_dir)), found.published, given)


# trainings


@dataclass(frozen=True)
class TrainingChoice:
    """A training, by what is trained and the recipe that it begins with."""

    design: Design
    source: str
    """What the design is called: a name, a file or a run's folder."""
    recipe: str
    config: EvaluateConfig
    weights: str = ""
    """File of weights that a known network begins from."""

    def name(self) -> str:
        """The run's name by default: <genotype>-<recipe>-<dataset>-s<seed>."""
        run = run_of(self.source)
        sweep = f"{run.parent.name}-" if (run.parent / "sweep.json").is_file() else ""
        stem = sweep + run.absolute().name if run.is_dir() else run.stem.replace(":", "-")
        config, begun = self.config, [f"from-{Path(self.weights).stem}"] if self.weights else []
        folds = [f"{config.folds}folds"] * bool(config.folds) + [f"fold{config.fold}"] * bool(config.fold)
        parts = dict.fromkeys((stem or "genotype", *begun, self.recipe, key_of(config.data), f"s{config.seed}"))
        return "-".join([*parts, *folds])

    def lines(self, folder: Path) -> list[str]:
        """What is said before a training in `folder`."""
        what = f"{lies_at(self.source)} by the recipe {self.recipe} on {key_of(self.config.data)}"
        lines, run = [f"{what}: loading; the run's folder is {lies_at(folder)}"], run_of(self.source)
        if (run / "run.json").is_file() and (state := state_of(run)) != "finished":
            lines.append(f"the run {run} is {state}: its architecture so far is used")
        return [printable(line) for line in lines]

    def changed(self, settings: Settings) -> TrainingChoice:
        """With other settings. ValueError: see `changed`, or a setting that the network does not have."""
        ensure_effect(frozenset(path.replace("-", "_") for path in settings), [self.design])
        return replace(self, config=changed(self.config, settings))


def choose_training(
    genotype: str | Path,
    recipe: str | None = None,
    *,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    weights: str | Path | None = None,
    say: Callable[[str], None] = to_stderr,
) -> TrainingChoice:
    """The training of a genotype's network, or of a known one, by a recipe.

    Args:
        image_size: in pixels; of a folder's pictures it chooses the usual recipe.
        say: see `Genotype.load`.

    Raises:
        ValueError: an unknown name (the nearest is suggested), or a genotype that cannot be read.
    """
    design = load_design(genotype, weights or None, say)
    source = name_of(genotype) if genotype_text(genotype) else str(here(genotype))
    ran = {} if genotype_text(genotype) else read_json(run_of(source) / "config.json")
    found, config = choose_recipe(
        ran, design.recipes, recipe=recipe, dataset=dataset, data_dir=data_dir, image_size=image_size
    )
    return TrainingChoice(design, source, found, config, str(weights or ""))


def choose_recipe(
    ran: Mapping[str, Any],
    usual: Mapping[str, str],
    *,
    recipe: str | None = None,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    workers: int = 1,
) -> tuple[str, EvaluateConfig]:
    """The recipe's name and the configuration that it, the data set and the size choose.

    Args:
        ran: config.json of the search that gave the genotype; its data set is the default. {}: there is none.
        usual: the recipes of the design (`Design.recipes`).
        workers: the number of those that share a batch.
    """
    searched = _data(ran)
    key = dataset or (key_of(searched) if searched else "")
    pixels = image_size or (searched.image_size if searched else 0)
    large = key == "folder" and pixels > IN_MEMORY
    named = recipe or usual.get(PHOTOGRAPHS if large else key, usual[""])
    config = recipes.per_worker(recipes.recipe(named).config, workers)
    place: str | Path | None = data_dir
    if searched and key == key_of(searched):
        lay = ran.get("data_dir")
        config, place = recipes.on(config, searched), place or (lay if isinstance(lay, str) else None)
    elif key:
        config = with_dataset(config, key)
    ensure_meant(config.data, data_dir)
    return named, replace(config, data_dir=absolute(place))


def _data(config: Mapping[str, Any]) -> DataConfig | None:
    """The data set of a run's config.json."""
    data = config.get("data")
    return from_json(data, plugin("data", str(data.get("key"))), "data.") if isinstance(data, dict) else None


def genotype_source(genotype: Any) -> str:
    """What names a genotype: a name, a place or a text as it is; of a `Genotype` its text, of a result its folder."""
    if isinstance(genotype, Genotype):
        return genotype.to_json()
    return str(getattr(genotype, "folder", genotype))
