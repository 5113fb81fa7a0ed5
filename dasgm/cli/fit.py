"""`dasgm fit PICTURES`: from a folder of pictures to a trained model, in one process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from dasgm.api.fits import against_in, planned, run_fit
from dasgm.api.stages import TRAINING, part_of_fit
from dasgm.cli.again import called
from dasgm.cli.evaluate import trained_lines, training_line
from dasgm.cli.fit_options import asked
from dasgm.cli.progress import on_terminal
from dasgm.genotype import Genotype
from dasgm.recipes import EvaluateConfig
from dasgm.store.files import printable, shell_line

USUAL = "torchvision:resnet18"  # the known network of the line that trains one afterwards


def fit(argv: Sequence[str]) -> int:
    with part_of_fit():
        return _fit(argv)


def _fit(argv: Sequence[str]) -> int:
    begun = time.monotonic()
    given = asked(argv)
    if {"-h", "--help"} & set(argv):
        given.options(224, 1000)
    with on_terminal(called(["fit", *argv], "dasgm")) as caller:
        fit = planned(given, begun, caller)
        if fit.options.dry_run:
            caller.say("nothing was started (--dry-run)")
            return 0
        found = run_fit(fit, caller)
        caller.say(trained_lines(found.training.metrics, found.training.folder))
    if found.against:
        from dasgm.cli.compare import show

        show(found.compare())
        print(printable(f"  table     {found.comparison}"))
    else:
        genotype = given.genotype or Genotype.load(found.training.folder)
        for line in beside(fit.recipe, fit.training(genotype), found.folder):
            print(printable(line))
    register = shell_line(["python", "-m", "cluster.tracking", found.training.folder, "--register", given.model_name])
    print(printable(f"  register  {register}"))
    return 0


def beside(recipe: str, training: EvaluateConfig, place: Path) -> list[str]:
    """The lines that train a known network in the same way, and compare it with the found one."""
    other = against_in(place, USUAL)
    return [
        f"  beside it {training_line(USUAL, recipe, training, other)}",
        f"  compare   {shell_line(['dasgm', 'compare', place / TRAINING, other])}",
    ]
