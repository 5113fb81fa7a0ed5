"""The result page: a run folder or a sweep folder -> one self-contained report.html.

It reads what the folder holds at that moment; what is missing, torn or malformed is left out: the page says "not yet".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, Template
from markupsafe import Markup

from dasgm.measures.scores import FIRST, SCORES, Score, name_of
from dasgm.measures.truth import DATASETS
from dasgm.pages import charts, comparison, front, plots
from dasgm.pages.classified import classified, compared
from dasgm.pages.pictures import embedded
from dasgm.pages.view import (
    STATES,
    Json,
    Ranked,
    RunView,
    flat,
    is_number,
    mlflow_ui,
    ranking,
    read_run,
    read_trials,
    registrations,
)
from dasgm.pages.words import breakable, command, duration, moment, number, per_row, percent, scored
from dasgm.store.files import shell_line, write_atomic
from dasgm.store.records import PLAN, read_json, read_record

MOST_FRAMES = 60  # epochs drawn in the alphas' chart
LARGEST_SWEEP = 60  # trials with a line each; of a larger sweep the page draws the best

PANELS: tuple[tuple[str, dict[str, str], bool], ...] = (  # title, metric -> name of its line, in percent?
    ("Loss of the supernet", {"loss/classifier": "W on J₁ (Eq. 3)", "loss/architecture": "A on J₃ (Eq. 6)"}, False),
    ("Loss of the GAN", {"loss/generator": "G (Eq. 4)", "loss/discriminator": "E (Eq. 5)"}, False),
    ("Accuracy on generated images", {"gan/synthetic_accuracy": "a fixed CNN agrees with the label"}, True),
    ("Entropy, nats per edge", {"arch/entropy_{kind}": "{cell}"}, False),
    ("Skip connections, uncapped", {"arch/skips_{kind}": "{cell}"}, False),
    ("Dominant eigenvalue of A's Hessian", {"arch/hessian_eigenvalue": "on a batch of J₂"}, False),
    ("Largest eigenvalue of A's Hessian", {"arch/largest_eigenvalue": "on a batch of J₂"}, False),
    (
        "Cost of the operations, 1: all alike",
        {"cost/expected_share": "expected of A", "cost/derived_share": "genotype"},
        False,
    ),
    ("Norm of B's gradient", {"grad/B": "B (Eq. 7)"}, False),
)
USES = (  # of a trained network: name, verb and arguments of a command
    ("predict", "predict", "PICTURE.jpg"),
    ("export", "export", "--format", "onnx"),
    ("latency", "measure", "--latency"),
    ("compare", "compare", "OTHER_RUN"),
    ("differ", "report", "--against", "OTHER_RUN"),
)
FIDELITY = {  # metric -> title; each chart has its protocol below it
    "gan/fid": "FID",
    "gan/is": "Inception score",
    "gan/fd_proxy": "fd_proxy, which is not FID",
}


def report(folder: str | Path) -> Path:
    """Write `report.html` into a run folder or a sweep folder and return its path; ValueError if it is neither.

    Of the folder of a fit, the pages of all its runs are written, and the path is that of the trained network's.
    """
    folder, template = Path(folder), "report.html.jinja"
    if (folder / PLAN).exists() and (runs := [path.parent for path in sorted(folder.glob("*/run.json"))]):
        return [report(run) for run in runs][-1]  # `training` is the last by name
    if read_record(folder / "sweep.json").get("kind") == "evaluations":
        raise ValueError(
            f"{folder}: a group of evaluations has no page; open table.md, or the report.html of one evaluation"
        )
    if (folder / "sweep.json").exists():
        content = _sweep(folder)
    elif read_record(folder / "run.json").get("kind") == "evaluation":
        content, template = _evaluation(folder), "evaluation.html.jinja"
    elif (folder / "run.json").exists() or (folder / "config.json").exists():
        content = _run(folder)
    else:
        raise ValueError(
            f"{folder}: no results found; expected the folder of a run (with run.json) or of a sweep (with sweep.json)"
        )
    page = template_named(template).render(content, written=datetime.now().timestamp())
    target = folder / "report.html"
    write_atomic(target, page.encode("utf-8", "replace"))
    return target


def template_named(name: str) -> Template:
    """A template of this folder, which escapes what it is given, with the filters and the style of all pages."""
    environment = Environment(
        loader=PackageLoader("dasgm.pages", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    filters = (percent, scored, number, moment, duration, breakable, command, per_row, charts.shortened)
    environment.filters.update({one.__name__: one for one in filters})
    return environment.get_template(name, globals={"style": charts.STYLE})


def _sweep(folder: Path) -> Json:
    info = read_record(folder / "sweep.json")
    score = SCORES[name_of(str(info.get("objective"))) or name_of(FIRST)]
    table = ranking(read_trials(folder), score.metric)
    runs = [one.run for one in table]
    best = _leader(table)
    painter = best if best is None or best.samples() else next((run for run in runs if run.samples()), best)
    config = info.get("config")
    config = config if isinstance(config, dict) else best.config if best else {}
    states, planned = Counter(run.state for run in runs), info.get("num_trials")
    states["waiting"] += max(0, planned - len(runs)) if isinstance(planned, int) else 0
    costs = [hours for run in runs if (hours := run.last("cost/gpu_hours")) is not None]
    lines = [
        charts.Series(
            name=run.title,
            points=run.curve("val/accuracy"),
            bold=run is best,
            faint=run.state in ("stopped", "failed"),
            cut=run.state == "stopped",
        )
        for run in runs[:LARGEST_SWEEP]
    ]
    drawn, second = plots.plots(folder), front.metric(str(info.get("and_minimise") or "parameters"))
    return _common(folder, info, config, folder.parent, best, painter) | {
        "kind": "sweep",
        "state": str(info.get("state") or "unknown"),
        "name": str(info.get("name") or folder.name),
        "scores": [score, *_others(score, runs)],
        "table": table,
        "ranked": sum(one.rank is not None for one in table),
        "leading": bool(best and best.state != "finished"),
        "varied": list(
            dict.fromkeys(key for run in sorted(runs, key=lambda run: run.folder.name) for key in run.parameters)
        ),
        "trials": sum(states.values()),
        "states": ", ".join(f"{states[state]} {state}" for state in (*STATES, "unknown") if states[state]),
        "links": {run.folder: f"{quote(run.folder.name)}/report.html" for run in runs if _has_page(run.folder)},
        "truths": {name: DATASETS[name] for run in runs for name in run.truth},
        "curves": charts.fitted(charts.line_chart, lines, "accuracy of each trial over epochs", percent=True),
        "front": front.content(runs, score.metric, second),
        "plots": drawn,
        "library": plots.library() if any(one.figure for one in drawn) else "",
        "redraw": shell_line(["python", "-m", "tuning.pictures", str(folder.resolve())]),
        "hidden": max(0, len(runs) - LARGEST_SWEEP),
        "cost": sum(costs) if costs else None,
    }


def _run(folder: Path) -> Json:
    run = read_run(folder)
    sweep = run.info.get("sweep")
    pretraining = run.info.get("kind") == "pretrain"
    name, key = ("generated images", "gan/synthetic_accuracy") if pretraining else ("supernet", "val/accuracy")
    line = charts.Series(name, run.curve(key), bold=True, cut=run.state == "stopped")
    return _common(folder, run.info, run.config, folder.parent.parent if sweep else folder.parent, run, run) | {
        "kind": "run",
        "pretraining": pretraining,
        "state": run.state,
        "name": run.title,
        "scores": [score for score in SCORES.values() if run.last(score.metric) is not None],
        "sweep": sweep,
        "table": ranking([run]),
        "proxied": dict(flat(run.config)).get("proxy.epochs", "0") != "0",
        "curves": charts.fitted(charts.line_chart, [line], "accuracy over epochs", percent=True),
        "cost": run.last("cost/gpu_hours"),
    }


def _evaluation(folder: Path) -> Json:
    """Of a network trained from scratch."""
    run = read_run(folder)
    test, train = (charts.Series(k, run.curve(f"{k}/error"), bold=k == "test") for k in ("test", "train"))
    loss = charts.Series("training loss", run.curve("loss/train"))
    rows = [row for row in run.metrics if row.get("phase") == "result"]
    result = {k.removeprefix("result/"): v for k, v in rows[-1].items() if k.startswith("result/")} if rows else {}
    storage = folder.parent.parent if (folder.parent / "sweep.json").exists() else folder.parent
    return _common(folder, run.info, run.config, storage, run, None) | {
        "kind": "evaluation",
        "state": run.state,
        "name": run.title,
        "result": result if {"error", "parameters", "multiply_adds"} <= set(result) else {},
        "epochs": run.config.get("epochs", "?"),
        "curves": charts.fitted(charts.line_chart, [test, train], "error over epochs", percent=True, width=480),
        "loss": charts.fitted(charts.line_chart, [loss], "training loss over epochs", width=480),
        "classified": classified(folder),
        "known": comparison.of_fit(folder),
        "against": compared(folder),
        "cost": run.last("cost/gpu_hours"),
        **{name: shell_line(["dasgm", verb, str(folder.resolve()), *more]) for name, verb, *more in USES},
        "registered": registrations(run.info),
    }


def _common(
    folder: Path, info: Json, config: Json, storage: Path, best: RunView | None, painter: RunView | None
) -> Json:
    """What both pages show; `best` is the run whose cells and curves are drawn, `painter` the one whose samples."""
    settings = dict(flat(config))
    started, ended = info.get("started"), info.get("ended")
    store = storage.resolve() / "mlflow.db"
    genotype = (best.folder if best else folder).resolve() / "genotype.json"
    return {
        "info": info,
        "best": best,
        "painter": painter,
        "set": "J_val" if settings.get("data.holdout", "0.0") != "0.0" else "J₂ (nothing held out)",
        "dataset": info.get("dataset") or settings.get("data.key"),
        "elapsed": ended - started if is_number(started) and is_number(ended) else None,
        "panels": _panels(best) if best else [],
        "cells": cells(best) if best else [],
        "about_cells": Markup(best.space.about) if best else "",
        "alphas": _alphas(best) if best else [],
        "genotype": best.genotype.to_json() if best and best.genotype else None,
        "network": read_json(folder / "network.json").get("network"),
        "samples": _pictures(painter.samples()) if painter else [],
        "nearest": _pictures(painter.nearest()) if painter else [],
        "fidelity": _fidelity(painter) if painter else {},
        "truth": _truth(best) if best else {},
        "no_gan": settings.get("gan") == "null",
        "config": flat(config),
        "data_notes": info.get("data_notes") or (best.info.get("data_notes") if best else None) or [],
        "path": str(folder.resolve()),
        "parts": _parts(folder),
        "evaluate": shell_line(["dasgm", "evaluate", genotype.parent]),
        "draw": shell_line(["dasgm", "draw", genotype]),
        "mlflow": mlflow_ui(f"sqlite:///{store}") if store.exists() else None,
        "track": shell_line(["python", "-m", "cluster.tracking", str(folder.resolve())]),
    }


def _parts(folder: Path) -> list[tuple[str, str]]:
    """Names and pages of the runs of the fit that a run is part of, its own without a page; [] where it is of none."""
    place, name = folder.resolve().parent, folder.resolve().name
    runs = read_trials(place) if (place / PLAN).exists() else []
    runs.sort(key=lambda run: began if is_number(began := run.info.get("started")) else math.inf)
    return [
        (run.title.rpartition(": ")[2], "" if run.folder.name == name else f"../{quote(run.folder.name)}/report.html")
        for run in runs
        if run.folder.name == name or _has_page(run.folder)
    ]


def _others(score: Score, runs: Sequence[RunView]) -> list[Score]:
    """The scores besides the one that ranks that a run has: older versions had the proxy alone."""
    return [
        one for one in SCORES.values() if one is not score and any(run.last(one.metric) is not None for run in runs)
    ]


def _has_page(folder: Path) -> bool:
    return (folder / "report.html").exists()


def _leader(table: Sequence[Ranked]) -> RunView | None:
    """The best finished trial; before one has finished, the one with the highest accuracy."""
    if table and table[0].rank:
        return table[0].run
    return max((one.run for one in table), key=lambda run: run.last("val/accuracy") or -1.0, default=None)


def _panels(run: RunView) -> list[tuple[str, Markup]]:
    drawn = []
    cells = _titles(run).items()
    for title, lines, share in PANELS:
        named = {k.format(kind=kind): v.format(cell=cell) for kind, cell in cells for k, v in lines.items()}
        series = [charts.Series(name, run.curve(key)) for key, name in named.items()]
        drawn.append((title, charts.line_chart(series, title, percent=share, width=340, height=190)))
    return [(title, chart) for title, chart in drawn if chart]


def _pictures(paths: Sequence[Path]) -> list[Json]:
    return [picture for path in paths if (picture := embedded(path))]


def _fidelity(run: RunView) -> Json:
    """Charts with their protocols, FID and IS every ten epochs (Table 5; of a short run all), and the end's."""
    drawn = [
        (title, charts.line_chart([charts.Series(title, run.curve(key))], title, width=340, height=190), key)
        for key, title in FIDELITY.items()
    ]
    fid, score = dict(run.curve("gan/fid")), dict(run.curve("gan/is"))
    epochs = [epoch for epoch in fid if epoch % 10 == 0] or list(fid)
    end = {key: run.last(f"best/{key}") for key in ("fid", "is", "is_sd")}
    return {
        "charts": [(title, chart, run.protocol(key)) for title, chart, key in drawn if chart],
        "table": [(epoch, fid[epoch], score.get(epoch)) for epoch in epochs],
        "protocol": run.protocol("gan/fid"),
        "end": end | {"protocol": run.protocol("best/fid")} if end["fid"] is not None else None,
    }


def _truth(run: RunView) -> Json:
    """How accurate the genotype of each epoch truly is, and the last one's ranks and regrets; {} without a table."""
    lines = [charts.Series(title, run.curve(f"truth/{name}")) for name, title in DATASETS.items()]
    last = [
        (DATASETS[name], accuracy, run.last(f"truth/rank_{name}"), run.last(f"truth/regret_{name}"))
        for name, accuracy in run.truth.items()
    ]
    chart = charts.fitted(charts.line_chart, lines, "true accuracy over epochs", percent=True)
    return {"chart": chart, "last": last, "table": run.info.get("truth")} if chart else {}


def cells(run: RunView) -> list[tuple[str, Markup]]:
    """The cells as SVG; [] without a genotype, or without what draws it (pygraphviz)."""
    if run.genotype is None:
        return []
    try:
        from dasgm.pages.figures import cell_svg

        # safe as it is: a genotype is validated, and nothing else is written in its picture
        space = run.genotype.space
        titles = zip(space.cell_types, space.titles, strict=True)
        return [(title.capitalize(), Markup(cell_svg(run.genotype, kind))) for kind, title in titles]
    except (ImportError, OSError):
        return []


def _titles(run: RunView) -> dict[str, str]:
    """The types of cells in words."""
    return dict(zip(run.space.cell_types, run.space.titles, strict=True))


def _alphas(run: RunView) -> list[tuple[str, Markup]]:
    drawn, rows, space = [], run.alphas(), run.space
    graphs = run.genotype.graphs if run.genotype else {}
    for kind, title in _titles(run).items():
        frames = {row["epoch"]: frame for row in rows if (frame := _frame(row, kind, space.edges))}
        epochs = sorted(frames)
        if epochs:
            step = -(-len(epochs) // MOST_FRAMES)
            epochs = sorted({*epochs[::step], epochs[-1]})
            graph = graphs.get(kind)
            chosen = {(target - graph.inputs, source): name for name, source, target in graph.edges} if graph else {}
            label, weights = f"{title.capitalize()}: softmax weights over epochs", [frames[epoch] for epoch in epochs]
            chart = charts.edge_chart(epochs, weights, chosen, label, space.inputs, space.states)
            drawn.append((title.capitalize(), chart))
    return drawn


def _frame(row: Json, kind: str, number: int) -> list[dict[str, float]]:
    """The weights of a cell's edges by operation in one line of alphas.jsonl; [] if it is malformed."""
    try:
        pairs = zip(row["operations"][kind], row[kind], strict=True)
        edges = [dict(zip(names, map(float, weights), strict=True)) for names, weights in pairs]
    except (KeyError, TypeError, ValueError):
        return []
    sound = len(edges) == number and isinstance(row.get("epoch"), int)
    return edges if sound and all(edge and all(map(math.isfinite, edge.values())) for edge in edges) else []
