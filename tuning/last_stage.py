"""The last stage of a sweep: the best genotypes are trained on ImageNet, as by cluster/evaluate.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster import evaluate
from cluster.stores import ensure_known
from dasgm.cli.again import part_of, script
from dasgm.store.bucket import lies_at
from dasgm.store.files import shell_line


def settings(images: str, storage: Path, given: Sequence[str], register: str = "") -> list[str]:
    """The options of cluster/evaluate.py, besides the sweep, for this stage.

    Args:
        images: the folder with ImageNet's files.
        storage: the folder in which all runs lie.
        given: settings of the training, each as NAME=VALUE.
        register: name of the registered model of the trained networks, if any.

    Raises:
        ValueError, OSError: what is wrong with the settings, the workers, the data or MLflow's registry.
    """
    if wrong := next((word for word in given if "=" not in word), None):
        raise ValueError(f"--imagenet-set {wrong!r}: expected a setting and its value, as in workers=2")
    place = ["--dataset=imagenet", f"--data-dir={images}", f"--storage={lies_at(storage.absolute())}"]
    found = [*place, *(f"--{word}" for word in given), *([f"--register={register}"] if register else [])]
    ensure_known()  # before ImageNet's files are listed, which takes minutes
    evaluations = evaluate.asked(["DARTS_V2", *found])  # any genotype
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
