"""A sweep and its last stage: the best genotypes trained on ImageNet, as by cluster/evaluate.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster import evaluate
from cluster.stores import ensure_known
from dasgm.cli.again import line, part_of, script
from dasgm.cli.arguments import fail
from dasgm.store.bucket import lies_at
from dasgm.store.records import read_json
from tuning.sweep import carry_out

if TYPE_CHECKING:
    from tuning.options import Options
    from tuning.sweep import Sweep


def after(sweep: Sweep, options: Options) -> int:
    """Run or continue the sweep and, once all of its searches came to their end, that stage; the exit code.

    What would be wrong with the stage's settings, workers or data is said before the sweep begins.
    """
    try:
        if options.top > options.num_trials:
            raise ValueError(f"top {options.top}: expected at most the {options.num_trials} searches there are")
        stage = words(sweep, options)
        ensure_known()  # before ImageNet's files are listed, which takes minutes
        group = evaluate.asked(["DARTS_V2", *stage])  # any genotype
        group.look_at_data(group.workers())
    except (ValueError, OSError) as error:
        fail(error)
    code = carry_out(sweep)
    if code or options.dry_run or read_json(sweep.folder / "sweep.json").get("state") != "finished":
        return code
    stage = [f"--from-sweep={sweep.folder.name}", f"--top={options.top}", *stage]
    print(f"the last stage: {line([*script('cluster/evaluate.py'), *stage])}", flush=True)
    with part_of(sweep.command):
        return evaluate.main(stage)


def words(sweep: Sweep, options: Options) -> list[str]:
    """Those of cluster/evaluate.py that do not say of what. ValueError: a setting without its value."""
    if wrong := next((word for word in options.imagenet_set if "=" not in word), None):
        raise ValueError(f"--imagenet-set {wrong!r}: expected a setting and its value, as in workers=2")
    place = ["--dataset=imagenet", f"--data-dir={options.then_imagenet}", f"--storage={lies_at(sweep.folder.parent)}"]
    return [*place, *(f"--{word}" for word in options.imagenet_set)]
