"""A search in one process: the function for Python, and what `dasgm search` does besides."""

from __future__ import annotations

from pathlib import Path

from dasgm.api.callers import Caller, from_python
from dasgm.api.choices import NO_SETTINGS, SearchChoice, Settings, choose_search
from dasgm.api.places import storage_here
from dasgm.api.results import SearchResult
from dasgm.config import PretrainConfig
from dasgm.store.bucket import lies_at
from dasgm.store.files import printable


def search(
    preset: str | Path = "quickstart",
    *,
    gan: str | None = None,
    method: str | None = None,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    settings: Settings = NO_SETTINGS,
    storage: str | Path = "runs",
    name: str = "",
    pretrain: bool = False,
    progress: bool = False,
) -> SearchResult:
    """Search an architecture, or continue the search of this name: `dasgm search`.

    Args:
        preset: settings to begin with: a name (`dasgm presets` lists them), or the path of a JSON file.
        gan, method, dataset: names of other parts than the preset's; gan "none" searches without one.
        data_dir: folder with the data set's files.
        settings: other settings by path, as in {"method.epochs": 2}; `dasgm search --help` lists them.
        storage: folder for all runs: a path, or an address such as s3://BUCKET/PREFIX.
        name: of the run, by default <preset>-<dataset>-s<seed>. A finished run is returned at once.
        pretrain: begin with a pre-trained GAN; train it first if no run in `storage` has done so.
        progress: print what happens, with a bar on a terminal. Otherwise nothing is printed.

    Raises:
        ValueError: input that cannot be used, a run in use, or one that began with other settings: one line.
        dasgm.search.SearchFailed: a loss is not finite, memory does not suffice, or the generator has collapsed.
        dasgm.jobs.session.Interrupted: Ctrl-C. Everything is saved, and the same call continues.
    """
    asked = dict(locals())
    chosen = choose_search(str(preset), gan=gan, method=method, dataset=dataset, data_dir=data_dir).changed(settings)
    name = name or chosen.name()
    place = storage_here(storage, name)
    with from_python(search, asked, progress) as caller:
        caller.say(loading(chosen, place / name))
        return run_search(chosen, place, name, pretrain, caller)


def loading(chosen: SearchChoice, folder: Path) -> str:
    """What is said before a search begins."""
    return printable(f"{chosen.preset} on {chosen.dataset}: loading; the run's folder is {lies_at(folder)}")


def run_search(chosen: SearchChoice, storage: Path, name: str, pretrain: bool, caller: Caller) -> SearchResult:
    """Run or continue a search in storage/name, after the pre-training of its GAN if asked for.

    Raises:
        ValueError, SearchFailed, Interrupted: see `dasgm.jobs.search.main`.
    """
    from dasgm.jobs import pretrain as before
    from dasgm.jobs import search as job

    config, folder = chosen.config, storage / name
    if pretrain:

        def first(wanted: PretrainConfig, place: Path) -> None:
            with caller.ending("pre-training", place):
                before.main(wanted, place, caller.hooks(place))

        config = before.of_search(config, storage, first, caller.say)
    with caller.ending("search", folder):
        job.main(config, folder, caller.hooks(folder, {"published": chosen.published}))
    return SearchResult.read(folder)
