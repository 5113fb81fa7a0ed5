"""The last stage of a sweep: the best genotypes trained on ImageNet, as by cluster/evaluate.py."""

from __future__ import annotations

from pathlib import Path

from cluster import evaluate
from cluster.stores import ensure_known
from dasgm.cli.again import part_of, script
from dasgm.store.bucket import lies_at
from dasgm.store.files import shell_line
from tuning.options import Options


def settings(options: Options) -> list[str]:
    """The settings of that command, which `train` takes.

    Raises:
        ValueError, OSError: what is wrong with them, with the workers or with the data, before the sweep begins.
    """
    if options.top > options.num_trials:
        raise ValueError(f"top {options.top}: expected at most the {options.num_trials} searches there are")
    if wrong := next((word for word in options.imagenet_set if "=" not in word), None):
        raise ValueError(f"--imagenet-set {wrong!r}: expected a setting and its value, as in workers=2")
    place = [
        "--dataset=imagenet",
        f"--data-dir={options.then_imagenet}",
        f"--storage={lies_at(options.storage.absolute())}",
    ]
    found = [*place, *(f"--{word}" for word in options.imagenet_set)]
    ensure_known()  # before ImageNet's files are listed, which takes minutes
    group = evaluate.asked(["DARTS_V2", *found])  # any genotype
    group.look_at_data(group.workers())
    return found


def train(folder: Path, top: int, settings: list[str], command: str) -> int:
    """Train the `top` best genotypes of the finished sweep in `folder`; the exit code. `command` continues it all."""
    words = [f"--from-sweep={folder.name}", f"--top={top}", *settings]
    print(f"the last stage: {shell_line([*script('cluster/evaluate.py'), *words])}", flush=True)
    with part_of(command):
        return evaluate.main(words)
