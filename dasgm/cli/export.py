"""`dasgm export`: a trained model for other programs. Free of torch until it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dasgm.cli.arguments import Parser
from dasgm.store.files import printable


def export(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="dasgm export",
        description="Write a trained network for other programs, for batches of any size, once its outputs agree with "
        "the network's to 1e-4. pt2: torch.export.load(FILE).module()(images); onnx: input images, output logits.",
    )
    parser.add_argument("model", help="Trained model: an evaluation's folder, its model.json or its model.safetensors.")
    parser.add_argument(
        "--format",
        choices=("pt2", "onnx"),
        required=True,
        help="Format of the file: pt2 is a PyTorch program, onnx is ONNX.",
    )
    parser.add_argument(
        "--output", type=Path, help="File to write (default: model.pt2 or model.onnx beside the model)."
    )
    asked = parser.parse_args(list(argv))
    import dasgm
    from dasgm.export import BATCHES, export

    model, place = dasgm.load(asked.model), Path(asked.model)
    output = asked.output or (place if place.is_dir() else place.parent) / f"model.{asked.format}"
    worst = export(model, output, asked.format)
    sizes = ", ".join(map(str, BATCHES))
    print(
        f"{printable(str(output))}: outputs agree to {worst:.1e} at batches of {sizes}; images are "
        f"[N, 3, {model.image_size}, {model.image_size}], normalised with mean {_rounded(model.mean)} and "
        f"std {_rounded(model.std)}"
    )
    return 0


def _rounded(values: Sequence[float]) -> list[float]:
    """For people; the file has all digits."""
    return [round(value, 4) for value in values]
