"""What the command of a sweep prints at its end: the ranking, the best genotype, and where everything lies."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from cluster.patience import say_now
from dasgm.pages import front
from dasgm.store.bucket import lies_at
from dasgm.store.files import printable, shell_line

if TYPE_CHECKING:
    from dasgm.pages.view import Ranked, RunView
    from tuning.sweep import Sweep


def show(sweep: Sweep) -> bool:
    """Print the ranking, the best genotype, and what to do next; return whether a trial finished."""
    from rich.console import Console

    from cluster.tracking import CHARTS, address
    from dasgm.pages.view import ranking, read_trials
    from tuning.table import table

    trials, storage = read_trials(sweep.folder), sweep.folder.parent
    width = None if sys.stdout.isatty() else 180
    console = Console(highlight=False, markup=False, width=width)
    config = sweep.base
    pixels, method = config.data.image_size, config.method
    held_out = "J_val" if config.data.holdout else "J_2"
    size = f"{sweep.dataset} {pixels}x{pixels}, {method.cells} cells of {method.channels} channels"
    console.print(
        table(
            trials,
            config.total_epochs,
            f"{printable(sweep.folder.name)} ({size}), ranked by {sweep.plan.rank_by}: proxy is accuracy on {held_out} "
            "± standard error after a short training, naswot a score of the untrained network",
            sweep.plan.objective,
        )
    )
    ranked = ranking(trials, sweep.plan.objective)
    for line in _synthetic([one.run for one in ranked]):
        say_now(line)
    best = next((one.run for one in ranked if one.rank == 1), None)
    for line in _by_cost(sweep, trials, ranked):
        say_now(line)
    if best and best.genotype:
        say_now(f"best genotype, {best.title} (by {sweep.plan.rank_by}): {best.folder / 'genotype.json'}")
        for kind, line in best.genotype.lines().items():
            say_now(f"  {kind}: {line}")
        say_now(f"  train it: {shell_line(['dasgm', 'evaluate', best.folder])}")
    say_now(f"everything lies in {lies_at(sweep.folder)}; to continue or extend: {sweep.command}")
    say_now("next:")
    say_now(f"  open {sweep.folder / 'report.html'}")
    if sweep.link:
        say_now(sweep.in_mlflow())
        say_now(f"     (the same as parallel coordinates and curves: {address(sweep.link + CHARTS, storage)})")
    return best is not None


def _by_cost(sweep: Sweep, trials: list[RunView], ranked: list[Ranked]) -> list[str]:
    """The front of two objectives, and the best search within the bounds that were asked for."""
    lines, plan, title = [], sweep.plan, front.SECOND.get(front.kind_of(sweep.plan.second), "")
    if plan.second and (found := front.placed(trials, plan.objective, plan.second)):
        lines.append(f"the front, no search is as good for less ({sweep.folder / 'front.md'}):")
        best = [one for one in found if one.front]
        lines += [f"  {one.ranked.run.title}: {one.value:.4g}, {front.written(one)} {title}" for one in best]
    if bounds := front.bounds(getattr(sweep.options, "at_most", "")):
        try:
            chosen = front.within([one for one in ranked if one.rank], bounds, str(sweep.folder))
        except ValueError as error:
            return [*lines, str(error)]
        for one in chosen[:1]:
            train = shell_line(["dasgm", "evaluate", one.run.folder])
            lines.append(f"best of {front.in_words(bounds)}, {one.run.title}: train it: {train}")
    return lines


def own_pictures(words: list[str]) -> list[str]:
    """The words of a command with a folder of the user's in place of its data set."""
    kept, rest = [], iter(words)
    for word in rest:
        if word in ("--dataset", "--data-dir", "--name"):
            next(rest, None)
        elif not word.startswith(("--dataset=", "--data-dir=", "--name=")):
            kept.append(word)
    return [*kept, "--dataset", "folder", "--data-dir", "YOUR_PICTURES"]


def _synthetic(runs: list[Any]) -> list[str]:
    """A line about the quality of the generated images, of the best run that has measured it."""
    for run in runs:
        accuracy, diversity = run.last("gan/synthetic_accuracy"), run.last("gan/diversity")
        judge = run.info.get("judge", {})
        if isinstance(judge.get("accuracy"), float) and accuracy is not None and diversity is not None:
            return [
                f"synthetic images of {run.title}: {accuracy:.3f} are what their label says (the judge, a small CNN "
                f"trained on J_1, has {judge['accuracy']:.3f} on {judge.get('measured_on')}); "
                f"they vary {diversity:.2f} times as much as real ones"
            ]
    return []
