"""What was found in a data set, counted before any picture is decoded. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dasgm.data._pictures import first_ten
from dasgm.store.files import printable

MOST_CLASSES = 10  # the largest number of classes that are listed one by one


class Counts(str):
    """A line with nothing but the number of pictures of each class. A training says how many it learns from instead."""

    __slots__ = ()


@dataclass(frozen=True)
class Inventory:
    """What one part of a data set holds.

    Attributes:
        place: the folder or files, as messages name them.
        classes: number of pictures of each class, in the order of the labels.
        ignored: number of files and folders left out, by kind, such as {"hidden files": 3}.
        linked: number of pictures that are reached through a link.
        unreadable: pictures and folders that cannot be read, each 'NAME (reason)'.
    """

    place: str
    classes: Mapping[str, int] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)
    linked: int = 0
    unreadable: tuple[str, ...] = ()

    @property
    def pictures(self) -> int:
        """Number of pictures in all classes."""
        return sum(self.classes.values())

    def lines(self) -> list[str]:
        """A line each with the counts, what else was found and what cannot be read, if there is something to tell."""
        lines: list[str] = [Counts(printable(f"{self.place}: {self._classes()}"))] if self.classes else []
        found = [f"{self.linked:,} pictures through links"] if self.linked else []
        if self.ignored:
            found.append("ignored: " + ", ".join(f"{kind} {n:,}" for kind, n in self.ignored.items()))
        if found:
            lines.append(printable(f"{self.place}: {'; '.join(found)}"))
        if self.unreadable:
            broken = f"{len(self.unreadable)} cannot be read: {first_ten(self.unreadable)}"
            lines.append(printable(f"{self.place}: left out: {broken}"))
        return lines

    def _classes(self) -> str:
        """'cat 120, dog 98', or for many classes the number of pictures in the smallest and the largest one."""
        if len(self.classes) <= MOST_CLASSES:
            return ", ".join(f"{name} {n:,}" for name, n in self.classes.items())
        fewest, most = (of(self.classes, key=self.classes.__getitem__) for of in (min, max))
        ends = f"{fewest} {self.classes[fewest]:,} to {most} {self.classes[most]:,}"
        return f"{self.pictures:,} pictures in {len(self.classes):,} classes, {ends}"
