"""Train genotypes from scratch with several seeds, side by side, each as a Ray Train job.

python cluster/evaluate.py DARTS_V2 runs/mine torchvision:resnet18 --dataset cifar10 --seeds 4
python cluster/evaluate.py --from-sweep NAME --top 2 --dataset imagenet --data-dir FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster import connection
from cluster.evaluations import Evaluations, Options
from cluster.group import carry_out
from cluster.handover import HELP, hand_over
from cluster.winners import Candidate, named, of_sweep
from dasgm.api.choices import choose_recipe
from dasgm.cli import again
from dasgm.cli.arguments import fail, flattened, parse, take
from dasgm.cli.evaluate import OF_WHAT, SOURCES, as_arguments, recipes_help, size_of
from dasgm.designs.design import ensure_effect
from dasgm.given import flags
from dasgm.pages.front import bounds
from dasgm.plugins import key_of
from dasgm.recipes import EvaluateConfig
from dasgm.store.bucket import local

BEFORE = ("--recipe", "--dataset", "--data-dir", "--storage", "--workers", "--from-sweep", "--top", "--at-most")
"""Options that are read before the others, whose defaults they choose."""
IMAGENET_WORKERS = 8
ABOUT = (
    f"Train genotypes from scratch, side by side. To continue, run the same command. {HELP}"
    f"\n- GENOTYPE...: {OF_WHAT}"
    "\n- --from-sweep NAME: Sweep whose best genotypes are trained instead."
    "\n- --top NUMBER: Number of that sweep's genotypes to train, the best first. The default is 1."
    "\n- --at-most BOUNDS: Largest cost of those, as in params=1e6 or params=1e6,multiply_adds=1e8."
)


def asked(
    argv: Sequence[str], prog: str = "python cluster/evaluate.py", candidates: Sequence[Candidate] = ()
) -> Evaluations:
    """The evaluations that a command line asks for.

    Args:
        candidates: those of a command line that names none.

    Raises:
        ValueError: it names no genotypes, or ones that do not exist.
    """
    values, sources, rest = take(argv, BEFORE, len(argv))
    values |= size_of(rest)
    storage = local(values.get("--storage", "runs"))
    if {"-h", "--help"} & set(argv):
        sources = sources or ["DARTS_V2"]  # any
    candidates = candidates or _candidates(values, sources, storage)
    searched = next((one.config for one in candidates if one.config), {})
    usual = candidates[0].design.recipes
    workers = _workers(values, searched, usual)
    ensure_effect(flags(rest), [one.design for one in candidates])
    sharing = 1 if _names_batch_size(rest) else workers
    recipe, config = choose_recipe(searched, usual, **as_arguments(values), workers=sharing)
    words = [*rest, f"--storage={storage}", f"--workers={workers}"]
    kind, about = flattened(Options, EvaluateConfig), ABOUT + recipes_help()
    options: Options = parse(kind, words, Options(config), prog, about, BEFORE, "[GENOTYPE...]")
    name = _default_name(values.get("--from-sweep", ""), candidates, recipe, options.config)
    return Evaluations(candidates, recipe, options, name, again.called(argv, "cluster/evaluate.py"))


def _candidates(values: Mapping[str, str], sources: Sequence[str], storage: Path) -> list[Candidate]:
    """The genotypes that are named, or the best of the sweep that is."""
    sweep = values.get("--from-sweep", "")
    if bool(sweep) == bool(sources):
        raise ValueError(f"name genotypes, each by {SOURCES}, or a sweep with --from-sweep, and not both")
    for flag in ("--top", "--at-most"):
        if flag in values and not sweep:
            raise ValueError(
                f"{flag} {values[flag]}: there is no sweep; name one with --from-sweep, or leave {flag} out"
            )
    most = bounds(values.get("--at-most", ""), "--at-most")
    return of_sweep(sweep, storage, _whole("--top", values.get("--top", "1")), most) if sweep else named(sources)


def _workers(values: Mapping[str, str], searched: dict[str, Any], usual: Mapping[str, str]) -> int:
    """The number of workers of each training.

    The default is 1, for ImageNet 8 on a cluster and elsewhere as many as there are GPUs, at most 8.
    """
    if given := values.get("--workers"):
        return _whole("--workers", given)
    _, config = choose_recipe(searched, usual, **as_arguments(values))
    if not config.data.streamed:
        return 1
    return IMAGENET_WORKERS if connection.joined() else min(IMAGENET_WORKERS, max(1, connection.visible_gpus()))


def _names_batch_size(words: Sequence[str]) -> bool:
    return any(word.partition("=")[0] in ("--batch-size", "--batch_size") for word in words)


def _default_name(sweep: str, candidates: Sequence[Candidate], recipe: str, config: EvaluateConfig) -> str:
    """<genotypes>-<recipe>-<dataset>: at most two genotypes by name, those of a sweep as <sweep>-top<number>."""
    if sweep:
        first = [f"{Path(sweep).name}-top{len(candidates)}"]
    else:
        first = [one.name for one in candidates[:2]]
        first += [f"and-{len(candidates) - 2}"] if len(candidates) > 2 else []
    return "-".join(dict.fromkeys([*first, recipe, key_of(config.data)]))


def _whole(flag: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{flag} {text}: expected a whole number, at least 1")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit codes: 0 done, 1 one failed, 2 the user's mistake, 130 stopped."""
    words = sys.argv[1:] if argv is None else list(argv)
    if (code := hand_over("cluster.evaluate", words)) is not None:
        return code
    try:
        evaluations = asked(words)
    except (ValueError, OSError) as error:
        fail(error)
    return carry_out(evaluations)


if __name__ == "__main__":
    raise SystemExit(main())
