"""The rows of the paper as searches: which search is of which row, and how a row is searched here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from dasgm.config import SearchConfig, override
from dasgm.plugins import key_of
from dasgm.presets import row_config, with_dataset
from dasgm.presets.published import TABLE_2, TABLE_4


@dataclass(frozen=True)
class PaperRow:
    """A row: a preset or PRESET:GAN, and settings that are changed in it."""

    name: str
    title: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name, with the changes, as in dasgm-darts order=first."""
        return " ".join([self.name, *(f"{path}={str(value).lower()}" for path, value in self.changes.items())])

    def config(self, dataset: str) -> SearchConfig:
        """Its search at the paper's size. ValueError: there is no such preset, GAN or data set."""
        return with_dataset(override(row_config(self.name), self.changes), dataset)


FIXED, SEARCHED = {"search_discriminator": False}, {"search_discriminator": True}
ABLATIONS: tuple[tuple[PaperRow, PaperRow], ...] = (
    (
        PaperRow("dasgm-darts", "DASGM+DARTS, first order, B searched", {"order": "first"}),
        PaperRow("dasgm-darts", "DASGM+DARTS, first order, B fixed", {"order": "first", "search_discriminator": False}),
    ),
    (
        PaperRow("dasgm-darts", "DASGM+DARTS, second order, B fixed", FIXED),
        PaperRow("dasgm-darts", "DASGM+DARTS"),
    ),
    (
        PaperRow("dasgm-pdarts", "DASGM+PDARTS, first order, B searched", SEARCHED),
        PaperRow("dasgm-pdarts", "DASGM+PDARTS"),
    ),
    (
        PaperRow("dasgm-pcdarts", "DASGM+PCDARTS, first order, B searched", SEARCHED),
        PaperRow("dasgm-pcdarts", "DASGM+PCDARTS"),
    ),
)
"""What the paper claims in words (Sections 3 and 4), each as two rows: one, and the row with which it is compared."""


@cache
def paper_rows() -> tuple[PaperRow, ...]:
    """All rows of the paper that are searches, each once; those of Table 2 first."""
    found = {one.row: PaperRow(one.row, one.title) for one in TABLE_2 if one.row}
    for one in TABLE_4:
        found.setdefault(one.row, PaperRow(one.row, f"DASGM+DARTS, {one.title}"))
    changed = {row.key: row for pair in ABLATIONS for row in pair if row.changes}
    return (*found.values(), *changed.values())


def row_of(config: SearchConfig) -> PaperRow | None:
    """The row that a search is of, at whatever size; None: it is of none."""
    return _by_identity().get(_identity(config))


@cache
def _by_identity() -> dict[tuple[Any, ...], PaperRow]:
    return {_identity(row.config("cifar10")): row for row in paper_rows()}


def _identity(config: SearchConfig) -> tuple[Any, ...]:
    """What sets the rows apart."""
    return (
        config.search_space,
        key_of(config.method),
        config.order,
        key_of(config.gan),
        config.searches_discriminator,
        config.gan is not None and config.freeze_gan,
        config.real_portion,
    )
