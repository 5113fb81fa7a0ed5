"""`dasgm export`: a trained model for other programs. Free of torch until it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dasgm.cli.arguments import TRAINED, Parser
from dasgm.store.files import printable, write_atomic

if TYPE_CHECKING:
    from dasgm.model import Model


def _parser() -> Parser:
    parser = Parser(
        prog="dasgm export",
        description="Write a trained network for other programs, for batches of any size, once its outputs agree with "
        "the network's to 1e-4. pt2: torch.export.load(FILE).module()(images); onnx: input images, output logits, and "
        "beside it a script that classifies pictures with onnxruntime, NumPy and Pillow alone.",
    )
    parser.add_argument("model", help=TRAINED)
    parser.add_argument(
        "--format",
        choices=("pt2", "onnx"),
        required=True,
        help="Format of the file: pt2 is a PyTorch program, onnx is ONNX.",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="Numbers inside an ONNX file: float32, float16 (half the size) or int8 (a quarter: weights in 8 bits, "
        "onnxruntime's dynamic quantization). The accuracy of the last two is measured (default: float32).",
    )
    parser.add_argument(
        "--pictures",
        nargs="+",
        metavar="PICTURE",
        help="Files, folders or patterns on which the accuracy of float16 and int8 is measured; the class of a picture "
        "is the name of its folder (default: up to 1,000 test pictures of the model's data set).",
    )
    parser.add_argument(
        "--data-dir",
        help="Folder with the files of the model's data set, for its test pictures (default: where the run read them).",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="File to write (default: model.pt2, model.onnx, model.float16.onnx or model.int8.onnx beside the model).",
    )
    return parser


def export(argv: Sequence[str]) -> int:
    asked = _parser().parse_args(list(argv))
    lossy = asked.precision != "float32"
    for flag, value in (("--pictures", asked.pictures), ("--data-dir", asked.data_dir)):
        if value and not lossy:
            raise ValueError(
                f"{flag}: float32 is compared number by number; give {flag} with --precision float16 or int8"
            )
    if asked.pictures and asked.data_dir:
        raise ValueError("--pictures and --data-dir: both name what accuracy is measured on; leave one of them out")
    import dasgm
    from dasgm.export import ensure_possible, script
    from dasgm.export import export as write

    ensure_possible(asked.format, asked.precision)
    model, place = dasgm.load(asked.model), Path(asked.model)
    folder = place if place.is_dir() else place.parent
    name = f"model.{asked.precision}.onnx" if lossy else f"model.{asked.format}"
    output = asked.output or folder / name
    inputs = _inputs(model, folder, asked) if lossy else iter(())
    worst = write(model, output, asked.format, asked.precision)
    print(printable(f"{output}: {_agreement(model, output, inputs) if lossy else _difference(worst)}"))
    print(
        f"images are [N, 3, {model.image_size}, {model.image_size}], normalised with mean {_rounded(model.mean)} and "
        f"std {_rounded(model.std)}; these and the names of the classes are in the file"
    )
    if asked.format == "onnx":
        beside = output.with_name(f"{output.name}.py")
        write_atomic(beside, script(model))
        print(printable(f"{beside}: classifies pictures by it, with onnxruntime, NumPy and Pillow alone"))
    return 0


def _inputs(model: Model, folder: Path, asked: argparse.Namespace) -> Iterator[Any]:
    """What accuracy is measured on."""
    from dasgm.jobs.evaluate import opened
    from dasgm.measures.agreement import named, of_the_test

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    test = of_the_test(model, folder, asked.data_dir, opened, say)
    found = named(model, asked.pictures, say) if asked.pictures else test
    if (first := next(found, None)) is None:  # before anything is written
        raise ValueError("--pictures: none of them can be read; expected some to measure the accuracy on")
    return chain([first], found)


def _agreement(model: Model, output: Path, inputs: Iterator[Any]) -> str:
    from dasgm.export import opened
    from dasgm.measures.agreement import agreement

    return str(agreement(model, opened(output), inputs))


def _difference(worst: float) -> str:
    from dasgm.export import BATCHES

    return f"outputs agree to {worst:.1e} at batches of {', '.join(map(str, BATCHES))}"


def _rounded(values: Sequence[float]) -> list[float]:
    """For people; the file has all digits."""
    return [round(value, 4) for value in values]
