"""Iterations that are taken over and over: without waiting for a GPU, and if asked as a CUDA graph.

A GPU takes an iteration faster than Python can tell it what to do, since an iteration is thousands of small kernels. A
CUDA graph holds them all: it is recorded once, and the GPU then repeats it by itself, with the same tensors at the same
addresses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from dasgm.bilevel.draws import Draws
from dasgm.bilevel.player import Player
from dasgm.bilevel.response import Tensors
from dasgm.device import is_out_of_memory
from dasgm.distributed import world_size
from dasgm.options import option

Mode = Literal["off", "on", "auto"]
CLOSE = 0.25
"""Largest difference between the changes by an iteration and by its graph, relative to them. Sums on a GPU have no
fixed order, and Adam makes whole steps of the rounding errors of a gradient that is 0."""
AHEAD = 2  # iterations that the host may be ahead of the GPU, so that a stop does not wait for a whole epoch


class Iterations:
    """Takes the iterations of a training.

    On a CPU an iteration is simply taken. On a GPU its draws are made before it (`Draws`) from the second one on, and
    with `graph` the second one is recorded as a CUDA graph, which is repeated from then on.

    Args:
        take: takes an iteration and returns its losses.
        players: what an iteration changes.
        counter: an object whose `iteration` every iteration increases.
        device: the device that computes.
        graph: "off", "on", or "auto", which compares the graph with the iteration that it replaces, and does without
            the graph if they differ or if it cannot be recorded.
        say: gets a line if "auto" does without the graph.

    Raises:
        ValueError: `graph` is "on", and no iteration can be recorded here.
    """

    def __init__(
        self,
        take: Callable[[], Tensors],
        players: Sequence[Player],
        counter: Any,
        device: torch.device,
        graph: Mode = "off",
        say: Callable[[str], None] = print,
    ):
        self.take, self.players, self.device, self.graph, self.say = take, players, device, graph, say
        self.counter, self.ahead = counter, device.type == "cuda"
        self.draws: dict[Hashable, Draws] = {}
        self.graphs: dict[Hashable, Graph] = {}
        self._form: Hashable = None
        self.in_flight: deque[torch.cuda.Event] = deque()
        if graph != "off" and (why := impossible(device, world_size())):
            self._do_without(why)

    def __call__(self, kind: Hashable | None) -> Tensors:
        """Takes the next iteration.

        Args:
            kind: equal for iterations that do the same with other numbers. None: it is not known which ones do.

        Raises:
            ValueError: `graph` is "on", and the iteration cannot be recorded.
        """
        if kind is None and self.graph != "off":
            self._do_without("the GAN does not say which losses an iteration takes (Gan.phase)")
        if kind is None or not self.ahead:
            return self.take()
        draws = self.draws.setdefault(kind, Draws(self.device))
        if draws.foreign and self.graph != "off":
            self._do_without("something draws random numbers without dasgm.bilevel.draw")
        if self.graph == "off":
            with draws.of_iteration():
                return self.take()
        if not draws.known:  # graphs of other kinds may have been recorded already
            with in_place(self.players), draws.of_iteration():
                return self.take()
        draws.fill()
        if kind not in self.graphs:
            pool = next((other.graph.pool() for other in self.graphs.values()), None)
            graph = Graph(self.take, self.players, self.counter, draws, pool)
            # first, since what memory it takes is free again when torch begins to record
            own = graph.changes(graph.once) if self.graph == "auto" else {}
            if why := graph.record() or (graph.differs(own) if own else ""):
                if graph.full and self.graph == "on":
                    raise torch.OutOfMemoryError(why)
                self._do_without(why)
                with draws.handed_out():
                    return self.take()
            self.graphs[kind] = graph
        losses = self.graphs[kind].replay()
        self._stay_close()
        return losses

    def _stay_close(self) -> None:
        """Waits where the GPU is more than AHEAD iterations behind."""
        done = torch.cuda.Event()
        done.record()
        self.in_flight.append(done)
        if len(self.in_flight) > AHEAD and not (oldest := self.in_flight.popleft()).query():
            oldest.synchronize()

    def restart(self) -> None:
        """Forgets what was recorded. Tensors lie at other addresses than before."""
        self.draws, self.graphs = {}, {}

    def expect(self, form: Hashable) -> None:
        """Forgets what was recorded if the coming iterations have other operations.

        Args:
            form: equal as long as they have the same ones. Numbers that change by themselves are `changing`.
        """
        if form != self._form:
            self.restart()
        self._form = form

    def _do_without(self, why: str) -> None:
        if self.graph == "on":
            raise refusal(why)
        self.graph, self.graphs = "off", {}
        self.say(f"cuda-graph auto: iterations are taken without a graph: {why}")


def impossible(device: torch.device, workers: int) -> str:
    """Why no iteration can be recorded there, or ''."""
    if device.type != "cuda":
        return f"it needs a GPU, and the device is {device.type}"
    return f"{workers} workers exchange gradients within an iteration" if workers > 1 else ""


def ensure_graph(mode: Mode, device: str, workers: int) -> None:
    """ValueError where `mode` is "on", and no iteration can be recorded on the device, or by so many workers."""
    if mode == "on" and (why := impossible(torch.device(device), workers)):
        raise refusal(why)


def refusal(why: str) -> ValueError:
    return ValueError(f"cuda-graph on: {why}; use {option('cuda_graph')} auto or off")


class Graph:
    """An iteration as a CUDA graph.

    Args:
        take, players, counter: as `Iterations` has them, to which it does not refer: a cycle would keep its memory.
        draws: what the iteration draws.
        pool: the memory of another graph, which is used again: no two graphs run at once, and a replay's losses are
            copied at once.
    """

    def __init__(self, take: Callable[[], Tensors], players: Sequence[Player], counter: Any, draws: Draws, pool: Any):
        self.take, self.players, self.counter, self.draws, self.pool = take, players, counter, draws, pool
        self.graph: Any = None  # until it is recorded
        self.names: list[str] = []
        self.losses = torch.empty(0)
        self.counted: list[int] = []  # what an iteration adds to each counter
        self.full = False  # whether memory did not suffice to record it

    def record(self) -> str:
        """Records the iteration, and does not take it. Why it cannot be recorded, or ''."""
        before = self._counters()
        self.graph = torch.cuda.CUDAGraph()
        try:
            # where a recording fails, torch leaves its own stream the current one: the outer context undoes that
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                # other threads may go on using the GPU
                torch.cuda.graph(self.graph, self.pool, capture_error_mode="thread_local"),
            ):
                losses = self.once()
                self.names, self.losses = list(losses), torch.stack(list(losses.values()))
        except RuntimeError as error:
            cause = error.__context__ or error  # the end of the recording fails as well
            self.full = is_out_of_memory(cause)
            return f"the iteration cannot be recorded: {(str(cause).splitlines() or [type(cause).__name__])[0]}"
        finally:
            self.counted = [now - then for now, then in zip(self._counters(), before, strict=True)]
            self._set_counters(before)
        return ""

    def replay(self) -> Tensors:
        """Takes the iteration whose draws were made last. Returns its losses, which no later one overwrites."""
        self.graph.replay()
        self._set_counters([now + more for now, more in zip(self._counters(), self.counted, strict=True)])
        return dict(zip(self.names, self.losses.clone().unbind(), strict=True))

    def changes(self, take: Callable[[], Tensors]) -> Tensors:
        """What an iteration changes, by name; it is taken back."""
        groups, counts = _changing(self.players), self._counters()
        tensors = [t for group in groups.values() for t in group]
        before, begun = torch._foreach_clone(tensors), _vectors(groups)
        take()
        found = {name: now - begun[name] for name, now in _vectors(groups).items()}
        torch._foreach_copy_(tensors, before)
        self._set_counters(counts)
        return found

    def differs(self, own: Tensors) -> str:
        """In what the graph's changes differ from those of the iteration itself, or ''."""
        names = far(self.changes(self.replay), own)
        return f"the graph changes {', '.join(names)} otherwise than the iteration" if names else ""

    def once(self) -> Tensors:
        """The iteration itself, with the draws that were made last."""
        with in_place(self.players), self.draws.handed_out():
            return self.take()

    def _counters(self) -> list[int]:
        return [self.counter.iteration, *(player.steps for player in self.players)]

    def _set_counters(self, counts: list[int]) -> None:
        self.counter.iteration = counts[0]
        for player, steps in zip(self.players, counts[1:], strict=True):
            player.steps = steps


@contextmanager
def in_place(players: Sequence[Player]) -> Iterator[None]:
    """Inside, an iteration may replace buffers. What it replaced is then written to where it was: a CUDA graph goes on
    reading and writing there."""
    own = [(slot, leaf, slot[leaf]) for player in players for slot, leaf in player.buffer_slots]
    try:
        yield
        with torch.no_grad():
            for slot, leaf, tensor in own:
                if slot[leaf] is not tensor:
                    tensor.copy_(slot[leaf])
    finally:
        for slot, leaf, tensor in own:
            slot[leaf] = tensor


def far(found: Tensors, own: Tensors) -> list[str]:
    """The names of the changes that are not `CLOSE` to an iteration's own. NaN is close to nothing."""
    return [name for name, change in own.items() if not (found[name] - change).norm() <= CLOSE * change.norm()]


def _changing(players: Sequence[Player]) -> dict[str, list[Tensor]]:
    """What an iteration changes: of each player its parameters, their average, and moments and buffers by name."""
    found: dict[str, list[Tensor]] = {}

    def note(number: int, name: str, t: Tensor) -> None:
        found.setdefault(f"{name} of player {number}", []).append(t.detach())

    for number, player in enumerate(players, start=1):
        for t in player.params.values():
            note(number, "parameters", t)
        for t in (player.mean or {}).values():
            note(number, "average", t)
        for name, t in player.buffers.items():
            note(number, name.rpartition(".")[2], t)
        for entry in player.optimizer.state.values() if player.optimizer else ():
            for name, moment in entry.items():
                if isinstance(moment, Tensor):
                    note(number, name, moment)
    return found


def _vectors(groups: dict[str, list[Tensor]]) -> Tensors:
    return {name: torch.cat([t.reshape(-1).double() for t in group]) for name, group in groups.items()}
