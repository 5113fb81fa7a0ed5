"""python jobs.py FOLDER: a search, a pre-training and an evaluation in bfloat16, from the first line to the last, and
what an evaluation leaves, loaded on the GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import inside
import torch

from dasgm.cli import main as cli
from dasgm.config import override
from dasgm.jobs.training import Training
from dasgm.model import load
from dasgm.recipes import recipe
from dasgm.spaces.darts import KNOWN

GAN = ["--gan.channels=2", "--gan.shared-dim=8", "--gan.z-dim=24", "--data.limit=200", "--batch-size=8"]
SEARCH = ["search", "quickstart", *GAN, "--method.epochs=2", "--method.channels=2", "--proxy.epochs=1"]
EVALUATE = ["evaluate", "DARTS_V2", "--recipe=digits-small", "--cells=3", "--channels=2", "--epochs=1"]
COMMANDS = {
    "search": [*SEARCH, "--proxy.channels=4", "--gan.warmup=2"],
    "pretrain": ["pretrain", "quickstart", *GAN, "--gan.pretrain-iterations=4"],
    "frozen": [*SEARCH, "--proxy.epochs=0", "--freeze-gan", "--gan-checkpoint={folder}/pretrain"],
    "evaluate": [*EVALUATE, "--auxiliary=0.4", "--precision=bfloat16"],
}


def recipes() -> dict[str, list[str]]:
    """Types of the logits in a training step of each recipe, in whole size but the batch, and in measuring."""
    found = {}
    for name, size, classes in (("cifar", 32, 10), ("imagenet", 224, 1000)):
        config = override(recipe(name).config, {"batch_size": 4})
        training = Training(KNOWN["DARTS_V2"], config, classes, "cuda", 0)
        training.schedule(config.epochs - 1)
        seen: list[str] = []
        training.network.head.register_forward_hook(lambda *its, seen=seen: seen.append(str(its[2].dtype)))
        x = torch.zeros(4, 3, size, size, device="cuda")
        y = torch.zeros(4, dtype=torch.int64, device="cuda")
        training.step(x, y, 0, 0)

        class One:
            def testing(self):
                yield x, y, torch.ones_like(y, dtype=torch.bool)  # noqa: B023

        training.counts(One())
        found[name] = seen
    return found


def main(folder: str) -> None:
    inside.sizes_where_asked()
    codes = {}
    for name, words in COMMANDS.items():
        made = [word.format(folder=folder) for word in words]
        codes[name] = cli.main([*made, "--device=cuda", "--storage", folder, "--name", name])
    model = load(Path(folder) / "evaluate", "cuda")
    model(torch.zeros(2, 3, model.image_size, model.image_size, device="cuda"))
    print(json.dumps({"codes": codes, "types": recipes(), "model": str(next(model.parameters()).device)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
