"""`dasgm predict`: what a trained model says about pictures. Free of torch until it runs."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dasgm.cli.arguments import TRAINED, Parser
from dasgm.store.files import printable

if TYPE_CHECKING:
    from dasgm.data._named import Unreadable
    from dasgm.model import Prediction

WIDEST = 60  # characters up to which the column of pictures is as wide as the longest name
MOST_STDIN = 64 * 2**20  # bytes of a list of paths


def _parser() -> Parser:
    parser = Parser(
        prog="dasgm predict",
        description="Classify pictures: a line for each, with its most probable classes first. A picture that cannot "
        "be read is named on standard error, and the exit code is then 2; the others are classified all the same. "
        "Probabilities are the softmax of the network's logits, without the temperature of metrics.json.",
    )
    parser.add_argument("model", help=TRAINED)
    parser.add_argument(
        "images",
        nargs="+",
        help="Pictures: JPEG, PNG, WebP or GIF files; folders, of which all pictures below are read; patterns in "
        "quotes such as 'holiday/**/*.jpg'; or -, which reads such names from standard input, one a line.",
    )
    parser.add_argument(
        "--top",
        type=int,
        default=5,
        help="Number of classes to print for each picture, the most probable first (default: 5).",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        help="Probability from 0 to 1 that the best class must have; below it the answer is 'none of these' "
        "(default: 0, which always names a class).",
    )
    parser.add_argument(
        "--format",
        choices=("table", "json", "csv"),
        default="table",
        help="Form of the answer: a table, a JSON array with an object per picture, or CSV (default: table).",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=64,
        help="Number of pictures that the network sees at once (default: 64).",
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="Device to compute on: auto (a GPU if there is one), cpu, cuda, cuda:N (GPU number N) or mps "
        "(default: auto).",
    )
    return parser


def predict(argv: Sequence[str]) -> int:
    asked = _parser().parse_args(list(argv))
    for flag, value in (("--top", asked.top), ("--batch-size", asked.batch_size)):
        if value < 1:
            raise ValueError(f"{flag} {value}: expected at least 1")
    if not 0 <= asked.threshold <= 1:
        raise ValueError(f"--threshold {asked.threshold}: expected a probability from 0 to 1")
    import dasgm
    from dasgm.cli.progress import listing
    from dasgm.device import device_of

    model = dasgm.load(asked.model, device_of(asked.device))
    pictures = list(_named(asked.images))
    top = min(asked.top, len(model.classes))
    names = [str(getattr(picture, "path", picture)) for picture in pictures]
    head, line, foot = FORMS[asked.format](names, model.classes, top)
    unreadable = 0
    predictions = model.predictions(pictures, top, threshold=asked.threshold, batch_size=asked.batch_size)
    with listing("predict", len(pictures)) as (write, step):
        for part in head:
            write(part)
        for prediction in predictions:
            if prediction.error:
                print(printable(f"error: {prediction.picture}: {prediction.error}"), file=sys.stderr)
                unreadable += 1
            if text := line(prediction):
                write(text)
            step()
        for part in foot:
            write(part)
    return 2 if unreadable else 0


def _named(names: Sequence[str]) -> Iterator[Path | Unreadable]:
    from dasgm.data._named import pictures

    for name in names:
        for each in _standard_input() if name == "-" else [name]:
            yield from pictures(each, lambda line: print(line, file=sys.stderr))


def _standard_input() -> list[str]:
    """The names in it, one a line."""
    content = sys.stdin.buffer.read(MOST_STDIN + 1)
    if b"\0" in content or len(content) > MOST_STDIN:
        raise ValueError("-: standard input is no list of files; write one name a line, as find and ls do")
    if not (names := [name for line in os.fsdecode(content).split("\n") if (name := line.rstrip("\r")).strip()]):
        raise ValueError("-: standard input is empty; expected names of pictures or folders, one a line")
    return names


# head, the line of a picture (None: it has none) and foot of each format

Form = tuple[list[str], Callable[["Prediction"], str | None], list[str]]


def _table(names: Sequence[str], classes: Sequence[str], top: int) -> Form:
    """Columns as wide as the longest name that may stand in them: the lines are written while pictures are read."""
    from rich.cells import cell_len

    from dasgm.model import NONE

    def padded(text: str, width: int) -> str:
        return text + " " * (width - cell_len(text))

    first = min(WIDEST, max(cell_len(printable(name)) for name in ["picture", *names]))
    second = max(cell_len(printable(name)) for name in ["answer", NONE, *classes])
    others = "  most probable" if top > 1 else ""

    def line(found: Prediction) -> str | None:
        if found.error:
            return None
        shown = "  " + ", ".join(f"{printable(name)} {p:.1%}" for name, p in found) if top > 1 else ""
        answer = padded(printable(found.answer), second)
        return f"{padded(printable(found.picture), first)}  {answer}  {found[0][1]:>11.1%}{shown}"

    return [f"{padded('picture', first)}  {padded('answer', second)}  probability{others}"], line, []


def _json(names: Sequence[str], classes: Sequence[str], top: int) -> Form:
    left = len(names)

    def line(found: Prediction) -> str:
        nonlocal left
        left -= 1
        about: dict[str, object] = {"picture": found.picture}
        if found.error:
            about["error"] = found.error
        else:
            ranked = [{"class": name, "probability": p} for name, p in found]
            about |= {"answer": found.answer, "probability": found[0][1], "classes": ranked}
        return " " + json.dumps(about) + "," * (left > 0)

    return ["["], line, ["]"]


def _csv(names: Sequence[str], classes: Sequence[str], top: int) -> Form:
    def row(values: Sequence[object]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(values)
        return text.getvalue()

    def line(found: Prediction) -> str:
        ranked = [cell for name, p in found for cell in (printable(name), f"{p:.6f}")]
        probability = f"{found[0][1]:.6f}" if found else ""
        return row(
            [
                *(printable(found.picture), printable(found.answer), probability),
                *(ranked or [""] * (2 * top)),
                printable(found.error),
            ]
        )

    ranks = [f"{column}_{rank}" for rank in range(1, top + 1) for column in ("class", "probability")]
    return [row(["picture", "answer", "probability", *ranks, "error"])], line, []


FORMS = {"table": _table, "json": _json, "csv": _csv}
