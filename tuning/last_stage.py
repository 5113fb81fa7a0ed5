"""The last stage of a sweep: the best genotypes are trained, on ImageNet or its own data, as by cluster/evaluate.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cluster import evaluate
from cluster.stores import ensure_known
from cluster.winners import Candidate
from dasgm.cli.again import part_of, script
from dasgm.config import to_json
from dasgm.plugins import key_of
from dasgm.store.bucket import lies_at
from dasgm.store.files import shell_line

if TYPE_CHECKING:
    from tuning.options import Options


def settings(options: Options) -> list[str]:
    """The options of cluster/evaluate.py, besides the sweep, for the stage that the options of a sweep ask for.

    Raises:
        ValueError, OSError: what is wrong with the settings, the workers, the data or MLflow's registry.
    """
    flag, given = ("imagenet", options.imagenet_set) if options.then_imagenet else ("train", options.train_set)
    if wrong := next((word for word in given if "=" not in word), None):
        raise ValueError(f"--{flag}-set {wrong!r}: expected a setting and its value, as in workers=2")
    key, images = key_of(options.config.data), options.config.data_dir
    if options.then_imagenet:
        key, images = "imagenet", options.then_imagenet
    place = [f"--dataset={key}", *([f"--data-dir={images}"] if images else [])]
    storage = f"--storage={lies_at(options.storage.absolute())}"
    found = [*place, storage, *(f"--{word}" for word in given)]
    found += [f"--register={options.register}"] if options.register else []
    ensure_known()  # before ImageNet's files are listed, which takes minutes
    any_found = Candidate("any", options.config.space.random(0), "", to_json(options.config))
    evaluations = evaluate.asked(found, candidates=[any_found])
    evaluations.look_at_data(evaluations.workers())
    evaluations.look_at_registry()
    return found


def train(folder: Path, top: int, settings: list[str], command: str) -> int:
    """Train the `top` best genotypes of the finished sweep in `folder`; return the exit code.

    Args:
        settings: of the function `settings`.
        command: continues the sweep and this stage.
    """
    words = [f"--from-sweep={folder.name}", f"--top={top}", *settings]
    print(f"the last stage: {shell_line([*script('cluster/evaluate.py'), *words])}", flush=True)
    with part_of(command):
        return evaluate.main(words)
