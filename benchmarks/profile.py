"""Where an iteration's processor time goes on a CPU, operator by operator, one thread."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks._rows import Options, Row, measured
from benchmarks._subjects import configured, of_recipe, search
from benchmarks.network import FORMS, steps
from benchmarks.search import p_darts, some_stage

WARM, TAKEN = 1, 2
"""Iterations before those that are profiled, and the number of those."""
KINDS: dict[str, tuple[str, ...]] = {
    "batch norm": ("batch_norm",),
    "pooling": ("pool",),
    "ReLU": ("relu", "clamp_min", "threshold"),
    "copies": ("copy_", "cat", "clone", "contiguous", "index", "gather", "slice_backward", "pad", "fill_", "zero"),
    "sums and products": ("add", "mul", "sum", "sub", "div", "addc", "lerp", "norm", "sqrt", "mean"),
}
"""Parts of names by which operators other than convolutions are sorted; the first that fits counts."""


def rows(options: Options) -> Iterator[Row]:
    torch.set_num_threads(1)
    batch = min(options.batches)
    plain = {"gan": "none"}
    for order in ("first", "second"):
        config = configured("dasgm-darts", options, batch, order=order, **plain)
        yield shares(f"{order}-order iteration, batch {batch}", search(config).iterate)
    yield shares(f"PC-DARTS, batch {batch}", search(configured("dasgm-pcdarts", options, batch, **plain)).iterate)
    pdarts = configured("dasgm-pdarts", options, batch, **plain, **p_darts(options))
    yield shares(f"P-DARTS, stage 2, batch {batch}", search(pdarts, stage=some_stage(pdarts, 1)).iterate)
    yield shares(f"DASGM with full BigGAN, batch {batch}", search(configured("dasgm-darts", options, batch)).iterate)
    for form, size, classes in FORMS:
        config = of_recipe(form, options, batch, precision="float32")
        yield shares(f"training step, {form} form, batch {batch}", steps(config, size, classes)[1])


def shares(what: str, iterate: Callable[[], Any]) -> Row:
    """How long an iteration takes without the profiler, and the shares of operators in the time with it."""
    for _ in range(WARM):
        iterate()
    begun = time.process_time()
    for _ in range(TAKEN):
        iterate()
    seconds = (time.process_time() - begun) / TAKEN
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        for _ in range(TAKEN):
            iterate()
    spent: Counter[str] = Counter()
    for event in found.key_averages(group_by_input_shape=True):
        spent[kind(event.key, event.input_shapes)] += event.self_cpu_time_total / 1e6 / TAKEN
    rest = max(0.0, seconds - spent.total())  # Python, and the way to an operator's kernel
    whole = spent.total() + rest
    parts = [*spent.most_common(), ("outside of operators", rest)]
    return measured(
        what, seconds, unit="s", note=", ".join(f"{name} {100 * part / whole:.1f} %" for name, part in parts)
    )


def kind(name: str, shapes: Sequence[Sequence[int]]) -> str:
    """The kind of an operator, from its name and the shapes of its inputs."""
    if "conv" in name:
        weights = [shape for shape in shapes if len(shape) == 4][-1:]
        if weights and weights[0][1] == 1 and weights[0][2] > 1:
            return "depthwise convolutions"
        return "1x1 convolutions" if weights and weights[0][2] == 1 else "other convolutions"
    if name in ("aten::mm", "aten::bmm", "aten::addmm", "aten::matmul"):
        return "1x1 convolutions"
    return next(
        (found for found, parts in KINDS.items() if any(part in name for part in parts)), "views and bookkeeping"
    )
