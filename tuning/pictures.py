"""What the parameters of a sweep do, drawn by Optuna's own visualisation: Plotly figures as JSON in the sweep's folder.

`dasgm report` embeds them. A sweep draws them at its end; here is the command that draws them at any time:

    python -m tuning.pictures SWEEP
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from cluster.patience import say_now
from dasgm.cli.arguments import Parser, fail
from dasgm.measures.scores import FIRST
from dasgm.pages import front
from dasgm.pages.plots import FOLDER, NAMES
from dasgm.pages.report import report
from dasgm.store.files import first_line, printable, write_atomic
from dasgm.store.records import read_record
from tuning.spaces import name_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_AXES = 8  # parameters in one picture; of more the most important ones are drawn
MOST_CONTOURS = 4  # the same of contours, which are drawn for each pair
MOST_TRIALS = 100  # searches in a picture that grows with their square, or has a line each
TITLES = {
    "parallel": "Parallel coordinates",
    "importances": "Importance of the parameters",
    "history": "History",
    "slices": "One parameter at a time",
    "contours": "Two parameters at a time",
}


class Undefined(ValueError):
    """A picture that the searches so far do not define; the message says why."""


@dataclass(frozen=True)
class Objective:
    """One of the one or two objectives of a study, and the searches that have it."""

    study: optuna.Study
    names: tuple[str, ...]
    """What the study's objectives are called: best/proxy, parameters."""
    place: int = 0
    """Its place among them."""

    @property
    def name(self) -> str:
        return self.names[self.place]

    @property
    def target(self) -> Callable[[FrozenTrial], float] | None:
        """What Optuna is given; None where there is one objective, of which it then knows the direction."""
        return (lambda trial: trial.values[self.place]) if len(self.names) > 1 else None

    @property
    def maximised(self) -> bool:
        return self.study.directions[self.place] == optuna.study.StudyDirection.MAXIMIZE

    @property
    def given(self) -> dict[str, Any]:
        return {"target": self.target, "target_name": self.name}

    def trials(self) -> list[FrozenTrial]:
        """The searches that finished, the best first. Undefined: there are not two."""
        sign = -1 if self.maximised else 1
        found = sorted(_finished(self.study), key=lambda trial: sign * trial.values[self.place])
        if len(found) < 2:
            raise Undefined(f"it takes two searches with a score, so far there are {len(found)}")
        return found

    def weights(self) -> dict[str, float]:
        """The parameters that differ between the searches, with their importance, largest first. Undefined: none does.

        By PED-ANOVA (arXiv 2304.10255), Optuna's default. Where all searches are equally good, it is 0.
        """
        alike = len({trial.values[self.place] for trial in self.trials()}) == 1
        names = [name for name, found in _values(self.study).items() if len(found) > 1]
        if not names:
            raise Undefined("no parameter differs between the searches")
        if alike:
            return dict.fromkeys(names, 0.0)
        found = optuna.importance.get_param_importances(self.study, params=names, target=self.target)
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    def of_best(self) -> Objective:
        """The same of the best searches alone, the best last: it is drawn over the others."""
        best = self.trials()[:MOST_TRIALS]
        return Objective(_study(self.study.directions, best[::-1], self.names), self.names, self.place)


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _values(study: optuna.Study) -> dict[str, set[Any]]:
    """The values that each parameter had in the searches that finished."""
    found: dict[str, set[Any]] = {}
    for trial in _finished(study):
        for name, value in trial.params.items():
            found.setdefault(name, set()).add(value)
    return found


def _study(directions: Any, trials: Sequence[FrozenTrial], names: Sequence[str]) -> optuna.Study:
    study = optuna.create_study(directions=directions)
    study.set_metric_names(list(names))
    study.add_trials(trials)
    return study


# ------------------------------------------------------------------------------------------------ the pictures


def history(objective: Objective) -> tuple[Figure, str]:
    best = objective.trials()[0]
    figure = optuna.visualization.plot_optimization_history(objective.study, **objective.given)
    trials = len(objective.study.get_trials(deepcopy=False))
    figure.update_layout(height=320, width=300).update_xaxes(tick0=0, dtick=-(-trials // 10))
    return figure, f"The best is {name_of(best.number)} with {best.values[objective.place]:.4g}."


def importances(objective: Objective) -> tuple[Figure, str]:
    weights, searches = objective.weights(), len(objective.trials())
    if not any(weights.values()):
        raise Undefined(f"no parameter tells the good searches from the others by {objective.name}")
    figure = optuna.visualization.plot_param_importances(objective.study, params=list(weights), **objective.given)
    figure.update_layout(height=100 + 36 * len(weights), width=300).update_yaxes(title=None)
    told = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
    return figure, f"{told}. By PED-ANOVA from {searches} searches; the fewer they are, the less it means."


def parallel(objective: Objective) -> tuple[Figure, str]:
    """Of two objectives both, the lines coloured by Pareto rank."""
    drawn = list(objective.weights())[:MOST_AXES]
    given = objective.given if len(objective.names) == 1 else {}
    figure = optuna.visualization.plot_parallel_coordinate(objective.of_best().study, params=drawn, **given)
    for trace in figure.data:  # the palest would not be seen
        if trace.mode == "lines":
            trace.update(line={"width": 2, "color": _darker(trace.line.color)}, opacity=0.9)
        elif trace.marker.colorscale:
            trace.marker.colorscale = [[at, _darker(colour)] for at, colour in trace.marker.colorscale]
    figure.update_layout(height=420, width=110 * (len(drawn) + len(objective.names)))
    return figure, f"Each line is a search.{_of_best(objective)} {_left_out(objective, drawn)}"


def _darker(colour: str) -> str:
    """Of rgb(0-255, 0-255, 0-255)."""
    return f"rgb({', '.join(f'{0.72 * float(part):.0f}' for part in colour[4:-1].split(','))})"


def slices(objective: Objective) -> tuple[Figure, str]:
    drawn = list(objective.weights())[:MOST_AXES]
    figure = optuna.visualization.plot_slice(objective.study, params=drawn, **objective.given)
    figure.update_layout(height=340, width=150 * len(drawn) + 120).update_xaxes(nticks=4)
    return figure, f"Each dot is a search, the darker the later. {_left_out(objective, drawn)}"


def contours(objective: Objective) -> tuple[Figure, str]:
    drawn = list(objective.weights())[:MOST_CONTOURS]
    if len(drawn) < 2:
        raise Undefined(f"it takes two parameters that differ between the searches, and only {drawn[0]} does")
    figure = optuna.visualization.plot_contour(objective.of_best().study, params=drawn, **objective.given)
    size = 1 if len(drawn) == 2 else len(drawn)
    figure.update_layout(height=max(380, 190 * size), width=max(420, 190 * size))
    figure.update_xaxes(nticks=4).update_yaxes(nticks=5)
    figure.update_traces(reversescale=not objective.maximised, selector={"type": "contour"})
    note = f"Dots are searches; {objective.name} is interpolated between them, the darker the better."
    return figure, f"{note}{_of_best(objective)} {_left_out(objective, drawn)}"


def _left_out(objective: Objective, drawn: Sequence[str]) -> str:
    """Sentences about what a picture does not have."""
    every = _values(objective.study)
    same = [name for name, values in every.items() if len(values) == 1]
    less = [name for name in every if name not in (*drawn, *same)]
    told = [f"Left out, as all searches have the same: {', '.join(same)}."] if same else []
    told += [f"Left out, as less important: {', '.join(less)}."] if less else []
    return " ".join(told)


def _of_best(objective: Objective) -> str:
    more = len(objective.trials()) - MOST_TRIALS
    return f" Only the {MOST_TRIALS} searches with the best {objective.name} are drawn." if more > 0 else ""


DRAWN = {"parallel": parallel, "importances": importances, "history": history, "slices": slices, "contours": contours}


# ------------------------------------------------------------------------------------------------ their files


def objectives(folder: Path) -> list[Objective]:
    """The objectives of a sweep with a copy of its study.

    Raises:
        ValueError: there is no such study, or it cannot be read.
    """
    record, path = read_record(folder / "sweep.json"), (folder / "study.db").absolute()
    if not record or record.get("kind") or not path.is_file():
        raise ValueError(f"{folder}: no sweep of searches; expected a folder with sweep.json and study.db")
    try:
        kept = optuna.load_study(study_name=None, storage=f"sqlite:///{path}")
        trials = kept.get_trials()
    except Exception as error:  # SQLAlchemy's and Optuna's, if the file is not such a study
        raise ValueError(f"study {path}: it cannot be read ({first_line(error)[:200]})") from None
    for trial in trials:
        trial.user_attrs = {}  # the changes of the configuration, which hover texts would repeat
    both = (str(record.get("objective") or FIRST), str(record.get("and_minimise") or "second objective"))
    names = both[: len(kept.directions)]
    study = _study(kept.directions, trials, names)
    return [Objective(study, names, place) for place in range(len(names))]


def draw(folder: Path) -> None:
    """Write the pictures of a sweep into its folder; one that is not defined says why in its place.

    Raises:
        ValueError: see `objectives`.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's, of what is said in the notes here
        (folder / FOLDER).mkdir(exist_ok=True)
        for objective in objectives(folder):
            for name in NAMES:
                if objective.place and name == "parallel":
                    continue  # one has both
                end = f"-{objective.place + 1}" if objective.place else ""
                write_atomic(folder / FOLDER / f"{name}{end}.json", _figure(name, objective))


def _figure(name: str, objective: Objective) -> str:
    """A figure as JSON, with `meta` for the page: its title, and a note."""
    several = len(objective.names) > 1 and name != "parallel"
    title = f"{TITLES[name]}: {objective.name}" if several else TITLES[name]
    try:
        figure, note = DRAWN[name](objective)
    except Undefined as error:
        return _empty(title, f"Not drawn: {error}.")
    except Exception as error:  # Optuna's and Plotly's; no picture is worth a sweep
        return _empty(title, f"Not drawn: {first_line(error)[:200]}")
    figure.layout.template = None
    figure.update_layout(meta={"title": title, "note": note.strip()}, title={"text": title}, plot_bgcolor="#e9eef6")
    figure.update_layout(font={"family": "sans-serif", "size": 12, "color": "#2b3444"}, paper_bgcolor="rgba(0,0,0,0)")
    figure.update_layout(margin={"l": 60, "r": 30, "t": 28, "b": 50})
    axes = {"gridcolor": "white", "zeroline": False, "automargin": True, "title_standoff": 8, "exponentformat": "e"}
    figure.update_xaxes(axes).update_yaxes(axes)
    return figure.to_json()


def _empty(title: str, note: str) -> str:
    return json.dumps({"data": [], "layout": {"title": {"text": title}, "meta": {"title": title, "note": note}}})


def write_pages(folder: Path, objective: str, second: str = "") -> None:
    """Write what a reader of a sweep's folder looks at: pictures, front and page.

    Args:
        objective, second: see `Plan`; by default `second` is the number of parameters.
    """
    try:
        draw(folder)
    except ValueError as error:  # an older version's study; no picture is worth a sweep
        say_now(f"no pictures of the parameters: {error}")
    front.write(folder, objective, second or front.metric("parameters"))
    report(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    about = "Draws what the parameters of a sweep do, from the searches that have finished, and writes its page."
    parser = Parser(prog="python -m tuning.pictures", description=about)
    parser.add_argument("folder", type=Path, metavar="SWEEP", help="Folder of a sweep of searches.")
    options = parser.parse_args(arguments)
    try:
        draw(options.folder)
        print(printable(str(report(options.folder))))
    except (ValueError, OSError) as error:
        fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
