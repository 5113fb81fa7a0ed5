"""What a person sees while a job runs, and when it is stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dasgm.cli.arguments import fail
from dasgm.store.bucket import lies_at
from dasgm.store.files import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


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
def progress() -> Iterator[tuple[Callable[[str], None], Callable[[int, int, int, int], None]]]:
    """(say, watch): a bar under the lines on a terminal, lines alone elsewhere."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield lambda line: print(line, flush=True), lambda *_: None
        return
    with _bar(console) as bar:
        task = bar.add_task("search", total=None)

        def watch(epoch: int, epochs: int, iteration: int, iterations: int) -> None:
            done, total = (epoch - 1) * iterations + iteration, epochs * iterations
            bar.update(task, completed=done, total=total, description=f"epoch {epoch}/{epochs}")

        yield lambda line: console.print(line, markup=False), watch


@contextmanager
def listing(what: str, total: int) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """(write, step) for a list of `total` lines, which is written to standard output.

    The bar stands under the lines on a terminal. Where these go elsewhere, it is shown on standard error if that is a
    terminal. It goes when the list is complete.
    """
    from rich.console import Console

    out, error = (Console(stderr=stderr, highlight=False, soft_wrap=True) for stderr in (False, True))
    console, shown = (out if out.is_terminal else error), out.is_terminal or error.is_terminal
    with _bar(
        console, transient=True, disable=not shown, redirect_stdout=False, redirect_stderr=error.is_terminal
    ) as bar:
        task = bar.add_task(what, total=total)

        def write(line: str) -> None:
            if out.is_terminal:
                out.print(line, markup=False)
            else:
                print(line, flush=True)

        yield write, lambda: bar.advance(task)


def _bar(console: Console, **options: Any) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, **options)
