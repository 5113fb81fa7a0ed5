"""Iterations that are taken over and over: without waiting for a GPU, and if asked as a CUDA graph.

A GPU takes an iteration faster than Python can tell it what to do, since an iteration is thousands of small kernels. A
CUDA graph holds them all: it is recorded once, and the GPU then repeats it by itself, with the same tensors at the same
addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from dasgm.bilevel.draws import Draws
from dasgm.bilevel.player import Player
from dasgm.bilevel.response import Tensors
from dasgm.distributed import world_size

Mode = Literal["off", "on", "auto"]
CLOSE = 1e-3  # largest relative difference between an iteration and its graph: sums on a GPU have no fixed order


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
        ValueError: `graph` is "on", and there is no GPU.
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
        if graph != "off" and device.type != "cuda":
            self._do_without(f"it needs a GPU, and the device is {device.type}")
        elif graph != "off" and world_size() > 1:
            self._do_without(f"{world_size()} workers exchange gradients within an iteration")

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
        if self.graph == "off" or not draws.known:
            with draws.of_iteration():
                return self.take()
        draws.fill()
        if kind not in self.graphs:
            pool = next((other.graph.pool() for other in self.graphs.values()), None)
            graph = Graph(self.take, self.players, self.counter, draws, pool)
            if why := graph.record() or (graph.differs() if self.graph == "auto" else ""):
                self._do_without(why)
                with draws.handed_out():
                    return self.take()
            self.graphs[kind] = graph
        return self.graphs[kind].replay()

    def restart(self) -> None:
        """Forgets what was recorded. A number that is no tensor has changed, such as a learning rate."""
        self.draws, self.graphs = {}, {}

    def _do_without(self, why: str) -> None:
        if self.graph == "on":
            raise ValueError(f"cuda-graph on: {why}; use --cuda-graph auto or off")
        self.graph, self.graphs = "off", {}
        self.say(f"cuda-graph auto: iterations are taken without a graph: {why}")


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
        self.graph = torch.cuda.CUDAGraph()
        self.names: list[str] = []
        self.losses = torch.empty(0)
        self.counted: list[int] = []  # what an iteration adds to each counter

    def record(self) -> str:
        """Records the iteration, which is not taken by this. Why it cannot be recorded, or ''."""
        before = self._counts()
        try:
            # where a recording fails, torch leaves its own stream the current one: the outer context undoes that
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                # other threads may go on using the GPU
                torch.cuda.graph(self.graph, self.pool, capture_error_mode="thread_local"),
            ):
                losses = self._once()
                self.names, self.losses = list(losses), torch.stack(list(losses.values()))
        except RuntimeError as error:
            cause = error.__context__ or error  # the end of the recording fails as well
            return f"the iteration cannot be recorded: {(str(cause).splitlines() or [type(cause).__name__])[0]}"
        finally:
            self.counted = [now - then for now, then in zip(self._counts(), before, strict=True)]
            self._count(before)
        return ""

    def replay(self) -> Tensors:
        """Takes the iteration whose draws were made last. Returns its losses, which no later one overwrites."""
        self.graph.replay()
        self._count([now + more for now, more in zip(self._counts(), self.counted, strict=True)])
        return dict(zip(self.names, self.losses.clone().unbind(), strict=True))

    def differs(self) -> str:
        """Takes the iteration in both ways, and takes both back. In what they differ, or ''."""
        tensors, counts = _tensors(self.players), self._counts()
        before, results = torch._foreach_clone(tensors), []
        for take in (self.replay, self._once):
            losses = take()
            results.append([*losses.values(), *torch._foreach_clone(tensors)])
            torch._foreach_copy_(tensors, before)
            self._count(counts)
        far = sum(not torch.allclose(x, y, rtol=CLOSE, atol=CLOSE) for x, y in zip(*results, strict=True))
        return f"the graph gives other numbers in {far} of {len(results[0])} tensors" if far else ""

    def _once(self) -> Tensors:
        """The iteration itself. Buffers that it replaces are written in place instead."""
        slots = [slot for player in self.players for slot in player.buffer_slots]
        own = [(slot, leaf, slot[leaf]) for slot, leaf in slots]
        try:
            with self.draws.handed_out():
                losses = self.take()
            with torch.no_grad():
                for slot, leaf, tensor in own:
                    if slot[leaf] is not tensor:
                        tensor.copy_(slot[leaf])
        finally:
            for slot, leaf, tensor in own:
                slot[leaf] = tensor
        return losses

    def _counts(self) -> list[int]:
        return [self.counter.iteration, *(player.steps for player in self.players)]

    def _count(self, counts: list[int]) -> None:
        self.counter.iteration = counts[0]
        for player, steps in zip(self.players, counts[1:], strict=True):
            player.steps = steps


def _tensors(players: Sequence[Player]) -> list[Tensor]:
    """All that an iteration changes."""
    found: list[Tensor] = []
    for player in players:
        moments = player.optimizer.state.values() if player.optimizer else []
        found += [
            *(p.detach() for p in player.params.values()),
            *player.buffers.values(),
            *(player.mean or {}).values(),
        ]
        found += [t for entry in moments for t in entry.values() if isinstance(t, Tensor)]
    return found
