"""A GPU, from correctness to speed, by one command within 20 minutes: python -m benchmarks.gpu --help

It needs PyTorch 2.11 or later with CUDA and the packages that dasgm imports; neither Ray nor MLflow. Each part is
measured for itself: one that fails says so in its row, and the next begins. Exit code 1 where a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks._rows import Options, Row, measured, missing, table
from dasgm.config import SearchConfig
from dasgm.spaces.darts import KNOWN

if TYPE_CHECKING:
    from dasgm.jobs.training import Training
    from dasgm.recipes import EvaluateConfig

MINUTES = 20
GANS = ("none", "biggan", "contragan", "stylegan2ada")
EXACT = 1e-6  # largest relative difference of a gradient in float64, CPU against GPU
FAILED = "FAILED"
FORMS = ({"cuda_graph": "off"}, {"cuda_graph": "on"})
Part = Callable[[Options], Iterator[Row]]


def rows(options: Options) -> Iterator[Row]:
    """Of all parts, until the minutes are spent: that is looked at after each row."""
    if not torch.cuda.is_available():
        for part in PARTS:
            yield missing(words(part), "no GPU here")
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts, asked for by determinism
    end, over = time.monotonic() + 60 * MINUTES, f"the {MINUTES} minutes were spent"
    for part in PARTS:
        if time.monotonic() > end:
            yield missing(words(part), over)
            continue
        try:
            for row in part(options):
                yield row
                if time.monotonic() > end:
                    yield missing(f"{words(part)}: the rest", over)
                    break
        except Exception as error:  # a part that fails must not take the others' figures along
            yield failed(words(part), error)
        finally:
            torch.use_deterministic_algorithms(False)
            torch.set_default_dtype(torch.float32)
            torch.cuda.empty_cache()


def failed(what: str, error: Exception) -> Row:
    return missing(what, f"{FAILED}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def words(part: Part) -> str:
    return (part.__doc__ or "").partition(".")[0]


# correctness


def correctness(options: Options) -> Iterator[Row]:
    """Gradients of one step, GPU against CPU."""
    for gan in GANS:
        for dtype in (torch.float64, torch.float32):
            torch.set_default_dtype(dtype)
            there, here = (gradients(small(gan), device) for device in ("cuda", "cpu"))
            far = {player: relative(there[player], here[player]) for player in here}
            worst = max(far.values())
            note = ", ".join(f"{player} {value:.1e}" for player, value in far.items())
            if dtype == torch.float64:
                note += "; passed" if worst <= EXACT else f"; {FAILED}: expected at most {EXACT:.0e}"
            yield measured(f"largest relative difference, {gan}, {str(dtype)[6:]}", worst, note=note)


def small(gan: str, **changes: Any) -> SearchConfig:
    from benchmarks._subjects import configured

    own: dict[str, Any] = {} if gan == "none" else {"gan.channels": 8}
    if gan == "stylegan2ada":  # augmentations that change something, and R1 in eight iterations
        own |= {"gan.augment_start": 0.3, "gan.r1_interval": 3}
    return configured("dasgm-darts", Options(cells=3, channels=8), 16, gan=gan, **own | changes)


def prepared(config: SearchConfig, device: str) -> Any:
    """A search whose images have the default number format."""
    from benchmarks._subjects import search

    found = search(config, device)
    raw, dtype = found.data.raw, torch.get_default_dtype()
    found.data.raw = lambda indices: raw(indices).to(dtype)  # type: ignore[method-assign]
    return found


def gradients(config: SearchConfig, device: str) -> dict[str, list[torch.Tensor]]:
    """Those that each player's step was handed in one iteration, on the CPU. Without TF32."""
    search, seen = prepared(config, device), {}
    for name, player in search.players.items():
        if player.trainable:
            player.step = recording(player.step, seen.setdefault(name, []))
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        search.iterate()
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    return {name: [t.double().cpu() for t in found] for name, found in seen.items() if found}


def recording(step: Callable[[Any], Any], seen: list[torch.Tensor]) -> Callable[[Any], Any]:
    def recorded(grads: dict[str, torch.Tensor]) -> Any:
        seen.extend(g.clone() for g in grads.values())
        return step(grads)

    return recorded


def relative(found: list[torch.Tensor], truth: list[torch.Tensor]) -> float:
    """Of all tensors together; infinite where one is not finite or missing."""
    if [t.shape for t in found] != [t.shape for t in truth]:
        return float("inf")
    a, b = (torch.cat([t.flatten() for t in ts]) for ts in (found, truth))
    far = ((a - b).norm() / b.norm()).item()
    return far if far == far else float("inf")


def repeated(options: Options) -> Iterator[Row]:
    """The same bits twice, eight iterations."""
    for gan in GANS:
        for deterministic in (False, True):
            torch.use_deterministic_algorithms(deterministic)
            same = equal(*(trained(small(gan)) for _ in range(2)))
            note = "asked for" if deterministic else "as it is"
            if deterministic and not same:
                note += f"; {FAILED}"
            yield measured(f"same bits twice, {gan}", float(same), note=f"1: yes; deterministic algorithms {note}")


def trained(config: SearchConfig) -> list[torch.Tensor]:
    """Parameters and buffers after eight iterations. The first R1 comes when another kind of iteration is recorded."""
    search = prepared(config, "cuda")
    search.gan.G.steps = 1
    for _ in range(8):
        search.iterate()
    tensors = [t for player in search.players.values() for t in (*player.params.values(), *player.buffers.values())]
    return [t.detach().clone() for t in tensors]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# the graph


def graph(options: Options) -> Iterator[Row]:
    """The whole step in a CUDA graph against the step launched one by one."""
    for gan in GANS:
        for order in ("second", "first"):
            torch.use_deterministic_algorithms(True)
            off, on = (trained(small(gan, order=order, **form)) for form in FORMS)
            far = relative([t.double() for t in on], [t.double() for t in off])
            note = "same bits" if equal(off, on) else "; ".join(["other bits", *([FAILED] if far > 1e-3 else [])])
            yield measured(f"graph on and off: largest relative difference, {gan}, {order} order", far, note=note)
            torch.use_deterministic_algorithms(False)


# seconds


def iterations(options: Options) -> Iterator[Row]:
    """Seconds of an iteration at the paper's size."""
    from benchmarks._subjects import batches, configured, search, textbook

    batch = max(options.batches)
    for gan in GANS:
        for form in FORMS:
            config = configured("dasgm-darts", options, batch, gan=gan, **form)
            yield from timed(f"iteration, {gan}, batch {batch}{told(form)}", search(config, "cuda").iterate)
    for name in ("dasgm-pcdarts", "dasgm-pdarts"):
        for form in FORMS:
            config = configured(name, options, batch, **form)
            yield from timed(f"iteration, {name}, batch {batch}{told(form)}", search(config, "cuda").iterate)
    config = configured("dasgm-darts", options, batch, gan="none", hypergradient="exact")
    yield from timed("iteration, none, exact hypergradient", search(config, "cuda").iterate)
    stage = configured("dasgm-darts", options, batch, gan="none").stages[0]
    with torch.device("cuda"):
        theirs, data = textbook(stage, "second"), batches(batch)
    yield from timed(f"iteration of the textbook's DARTS, batch {batch}", lambda: theirs.iterate(*data))


def told(changes: dict[str, Any]) -> str:
    return "".join(f", {key.replace('_', ' ')} {value}" for key, value in changes.items())


def timed(what: str, work: Callable[[], object], times: int = 10, images: int = 0) -> Iterator[Row]:
    """Seconds, the device's busy share, launches and memory. A form that cannot run is a row of its own."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        for _ in range(3):
            work()
        found = []
        for _ in range(times):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            work()
            torch.cuda.synchronize()
            found.append(time.perf_counter() - begun)
    except Exception as error:
        yield failed(what, error)
        return
    peak = torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30
    note = f"{busy(work)}; peak {peak[0]:.2f} GiB, {peak[1]:.2f} GiB held"
    row = measured(what, *found, unit="s", note=note)
    assert row.median is not None
    yield replace(row, note=f"{images / row.median:,.0f} images/s; {note}") if images and row.median else row


def busy(work: Callable[[], object]) -> str:
    """How much of an iteration the device computes, and how many kernels run, by torch.profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        torch.cuda.synchronize()
        wall = time.perf_counter() - begun
    kernels = [event for event in profiler.key_averages() if event.self_device_time_total > 0]
    spent = sum(event.self_device_time_total for event in kernels) / 1e6
    return f"busy {spent / wall:.0%}, {sum(event.count for event in kernels):,} kernels"


# evaluation


def evaluation(options: Options) -> Iterator[Row]:
    """Training step of a found network."""
    import textbook
    import textbook_steps

    from benchmarks._subjects import of_recipe

    for form, size, classes, batch in (("cifar", 32, 10, 96), ("imagenet", 224, 1000, 64)):
        x = torch.randn(batch, 3, size, size, device="cuda")
        y = torch.arange(batch, device="cuda") % classes
        for precision in ("float32", "bfloat16"):
            for changes in (*FORMS, *([{"compile": True}] if precision == "bfloat16" else [])):
                config = of_recipe(form, options, batch, precision=precision, **changes)
                said: list[str] = []
                training = cache(partial(built, config, classes, size, said.append))  # in the first step
                what = f"training step, {form} form, {precision}, batch {batch}{told(changes)}"
                for row in timed(what, partial(taken, training, x, y), images=batch):
                    yield replace(row, note="; ".join([row.note, *said]))
        with torch.device("cuda"):
            network = textbook.Network(KNOWN["DARTS_V2"], config.channels, config.cells, classes, form, auxiliary=True)
            network.drop_path_rate = config.drop_path_rate(config.epochs - 1)
            theirs = textbook_steps.Training(network)
        what = f"training step of the textbook's, {form} form, float32, batch {batch}"
        yield from timed(what, lambda: theirs.step(x, y), images=batch)  # noqa: B023


def built(config: EvaluateConfig, classes: int, size: int, say: Callable[[str], None]) -> Training:
    """In its last epoch."""
    from dasgm.jobs.compiled import compile_network, ensure_compiler
    from dasgm.jobs.training import Training

    training = Training(KNOWN["DARTS_V2"], config, classes, "cuda", 0)
    training.schedule(config.epochs - 1)
    if config.compile:
        ensure_compiler("cuda")
        compile_network(training, size, say)
    return training


def taken(training: Callable[[], Training], x: torch.Tensor, y: torch.Tensor) -> object:
    return training().step(x, y, 0, 0)


def loader(options: Options) -> Iterator[Row]:
    """ImageNet's loader."""
    if options.data_dir is None:
        yield missing(words(loader), "give --data-dir, a folder of photographs per WordNet id or ImageNet")
        return
    from benchmarks.imagenet_loader import rows as measure

    yield from measure(options)


PARTS: tuple[Part, ...] = (correctness, repeated, graph, iterations, evaluation, loader)


def cudnn() -> str:
    try:
        return str(torch.backends.cudnn.version())
    except RuntimeError as error:  # another version than PyTorch was built for
        return " ".join(str(error).split())[:160]


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path(), help="folder for gpu.json and gpu.md (default: here)")
    parser.add_argument("--data-dir", help="photographs to load: ImageNet, or a folder per WordNet id")
    parser.add_argument("--cells", type=int, default=Options.cells, help="of supernets (default: the paper's 8)")
    parser.add_argument("--channels", type=int, default=Options.channels, help="of supernets (default: the paper's 16)")
    parser.add_argument("--batch", type=int, default=64, help="of a search (default: the paper's 64)")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(f"error: PyTorch {torch.__version__} finds no GPU here: run this on a machine with one")
    asked.output.mkdir(parents=True, exist_ok=True)
    from benchmarks.__main__ import circumstances

    options = Options(asked.cells, asked.channels, (asked.batch,), data_dir=asked.data_dir)
    where = circumstances() | {
        "cuda": str(torch.version.cuda),
        "cudnn": cudnn(),
        "memory": f"{torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB",
    }
    begun, found = time.monotonic(), []
    for row in rows(options):
        found.append(row)
        print(f"{row.what}: {row.figure()} {row.note}", file=sys.stderr, flush=True)
    failed = [row.what for row in found if FAILED in row.note]
    where["minutes"] = f"{(time.monotonic() - begun) / 60:.1f}"
    where["checks"] = f"{len(failed)} failed" if failed else "passed"
    (asked.output / "gpu.json").write_text(json.dumps(where | {"rows": [row.plain() for row in found]}, indent=1))
    head = "\n".join(f"- {key}: {value}" for key, value in where.items())
    (asked.output / "gpu.md").write_text(f"## On a GPU, `python -m benchmarks.gpu`\n\n{head}\n\n{table(found)}\n")
    print(f"{asked.output / 'gpu.md'} and {asked.output / 'gpu.json'} written; checks: {where['checks']}")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
