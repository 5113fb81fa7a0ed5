"""What a person sees while a job runs, and when it is stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from dasgm.api.callers import Caller, progress, rich_bar
from dasgm.cli.arguments import fail
from dasgm.store.bucket import lies_at
from dasgm.store.files import printable


@contextmanager
def ending(
    what: str, folder: Path, command: str, say: Callable[[str], None], saved: str = "everything"
) -> Iterator[None]:
    """Say how a run ended that did not finish, and what of it is `saved`."""
    from dasgm.jobs.session import Interrupted, OutOfTime
    from dasgm.search import SearchFailed

    try:
        yield
    except Interrupted as asked:
        but = f", except {asked}, which begins anew" if str(asked) else ""
        say(printable(f"stopped; {saved} is saved in {lies_at(folder)}{but}. To continue: {command}"))
        raise SystemExit(0 if isinstance(asked, OutOfTime) else 130) from None
    except SearchFailed as error:
        fail(f"the {what} failed: {error}; what was saved before is in {lies_at(folder)}", 1)


@contextmanager
def on_terminal(command: str) -> Iterator[Caller]:
    """The caller of a run that `command` continues: it is shown what happens, and the command ends with the run."""
    with progress() as (say, watch):

        def framed(what: str, folder: Path, saved: str = "everything") -> AbstractContextManager[None]:
            return ending(what, folder, command, say, saved)

        yield Caller(command, say, watch, framed)


@contextmanager
def listing(what: str, total: int) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """(write, step) for a list of `total` lines, which is written to standard output.

    The bar stands under the lines on a terminal. Where these go elsewhere, it is shown on standard error if that is a
    terminal. It goes when the list is complete.
    """
    from rich.console import Console

    out, error = (Console(stderr=stderr, highlight=False, soft_wrap=True) for stderr in (False, True))
    console, shown = (out if out.is_terminal else error), out.is_terminal or error.is_terminal
    with rich_bar(
        console, transient=True, disable=not shown, redirect_stdout=False, redirect_stderr=error.is_terminal
    ) as bar:
        task = bar.add_task(what, total=total)

        def write(line: str) -> None:
            if out.is_terminal:
                out.print(line, markup=False)
            else:
                print(line, flush=True)

        yield write, lambda: bar.advance(task)
