"""python plain.py FOLDER: all that tests/dasgm/test_gpu.py looks at, in one process with three GPUs, the last old."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import inside
import torch
import torch.distributed as dist

from dasgm.cli import main as cli
from dasgm.config import override
from dasgm.device import forget_peak, is_out_of_memory
from dasgm.jobs.estimate import estimate
from dasgm.jobs.training import InMemory, Training
from dasgm.presets import preset
from dasgm.recipes import recipe
from dasgm.spaces.darts import KNOWN

TINY = ["--method.epochs=2", "--method.channels=2", "--batch-size=8", "--data.limit=200", "--gan.channels=2"]
TINY += ["--gan.shared-dim=8", "--gan.z-dim=24", "--gan.warmup=2"]
SEARCH = ["search", "quickstart", *TINY, "--proxy.epochs=0"]
PRETRAIN = ["pretrain", "quickstart", "--gan.channels=2", "--gan.shared-dim=8", "--gan.z-dim=24", "--batch-size=8"]
EVALUATE = ["evaluate", "DARTS_V2", "--recipe=digits-small", "--cells=3", "--channels=2", "--data.limit=200"]
VERBS = {words[0]: words for words in (SEARCH, PRETRAIN, EVALUATE)}
STEPS: dict[str, dict[str, Any]] = {
    "first order": {"gan": "none", "order": "first", "full": True},
    "second order": {"gan": "none", "full": True},
    "with BigGAN": {"gan": "biggan", "full": True},
    "P-DARTS, ContraGAN, first order, a budget": {
        "preset": "dasgm-pdarts",
        "gan": "contragan",
        "order": "first",
        "cost__kind": "parameters",
    },
    "PC-DARTS, StyleGAN2-ADA, a budget": {
        "preset": "dasgm-pcdarts",
        "gan": "stylegan2ada",
        "method__channels": 16,
        "cost__kind": "multiply_adds",
    },
}


def steps() -> dict[str, Any]:
    """What an iteration of each search does."""
    images, found = inside.data(2000), {}
    for name, asked in STEPS.items():
        search = inside.search(images, **asked)
        found[name] = inside.count(search.iterate, warm=2)
        search.accuracy(images.J2[:64])
        tensors = [t for player in search.players.values() for t in player.params.values()]
        found[name]["devices"] = sorted({str(t.device) for t in tensors})
    return found


def graphs() -> dict[str, Any]:
    """What an iteration of each search does once a CUDA graph holds it, and where none can."""
    images, found = inside.data(2000), {}
    for name, asked in STEPS.items():
        small = {key: value for key, value in asked.items() if key != "full"}
        search = inside.search(images, cuda_graph="on", **small)
        kinds = 2 if search.gan.phase == (True,) else 1  # R1 is every 16th step
        if kinds == 2:  # the first R1 comes when the other kind is recorded
            search.gan.gan.config = replace(search.gan.gan.config, r1_interval=3)
            search.gan.G.steps = 1
        before = addresses(search)
        found[name] = inside.count(search.iterate, times=2, warm=3 * kinds)
        found[name] |= {"graphs": len(search.iterations.graphs), "kinds": kinds}
        found[name]["elsewhere"] = sorted(k for k, place in addresses(search).items() if place != before[k])
        found[name]["counts"] = [search.iteration, *(player.steps for player in search.players.values())]
    return found


def addresses(search: Any) -> dict[str, int]:
    """Where the buffers of each player are."""
    tensors = {f"{name}.{key}": t for name, player in search.players.items() for key, t in player.buffers.items()}
    return {name: t.data_ptr() for name, t in tensors.items()}


def evaluation() -> dict[str, Any]:
    """What a step of the CIFAR recipe's training does, without a graph and with one, and what a batch takes."""
    images, y = inside.data(200), torch.zeros(4, dtype=torch.int64, device="cuda")
    batches = InMemory(images, images.J1, 4, 0, "evaluate").training(0)
    found: dict[str, Any] = {"batch": inside.count(lambda: next(batches), times=2)}
    x = torch.zeros(4, 3, 32, 32, device="cuda")
    for mode in ("off", "on"):
        config = override(recipe("cifar").config, {"batch_size": 4, "cuda_graph": mode})
        training = Training(KNOWN["DARTS_V2"], config, 10, "cuda", 0)
        training.schedule(config.epochs - 1)
        found[mode] = inside.count(lambda: training.step(x, y, 0, 0), times=2, warm=3)  # noqa: B023
        found[mode]["steps"] = training.W.steps
    return found


def epochs() -> dict[str, Any]:
    """Over two epochs of each search, of which A learns in both: how often an iteration was recorded, and what W's
    learning rate and its regularisation were. And the GPU's memory at its peak, with a graph and without."""
    images, found = inside.data(200), {}
    dropping = {"preset": "dasgm-rdarts", "method__drop_path": 0.6, "method__epochs": 4}
    pdarts = {"preset": "dasgm-pdarts", "order": "first"}
    for name, asked in (("DARTS", {}), ("P-DARTS", pdarts), ("R-DARTS", dropping)):
        found[name] = {"numbers": [], "recorded": 0, "peak": {}}
        for mode in ("off", "on"):
            forget_peak()
            before = torch.cuda.memory_reserved()
            search = inside.search(images, gan="none", cuda_graph=mode, **asked)
            search.left -= name == "R-DARTS"  # in its first epoch nothing is dropped
            for _ in range(2):
                search.schedule()
                for _ in range(3):
                    search.iterate()
                search.left -= 1
                if mode == "on":
                    found[name]["recorded"] += recorded(search)
                    found[name]["numbers"].append([search.W.lr, *search.supernet.regularisation])
            found[name]["peak"][mode] = torch.cuda.max_memory_reserved() - before
            del search
    return found


def recorded(search: Any, seen: set[int] = set()) -> int:  # noqa: B006
    """How many graphs of a search there are that were not there before."""
    new = {id(graph) for graph in search.iterations.graphs.values()} - seen
    seen |= new
    return len(new)


def without_graphs() -> dict[str, Any]:
    """What is said where a search cannot be held by a CUDA graph."""
    images, found = inside.data(200), {}

    def waits(search: Any) -> None:
        augment = images.augment
        search.data.augment = lambda *args, **more: augment(*args, **more) * float(args[0].isfinite().all().item())

    def draws(search: Any) -> None:
        search.data.augment = lambda x, *args, **more: x + torch.rand(1).pin_memory().to("cuda", non_blocking=True)

    def unknown(search: Any) -> None:
        search.gan.phase = None

    for mode in ("auto", "on"):
        for spoil in (waits, draws, unknown):
            search = inside.search(images, gan="none", order="first", cuda_graph=mode)
            said: list[str] = []
            search.iterations.say = said.append
            spoil(search)
            try:
                for _ in range(4):
                    search.iterate()
            except ValueError as error:
                said.append(f"{search.iteration}: {error}")
            found[f"{spoil.__name__}, {mode}"] = [search.iteration, *said]
            search.data.__dict__.pop("augment", None)
    return found


def ended(folder: Path, *words: str) -> tuple[Any, str]:
    """How a command ends: its exit code, and what it says on its standard error."""
    error = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
        try:
            code: Any = cli.main([*words, "--storage", str(folder)])
        except SystemExit as end:
            code = end.code
        except Exception as wrong:
            code = repr(wrong)
    torch.cuda.set_device(0)
    return code, error.getvalue()


def without_memory(folder: Path) -> dict[str, Any]:
    """How each verb ends if the driver, a kernel or a library has no memory left."""
    found = {}
    for kind in ("memory", "launch", "blas", "dnn"):
        for verb, words in VERBS.items():
            with inside.memory(0) if kind == "memory" else inside.failing(kind):
                found[f"{verb}, {kind}"] = ended(folder, *words, "--name", f"{verb}-{kind}")
    return found


def said_by_libraries(folder: Path) -> dict[str, bool]:
    """Whether an error of pinned memory and of NCCL is known as out of memory."""
    dist.init_process_group("nccl", f"file://{folder}/meeting", rank=0, world_size=1)
    x, found = torch.ones(2, device="cuda"), {}
    for kind, work in (
        ("pinned", lambda: torch.empty(2**24).pin_memory()),
        ("nccl", lambda: dist.all_reduce(x)),
    ):
        try:
            with inside.failing(kind):
                work()
        except RuntimeError as error:
            found[kind] = is_out_of_memory(error)
    dist.destroy_process_group()
    return found


def advised(folder: Path) -> tuple[Any, str]:
    """A batch that does not fit, on a device where a smaller one does."""
    with inside.memory(0.2):
        return ended(folder, *SEARCH, "--batch-size=64", "--method.channels=16", "--name=large")


def second_device(folder: Path) -> dict[str, Any]:
    """An estimate on cuda:1, and what it left on cuda:0."""
    gc.collect()  # a search holds on to itself
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(0)
    torch.empty(2**33, dtype=torch.uint8, device="cuda:1")  # freed at once
    changes = {"gan": "none", "method.channels": 2, "data.limit": 200, "batch_size": 8, "proxy.epochs": 0}
    found = estimate(replace(override(preset("quickstart").config, changes), device="cuda:1"))
    return {
        "device": found.device,
        "peak": found.peak_memory,
        "elsewhere": torch.cuda.memory_allocated(0) - before,
    }


def tool() -> dict[str, str]:
    """What can be captured, to see that the tool tells it."""
    a, b = torch.ones(4, device="cuda"), torch.ones(4)
    locked, old = b.pin_memory(), [torch.cuda.CUDAGraph()]
    with torch.cuda.graph(old[0]):
        a.add_(1)
    return {
        "while another graph is freed": inside.captured(lambda: (a.add_(1), old.clear())),
        "kernel": inside.captured(lambda: a.add_(1)),
        "item": inside.captured(lambda: a.sum().item()),
        "copy": inside.captured(lambda: a.copy_(b, non_blocking=True)),
        "pinned copy": inside.captured(lambda: a.copy_(locked, non_blocking=True)),
    }


def left_by_a_stage() -> bool:
    """Whether a stage's graphs are freed as the next stage begins, though Python collects no garbage."""
    search = inside.search(inside.data(200), gan="none", order="first", cuda_graph="on")
    for _ in range(2):
        search.iterate()
    (graph,) = map(weakref.ref, search.iterations.graphs.values())
    gc.disable()
    search.enter(search.stage)
    gc.enable()
    return graph() is None


def after_failure() -> dict[str, Any]:
    """What is said where an iteration cannot be recorded, and whether torch's current stream is the same as before."""
    images, said, before = inside.data(200), list[str](), torch.cuda.current_stream()
    search = inside.search(images, gan="none", order="first", cuda_graph="auto")
    search.iterations.say, augment = said.append, images.augment
    images.augment = lambda *args, **more: augment(*args, **more) * float(args[0].isfinite().all().item())
    for _ in range(3):
        search.iterate()
    return {"said": said, "same stream": torch.cuda.current_stream() == before, "taken": search.iteration}


def main(folder: Path) -> None:
    inside.sizes_where_asked()
    found: dict[str, Any] = {"tool": tool(), "steps": steps()}
    found |= {"graphs": graphs(), "epochs": epochs(), "evaluation": evaluation()}
    found |= {"without graphs": without_graphs()}
    found["no device"] = {verb: ended(folder, *words, "--device=cuda:5") for verb, words in VERBS.items()}
    found["no bfloat16"] = ended(folder, *EVALUATE, "--precision=bfloat16", "--device=cuda:2")
    found["second"] = second_device(folder)
    found["advice"] = advised(folder)
    found["memory"] = without_memory(folder)
    found["freed"] = left_by_a_stage()
    found["after failure"] = after_failure()
    found["libraries"] = said_by_libraries(folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
