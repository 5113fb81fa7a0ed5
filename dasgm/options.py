"""How the running command spells the option of a setting, so that a message names an option that it has.

Messages of everything below the command line name options through `option`. Imports nothing of dasgm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Spelling = Callable[[str], str]
"""From the path of a setting in a configuration, such as data.skip_unreadable, to what a user types."""


def flag(setting: str) -> str:
    """The spelling of a command with one configuration: data.skip_unreadable -> --data.skip-unreadable."""
    return f"--{setting.replace('_', '-')}"


_spelling: ContextVar[Spelling] = ContextVar("spelling", default=flag)


def option(setting: str) -> str:
    """The option of the running command that sets `setting` (its path in the configuration of what runs)."""
    return _spelling.get()(setting)


@contextmanager
def spelled(spelling: Spelling) -> Iterator[None]:
    """Inside, the running command spells its options so."""
    token = _spelling.set(spelling)
    try:
        yield
    finally:
        _spelling.reset(token)
