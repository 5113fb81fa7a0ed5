"""`dasgm predict`: what a trained model says about pictures. Free of torch until it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dasgm.cli.arguments import Parser
from dasgm.store.files import printable


def predict(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="dasgm predict",
        description="Classify pictures: a line for each, with its most probable classes first. A picture that cannot "
        "be read is named, and the exit code is then 2; the others are classified all the same.",
    )
    parser.add_argument("model", help="Trained model: an evaluation's folder, its model.json or its model.safetensors.")
    parser.add_argument("images", nargs="+", help="Pictures: JPEG, PNG, WebP or GIF files.")
    parser.add_argument(
        "--top",
        type=int,
        default=5,
        help="Number of classes to print for each picture, the most probable first (default: 5).",
    )
    asked = parser.parse_args(list(argv))
    if asked.top < 1:
        raise ValueError(f"--top {asked.top}: expected at least 1")
    import dasgm
    from dasgm.data._pictures import reason

    model, unreadable = dasgm.load(asked.model), 0
    for image in asked.images:
        try:
            x = model.preprocess(image)
        except Exception as error:  # decoders raise whatever they stumble over
            print(printable(f"error: {image}: {reason(error)}"), file=sys.stderr)
            unreadable += 1
            continue
        (found,) = model.named(x[None], asked.top)
        print(printable(f"{image}: " + ", ".join(f"{name} {p:.1%}" for name, p in found)), flush=True)
    return 2 if unreadable else 0
