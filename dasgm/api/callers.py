"""Who asks for a run, from Python or on the command line: what is shown, and what continues the run. Free of torch."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from dasgm.store.bucket import lies_at
from dasgm.store.files import shell_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from dasgm.jobs.session import Hooks

NOTHING: Mapping[str, str] = MappingProxyType({})
Say = Callable[[str], None]
Watch = Callable[[int, int, int, int], None]


class Ending(Protocol):
    """A frame for a run that may end before it has finished: it says so in its caller's way."""

    def __call__(self, what: str, folder: Path, saved: str = "everything") -> AbstractContextManager[None]:
        """
        Args:
            what: the kind of run, as in "search".
            saved: what of a run that was stopped is kept.
        """


def unframed(what: str, folder: Path, saved: str = "everything") -> AbstractContextManager[None]:
    """How the run ends is left to the exception."""
    return nullcontext()


@dataclass(frozen=True)
class Caller:
    """Who asks for a run. The defaults are told nothing."""

    command: str
    """Continues the run: a line for a shell."""
    say: Say = lambda line: None
    watch: Watch = lambda epoch, epochs, iteration, iterations: None
    ending: Ending = unframed
    python: bool = False
    """Whether it is a Python program of the user's, which goes on after the run."""

    def hooks(self, folder: Path, about: Mapping[str, str] = NOTHING, time_budget: float | None = None) -> Hooks:
        """Those of a lone process.

        Args:
            about: entries of run.json. `name` and `title` are by default those of the folder.
        """
        from dasgm.jobs.session import Hooks

        entries = {"name": folder.name, "title": folder.name, "command": self.command, **about}
        here = threading.current_thread() is threading.main_thread()  # others are sent no signals
        return Hooks(
            say=self.say,
            watch=self.watch,
            about=entries,
            stoppable=here,
            time_budget=time_budget,
            goes_on=self.python,
        )


@contextmanager
def from_python(function: Callable[..., Any], arguments: Mapping[str, Any], shown: bool) -> Iterator[Caller]:
    """The caller of a function of the API.

    Args:
        arguments: of this call, by name.
        shown: whether lines, and a bar on a terminal, are shown.
    """
    command = shell_line(["python", "-c", call(function, arguments)])
    if not shown:
        yield Caller(command, ending=_noted, python=True)
        return
    with progress() as (say, watch):
        yield Caller(command, say, watch, _noted, python=True)


def call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """A call of a function of the API as a line of Python, with the arguments that are not as by default."""
    module, name, words = function.__module__, function.__name__, []
    package = f"{module.partition('.')[0]}.api"
    for key, one in inspect.signature(function).parameters.items():
        value = arguments[key]
        if key == "progress" or value == one.default:
            continue
        shown = dict(value) if isinstance(value, Mapping) else str(value) if isinstance(value, Path) else value
        words.append(repr(shown) if one.default is one.empty else f"{key}={shown!r}")
    return f"from {package} import {name}; {name}({', '.join([*words, 'progress=True'])})"


@contextmanager
def _noted(what: str, folder: Path, saved: str = "everything") -> Iterator[None]:
    """What ends a run before its time says what is saved, and how to go on."""
    from dasgm.jobs.session import Interrupted
    from dasgm.search import SearchFailed

    try:
        yield
    except Interrupted as asked:
        but = f", except {asked}, which begins anew" if str(asked) else ""
        asked.add_note(f"{saved} is saved in {lies_at(folder)}{but}; the same call continues the {what}")
        raise
    except SearchFailed as error:
        error.add_note(f"what was saved of the {what} before is in {lies_at(folder)}")
        raise


@contextmanager
def progress() -> Iterator[tuple[Say, Watch]]:
    """(say, watch): a bar under the lines on a terminal, lines alone elsewhere."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield lambda line: print(line, flush=True), lambda *_: None
        return
    with rich_bar(console) as bar:
        task = bar.add_task("search", total=None)

        def watch(epoch: int, epochs: int, iteration: int, iterations: int) -> None:
            done, total = (epoch - 1) * iterations + iteration, epochs * iterations
            bar.update(task, completed=done, total=total, description=f"epoch {epoch}/{epochs}")

        yield lambda line: console.print(line, markup=False), watch


def rich_bar(console: Console, **options: Any) -> Progress:
    """A bar with the share that is done and the time that is left."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, **options)
