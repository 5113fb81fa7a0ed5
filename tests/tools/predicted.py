"""Predictions on test pictures, as a trained model leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def predictions(path: Path, right: str, names: Sequence[str] = ()) -> Path:
    """A predictions.csv: a `1` for each picture that the model gets right, a `0` for each that it gets wrong."""
    names = names or [f"test/{i}.png" for i in range(len(right))]
    rows = [f'"{name}",cat,{"cat" if hit == "1" else "dog"},0.9' for name, hit in zip(names, right, strict=True)]
    path.write_text("\n".join(["picture,true,predicted,probability", *rows]) + "\n")
    return path
