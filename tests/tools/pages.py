"""Folders of runs, written file by file, and a reader of result pages."""

from __future__ import annotations

import json
import math
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image

OPERATIONS = [
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
]
EDGES = [
    ["sep_conv_3x3", 0],
    ["sep_conv_3x3", 1],
    ["skip_connect", 0],
    ["dil_conv_5x5", 2],
    ["max_pool_3x3", 1],
    ["sep_conv_5x5", 3],
    ["sep_conv_3x3", 0],
    ["avg_pool_3x3", 4],
]
GENOTYPE = {"normal": EDGES, "normal_concat": [2, 3, 4, 5], "reduce": EDGES, "reduce_concat": [2, 3, 4, 5]}
CONFIG = {
    "method": {"key": "darts", "epochs": 12},
    "gan": {"key": "biggan", "channels": 16},
    "data": {"key": "digits", "image_size": 16, "holdout": 0.1},
    "val_portion": 0.5,
}


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def noise(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.frombytes("RGB", size, os.urandom(3 * size[0] * size[1])).save(path)


def alphas(epoch: int) -> dict[str, Any]:
    """Softmax weights that drift to another operation on each edge."""
    edges = []
    for edge in range(14):
        scores = [math.exp(0.15 * epoch * math.cos(edge + 2.1 * i)) for i in range(8)]
        edges.append([score / sum(scores) for score in scores])
    return {
        "epoch": epoch,
        "normal": edges,
        "reduce": edges[::-1],
        "operations": {"normal": [OPERATIONS] * 14, "reduce": [OPERATIONS] * 14},
    }


def _row(epoch: int, accuracy: float, gan: bool) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    row = {"epoch": epoch, "phase": "search", "time": 1.79e9 + epoch, "val/accuracy": accuracy}
    row |= {"loss/classifier": 2.3 - accuracy, "loss/architecture": 2.4 - accuracy}
    row |= {"arch/entropy_normal": 2.08 - 0.01 * epoch, "arch/entropy_reduce": 2.08 - 0.02 * epoch}
    row |= {"arch/skips_normal": epoch % 3, "arch/skips_reduce": 1, "speed/images_per_s": 210.0}
    if epoch % 2 == 0:
        row["arch/hessian_eigenvalue"] = 0.1 * epoch
    if gan:
        row |= {"loss/generator": 0.3, "loss/discriminator": 1.4, "grad/B": 1e-3 / epoch}
        row["gan/synthetic_accuracy"] = 0.8 + epoch / 100
    return row


def write_run(
    folder: Path,
    title: str,
    state: str,
    epochs: int,
    proxy: float | None = None,
    error: float = 0.02,
    naswot: float | None = None,
    gan: bool = True,
    reason: str = "",
    sweep: str | None = None,
) -> None:
    parameters: dict[str, Any] = {"classifier_lr": 0.0213, "arch_lr": 0.003, "gan": "biggan" if gan else "none"}
    parameters |= {"generator_lr": 0.0005, "val_portion": 0.5} if gan else {}
    info = {"format": 2, "name": folder.name, "title": title, "sweep": sweep, "parameters": parameters}
    info |= {"state": state, "reason": reason, "command": "dasgm search quickstart", "device": "cpu", "published": ""}
    put(folder / "run.json", info | {"started": 1.79e9, "ended": 1.79e9 + 95})
    put(folder / "config.json", CONFIG if gan else CONFIG | {"gan": None})
    rows = [_row(epoch, (proxy or 0.6) * (1 - 0.75**epoch), gan) for epoch in range(1, epochs + 1)]
    if proxy is not None:
        rows.append(
            {
                "phase": "best",
                "epoch": epochs,
                "time": 1.79e9,
                "best/proxy": proxy,
                "best/proxy_error": error,
                "best/naswot": 1000 * proxy if naswot is None else naswot,
                "cost/gpu_hours": 0.012,
            }
        )
    put(folder / "metrics.jsonl", lines(rows))
    put(folder / "alphas.jsonl", lines([alphas(epoch) for epoch in range(epochs + 1)]))
    if epochs:
        put(folder / "genotype.json", GENOTYPE)
    if gan:
        for epoch in (0, *range(3, epochs + 1, 3)):
            noise(folder / f"pictures/samples-{epoch:03d}.png", (128, 160))


class Page(HTMLParser):
    """The rows of the ranking, every address that the page would load, and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.rows: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "xlink:href", "data")
        ]
        if tag == "tr":
            self.rows.append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and data.strip():
            self.rows[-1] += data.strip() + "|"
