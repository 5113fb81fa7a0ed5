"""Random draws that can be repeated: each stream has a name, and the name alone determines its draws.

A draw is made on the CPU, so that every device gets the same numbers. `Draws` makes all draws of an iteration before
it, so that they reach a GPU in one copy, and nothing within the iteration waits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Parts = tuple[object, ...]
Make = Callable[[], Tensor]
Number = Callable[[], float]
ALIGNMENT = 16  # bytes, of each draw in the buffer


def seed_of(*parts: object) -> int:
    """A 63-bit seed computed from `parts`, such as (seed, rank, iteration, name of the stream).

    A stream has no state that a checkpoint would have to hold, so a resumed run repeats the draws exactly.
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class Stream:
    """`seed_of(*parts)`, computed whenever it is asked for: a part may be the number of the iteration in progress."""

    parts: Parts

    def __str__(self) -> str:
        return str(seed_of(*self.parts))


@dataclass(frozen=True)
class InProgress:
    """The number of the iteration in progress, as a part of a stream's name."""

    counter: Any
    """Its attribute `iteration` is that number."""

    def __str__(self) -> str:
        return str(self.counter.iteration)


@contextmanager
def replay(*parts: object) -> Iterator[None]:
    """Inside, torch draws from the stream that `parts` name; entering it again repeats the same draws.

    The generators' states are restored on exit.
    """
    with _current.within(parts) if _current else _seeded(parts):
        yield


@contextmanager
def _seeded(parts: Parts) -> Iterator[None]:
    devices, seed = [torch.cuda.current_device()] if torch.cuda.is_initialized() else [], seed_of(*parts)
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:  # `torch.manual_seed` would seed all GPUs, of which one is restored
            torch.cuda.default_generators[device].manual_seed(seed)
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(seed)
        yield


def draw(make: Make, device: torch.device) -> Tensor:
    """What `make` draws on the CPU, on `device`. Inside `Draws` it was made before the iteration began.

    Args:
        make: draws a tensor of the same shape and dtype each time. It depends on no tensor of the iteration.
    """
    return _current.take(make) if _current else make().to(device)


def changing(number: Number) -> Tensor | float:
    """A number that may change between iterations. Inside `Draws` it is a tensor, filled before each iteration, so that
    a CUDA graph reads what the number is then."""
    if not _current:
        return number()
    # a fused optimiser on a GPU reads its learning rate as float32
    dtype = torch.float32 if _current.device.type == "cuda" else torch.float64
    return _current.take(lambda: torch.tensor(number(), dtype=dtype))


def dropout(x: Tensor, rate: Number) -> Tensor:
    """`F.dropout` at a rate that may change. Inside `Draws` its mask was made before the iteration."""
    if not _current:
        return F.dropout(x, rate())

    def keep() -> float:
        return 1 - rate()

    return x * (_current.mask(x, keep).to(x.dtype) / changing(keep))


_current: Draws | None = None


@dataclass(frozen=True)
class _Mask:
    """Draws 1 with probability `keep`, else 0, in the order in which a tensor with these strides lies in memory."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    keep: Number

    def __call__(self) -> Tensor:
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype).bernoulli_(self.keep())


@dataclass
class _Open:
    """A stream that is being drawn from: how many of its draws were taken, and torch's state after the last of them."""

    parts: Parts
    taken: int = 0
    state: Tensor = field(default_factory=lambda: torch.empty(0))


class Draws:
    """All draws of an iteration, made before it.

    The first iteration records what is drawn. From the second on, all draws are made when the iteration begins, and
    reach the device in one copy, at the same addresses each time. The numbers are the same either way.

    The masks of dropout are too large to be copied: a GPU draws them by itself, each from a seed of its own.

    Args:
        device: the device on which the iterations compute.

    Attributes:
        foreign: whether something drew numbers without `draw`. Then every iteration is like the first.
    """

    def __init__(self, device: torch.device):
        self.device, self.foreign = device, False
        self._makes: dict[Parts, list[Make]] = {}
        self._given: dict[Parts, list[Tensor]] = {}
        self._open: list[_Open] = []
        self._recording = True
        self._buffer: Tensor | None = None

    @property
    def known(self) -> bool:
        """Whether an iteration was recorded, so that the next ones are given the same addresses."""
        return self._buffer is not None

    @contextmanager
    def of_iteration(self) -> Iterator[None]:
        """Inside, `draw` and `dropout` give what belongs to the iteration in progress."""
        if self.known:
            self.fill()
        with self.handed_out():
            yield
        if not self.known and not self.foreign:
            self._lay_out()

    @contextmanager
    def handed_out(self) -> Iterator[None]:
        """Inside, `draw` and `dropout` give what was made last."""
        global _current
        before, _current = _current, self
        self._recording = not self.known
        if self._recording:
            self._makes, self._given = {}, {}
        state = _states(self.device)
        try:
            with self.within(()):
                yield
        finally:
            _current = before
        self.foreign |= not torch.equal(state, _states(self.device))
        if self.foreign:
            self._buffer = None

    @contextmanager
    def within(self, parts: Parts) -> Iterator[None]:
        """Inside, the stream that `parts` name is drawn from."""
        self._open.append(_Open(parts))
        try:
            with _seeded(parts) if self._recording and parts else nullcontext():
                self._mark()
                yield
                self._look_for_foreign()
        finally:
            self._open.pop()

    def take(self, make: Make) -> Tensor:
        """The next draw of the open stream."""
        if self._recording:
            self._look_for_foreign()
            self._record(make, make().to(self.device))
            self._mark()
        return self._next()

    def mask(self, x: Tensor, keep: Number) -> Tensor:
        """The next draw of the open stream: 1 with probability `keep`, else 0, in the shape of x."""
        if not self._recording:
            return self._next()
        make = _Mask(x.shape, torch.empty_like(x).stride(), x.dtype, keep)
        if x.device.type == "cpu":
            return self.take(make)
        self._record(make, torch.empty(x.shape, dtype=torch.bool, device=x.device))
        self._fill_mask(self._open[-1].parts, self._open[-1].taken)
        return self._next()

    def fill(self) -> None:
        """Makes all draws of the iteration in progress."""
        assert self._buffer is not None
        host = torch.empty(self._buffer.shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        offset = 0
        for parts, makes in self._makes.items():
            with _seeded(parts) if parts else nullcontext():
                for i, (make, given) in enumerate(zip(makes, self._given[parts], strict=True)):
                    if self._own(make):
                        self._fill_mask(parts, i)
                    else:
                        _view(host, offset, given).copy_(make())
                        offset += _room(given)
        self._buffer.copy_(host, non_blocking=True)

    def _own(self, make: Make) -> bool:
        """Whether the device draws it by itself."""
        return isinstance(make, _Mask) and self.device.type != "cpu"

    def _fill_mask(self, parts: Parts, i: int) -> None:
        generator = torch.Generator(self.device)
        generator.manual_seed(seed_of(*parts, "mask", i))
        make = self._makes[parts][i]
        assert isinstance(make, _Mask)
        self._given[parts][i].bernoulli_(make.keep(), generator=generator)

    def _lay_out(self) -> None:
        """Gives each draw its place in one buffer."""
        places = [
            (given, i)
            for parts, given in self._given.items()
            for i, make in enumerate(self._makes[parts])
            if not self._own(make)
        ]
        self._buffer = torch.empty(sum(_room(given[i]) for given, i in places), dtype=torch.uint8, device=self.device)
        offset = 0
        for given, i in places:
            given[i] = _view(self._buffer, offset, given[i])
            offset += _room(given[i])

    def _record(self, make: Make, value: Tensor) -> None:
        """Several passes may draw from one stream: they get the same."""
        place = self._open[-1]
        makes, given = self._makes.setdefault(place.parts, []), self._given.setdefault(place.parts, [])
        if place.taken == len(makes):
            makes.append(make)
            given.append(value)

    def _next(self) -> Tensor:
        place = self._open[-1]
        place.taken += 1
        return self._given[place.parts][place.taken - 1]

    def _mark(self) -> None:
        if self._recording:
            self._open[-1].state = _states(self.device)

    def _look_for_foreign(self) -> None:
        if self._recording:
            self.foreign |= not torch.equal(self._open[-1].state, _states(self.device))


def _states(device: torch.device) -> Tensor:
    """The states of torch's generators, the CPU's and the device's; both lie in the CPU's memory."""
    states = [torch.get_rng_state()]
    if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():  # then they cannot be asked for
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def _room(t: Tensor) -> int:
    return math.ceil(t.nbytes / ALIGNMENT) * ALIGNMENT


def _view(buffer: Tensor, offset: int, like: Tensor) -> Tensor:
    return buffer[offset : offset + like.nbytes].view(like.dtype).as_strided(like.shape, like.stride())
