"""A training from scratch in one process: the function for Python, and what `dasgm evaluate` does besides."""

from __future__ import annotations

from pathlib import Path

from dasgm.api.callers import Caller, from_python
from dasgm.api.choices import NO_SETTINGS, Settings, TrainingChoice, choose_training, genotype_source
from dasgm.api.places import check_time_budget, storage_here
from dasgm.api.results import EvaluationResult, SearchResult
from dasgm.genotype import Genotype
from dasgm.store.bucket import lies_at


def evaluate(
    genotype: str | Path | Genotype | SearchResult,
    recipe: str | None = None,
    *,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    weights: str | Path | None = None,
    settings: Settings = NO_SETTINGS,
    storage: str | Path = "runs",
    name: str = "",
    time_budget: float | None = None,
    progress: bool = False,
) -> EvaluationResult:
    """Train a network from scratch and measure it on the test set, or continue to: `dasgm evaluate`.

    Args:
        genotype: what a search found (its result, or the folder of its run), a genotype, its file or text, a name such
            as DARTS_V2, or a known network such as torchvision:resnet18.
        recipe: name of the settings to begin with (dasgm.recipes.RECIPES). None: the usual one of the data set.
        dataset, data_dir: name of the data set, and folder with its files. None: those of the search.
        weights: file of weights that a known network begins from.
        settings: other settings by path, as in {"epochs": 20}; `dasgm evaluate --help` lists them.
        storage: folder for all runs: a path, or an address such as s3://BUCKET/PREFIX.
        name: of the run, by default <genotype>-<recipe>-<dataset>-s<seed>. A finished run is returned at once.
        time_budget: seconds after which the training stops. The same call continues it.
        progress: print what happens, with a bar on a terminal. Otherwise nothing is printed.

    Raises:
        ValueError: input that cannot be used, a run in use, or one that began with other settings: one line.
        dasgm.search.SearchFailed: a loss is not finite, or memory does not suffice.
        dasgm.jobs.session.Interrupted: Ctrl-C. Every whole epoch is saved, and the same call continues.
        dasgm.jobs.session.OutOfTime: the same at the end of the time budget.
    """
    source = genotype_source(genotype)
    asked = locals() | {"genotype": source}
    check_time_budget(time_budget)
    with from_python(evaluate, asked, progress) as caller:
        size = settings.get("data.image_size", settings.get("data.image-size"))
        chosen = choose_training(
            source,
            recipe,
            dataset=dataset,
            data_dir=data_dir,
            image_size=size if isinstance(size, int) else None,
            weights=weights,
            say=caller.say,
        ).changed(settings)
        name = name or chosen.name()
        place = storage_here(storage, name)
        for line in chosen.lines(place / name):
            caller.say(line)
        return run_training(chosen, place, name, time_budget, caller)


def run_training(
    chosen: TrainingChoice, storage: Path, name: str, time_budget: float | None, caller: Caller
) -> EvaluationResult:
    """Run or continue a training in storage/name, of each fold where there are some.

    Raises:
        ValueError, SearchFailed, Interrupted: see `dasgm.jobs.evaluate.main`.
    """
    from dasgm.jobs import evaluate as one
    from dasgm.jobs import folds as several

    config, folder = chosen.config, storage / name
    main = several.main if config.folds and not config.fold else one.main
    about = {"recipe": chosen.recipe, chosen.design.kind: lies_at(chosen.source)}
    with caller.ending("training", folder, "every whole epoch"):
        main(chosen.design, config, folder, caller.hooks(folder, about, time_budget))
    return EvaluationResult.read(folder)
