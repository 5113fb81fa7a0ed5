"""Command lines: words that stand before the options, options by tyro or argparse, mistakes in one line.

The only importer of tyro.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, NoReturn

from dasgm.api.places import ensure_name
from dasgm.config import SearchConfig
from dasgm.options import flag, option
from dasgm.plugins import closest, nearest
from dasgm.store.bucket import local
from dasgm.store.files import cut, gist, printable
from dasgm.store.replica import ensure_writable

LONGEST = 1500  # characters of an error: a file's words may be in it
TRAINED = "Trained model: an evaluation's folder, its model.json or its model.safetensors."
KINDS = {"int": "a whole number", "float": "a number", "INT": "a whole number", "FLOAT": "a number", "{None}": "None"}
"""What an option takes, by the names that Python and tyro have for it."""
UNBROKEN: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def fail(why: str | Exception, code: int = 2) -> NoReturn:
    """A user's mistake: one line, no traceback."""
    line = printable(why if isinstance(why, str) else gist(why))
    print(f"error: {cut(line, LONGEST)}", file=sys.stderr)  # the end says how to mend it
    raise SystemExit(code)


def take(argv: Sequence[str], flags: Sequence[str], places: int) -> tuple[dict[str, str], list[str], list[str]]:
    """The values of `flags`, up to `places` words that stand before all other arguments, and the rest.

    Raises:
        ValueError: a flag without its value.
    """
    values: dict[str, str] = {}
    first: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        flag, _, value = word.partition("=")
        if flag in flags:
            value = value or next(words, "")
            if not value or value.startswith("--"):
                raise ValueError(f"{flag} needs a value, as in {flag} {'PATH' if flag == '--data-dir' else 'NAME'}")
            values[flag] = value
        elif len(first) < places and not rest and not word.startswith("-"):
            first.append(word)
        else:
            rest.append(word)
    return values, first, rest


def ensure_once(flag: str, values: Mapping[str, str], word: str | None) -> None:
    """ValueError where both `flag` and `word`, which stands before all options, name the same thing."""
    if word is not None and flag in values:
        raise ValueError(f"{word} and {flag} {values[flag]}: both name the same thing; give only one of them")


def unread(code: int = 1) -> NoReturn:
    """End without a word: nobody reads on, as in `--help | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(code)


class Parser(argparse.ArgumentParser):
    """argparse's, with mistakes in one line as tyro's have, and the nearest option suggested."""

    def error(self, message: str) -> NoReturn:
        if odd := re.fullmatch(r"argument (\S+): invalid (\w+) value: (.*)", message):
            fail(f"{odd[1]} {odd[3]}: expected {KINDS.get(odd[2], odd[2])}")
        if odd := re.fullmatch(r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)", message):
            known = odd[3].replace("'", "").split(", ")
            fail(f"{odd[1]} {odd[2]}: expected {' or '.join(known)}{nearest(odd[2][1:-1], known)}")
        if odd := re.fullmatch(r"argument (\S+): expected one argument", message):
            fail(f"{odd[1]} needs a value")
        unknown = re.fullmatch(r"unrecognized arguments: (.*)", message)
        word = next(iter(unknown[1].split()), "") if unknown else ""
        near = _near(word.partition("=")[0], list(self._option_string_actions)) if word.startswith("-") else ""
        fail(f"{message}{near}; {self.prog} --help lists what there is")


# tyro's


def parse(
    kind: Any,
    argv: Sequence[str],
    default: Any,
    prog: str,
    description: str,
    before: Sequence[str] = (),
    places: str = "",
    refused: Callable[[str], object] = lambda option: False,
) -> Any:
    """Arguments to a value of `kind`.

    A --storage that is an address becomes the folder that stands for it; one that cannot be written is an error.

    Args:
        before: options that were taken out of the arguments, to be suggested for misspelt ones.
        places: words that may stand before all options, as --help shows them.
        refused: whether the command refuses an option of a setting of `default`, so that it is never suggested.
    """
    try:
        values, _, argv = take(argv, ("--storage",), 0)
        argv = [*argv, *(f"--storage={local(value)}" for value in values.values())]
        found, unknown = _parsed(kind, argv, default, f"{prog} {places}".strip(), description)
        if unknown:
            known = [one for one in (*_flags(default), *before) if not refused(one)]
            raise ValueError(_unknown(unknown, known, prog))
        if name := getattr(found, "name", ""):
            ensure_name(name)
        if not found.dry_run:
            ensure_writable(found.storage)
        return found
    except ValueError as error:  # also raised by a configuration's own check
        fail(error)


def _parsed(kind: Any, argv: Sequence[str], default: Any, prog: str, description: str) -> tuple[Any, list[str]]:
    """What tyro makes of the arguments, and those that it does not know. ValueError: what its box says, in a line."""
    import tyro

    def run() -> tuple[Any, list[str]]:
        bare: Any = tyro.conf.AvoidSubcommands
        return tyro.cli(
            bare[kind],
            default=default,
            args=list(argv),
            prog=prog,
            description=_wrapped(description),
            return_unknown_args=True,
        )

    if {"-h", "--help"} & set(argv):
        try:
            return run()
        except BrokenPipeError:
            unread()
    said = io.StringIO()
    try:
        with redirect_stderr(said), _wide():
            return run()
    except SystemExit:
        raise ValueError(_in_a_line(said.getvalue())) from None


def _wrapped(description: str) -> str:
    """Each line broken as the terminal is wide; tyro leaves that to the terminal, which breaks words."""
    width = shutil.get_terminal_size().columns - 1
    lines = description.split("\n")
    return "\n".join(textwrap.fill(x, width, subsequent_indent="  " * x.startswith("-"), **UNBROKEN) for x in lines)


@contextmanager
def _wide() -> Iterator[None]:
    """Inside, tyro breaks no line: it would break words too."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "2000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        os.environ |= {"COLUMNS": before} if before is not None else {}


def _in_a_line(box: str) -> str:
    """What one of tyro's boxes says: the lines between its title and the next rule."""
    lines = [line for line in (line.strip(" │") for line in box.splitlines()) if line]
    body = itertools.dropwhile(_is_rule, lines[1:])  # under a title there is one where boxes cannot be drawn
    said = " ".join(itertools.takewhile(lambda line: not _is_rule(line), body))
    if found := re.fullmatch(r"Error parsing (\S+): (.*)", said):
        flag, why = found.groups()
        if odd := re.fullmatch(r"(?:invalid literal for|could not convert string to) (int|float)\b[^:]*: (.*)", why):
            return f"{flag} {odd[2]}: expected {KINDS[odd[1]]}"
        if odd := re.match(r"no type matching (\S+) could be instantiated from \[(.*?)\]", why):
            known = [KINDS.get(kind, kind.strip("{}")) for kind in odd[1].split("|")]
            return f"{flag} {odd[2]}: expected {' or '.join(known)}"
        if odd := re.fullmatch(r"Could not find valid parse for arguments: \[(.*)\]", why):
            return f"{flag} {odd[1]}: expected values like those of its default, which --help shows"
        stage = flag.partition(".")[
            0
        ]  # the field of a command with several configurations, in lower case as all fields
        within = f"{stage}." if stage.islower() and stage != "config" else ""
        return f"{flag}: {why}" if flag.startswith("-") else f"{within}{why}"
    if found := re.fullmatch(r"invalid choice '(.*)' for argument '([^']*)'. Expected one of \((.*)\)\.", said):
        value, flag, choices = found.groups()
        known = re.findall(r"'([^']*)'", choices)
        return f"{flag} {value!r}: expected {' or '.join(known)}{nearest(value, known)}"
    if found := re.match(r"Missing value for argument '([^']*)'", said):
        return f"{found[1].split(',')[0]} needs a value"
    return said or "the arguments cannot be read"


def _is_rule(line: str) -> bool:
    return set(line) <= set("─-╰╯")


def _unknown(words: Sequence[str], flags: Sequence[str], prog: str) -> str:
    """What is wrong with the first of the words that are no options."""
    word = words[0].partition("=")[0]
    if not word.startswith("-"):
        first = next((flag for flag in ("--preset", "--recipe") if flag in flags), None)
        hint = f"if it is a {first[2:]}, write {first} {word}; " if first else ""
        return f"{words[0]!r} stands where an option is expected; {hint}{prog} --help shows what comes first"
    if ".gan." in f".{word[2:]}" and not any(".gan." in f".{flag[2:]}" for flag in flags):
        return f"{word}: there is no GAN, so no such option; choose one with {option('gan')}"
    return f"{word} is not an option{_near(word, flags)}; {prog} --help lists all"


def _near(word: str, flags: Sequence[str]) -> str:
    """', did you mean X?' or '': the options of the part that is named, else of any, whose last word is this one; if
    there are none, the most alike."""
    *parts, name = word.lstrip("-").split(".")
    paths = [flag.lstrip("-").split(".") for flag in flags]
    paths = [path for path in paths if set(parts) <= set(path[:-1])] or paths
    found = [path for path in paths if path[-1] == name]
    if not found and (alike := closest(name, [path[-1] for path in paths])):
        paths = [path for path in paths if path[-1] == alike[0]]
        found = [path for path in paths if len(path) == min(map(len, paths))]
    return f", did you mean {' or '.join('--' + '.'.join(path) for path in found)}?" if found else ""


def _flags(value: Any, prefix: str = "") -> Iterator[str]:
    """The options that set a value's fields; those of `config` have no prefix of their own."""
    for one in fields(value):
        inner = getattr(value, one.name)
        if one.name == "config" and is_dataclass(inner):
            yield from _flags(inner)
        elif is_dataclass(inner):
            yield from _flags(inner, f"{prefix}{one.name}.")
        else:
            yield f"--{prefix}{one.name}".replace("_", "-")


def options_between(usual: Any, config: Any, without: Sequence[str] = (), prefix: str = "") -> list[str]:
    """The words of a command line that turn `usual` into `config`, but for the settings `without`."""
    words: list[str] = []
    for name in (one.name for one in fields(config) if one.name not in without):
        old, new = getattr(usual, name), getattr(config, name)
        if is_dataclass(new):
            words += options_between(old, new, prefix=f"{prefix}{name}.")
        elif new is False and old is not False:
            words.append(flag(f"{prefix}no_{name}"))
        elif new != old:
            words += [flag(f"{prefix}{name}"), *([] if new is True else [str(new)])]
    return words


def flattened(options: type, kind: type = SearchConfig) -> type:
    """`options` with the settings of its field `config` as flags without a prefix."""
    import tyro

    options.__annotations__["config"] = Annotated[kind, tyro.conf.arg(name="")]
    return options


def without_config(options: type) -> type:
    """`options` without flags for its field `config`."""
    import tyro

    options.__annotations__["config"] = Annotated[Any, tyro.conf.Suppress]
    return options
