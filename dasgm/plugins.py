"""Plug-ins: GANs, methods, search spaces and data sets. The name of a module is its key."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from typing import Any


def keys(folder: str) -> list[str]:
    """The plug-ins of a kind: "gans", "methods", "spaces" or "data"."""
    return sorted(_modules(folder))


def plugin(folder: str, key: str) -> type:
    """The `Config` of the plug-in called `key`, of a search space its `SearchSpace`. ValueError names the nearest."""
    kinds = {"methods": "method", "gans": "GAN", "data": "data set", "spaces": "search space"}
    kind, modules, name = kinds[folder], _modules(folder), "SearchSpace" if folder == "spaces" else "Config"
    if key not in modules:
        offered = sorted(modules) + ["none"] * (folder == "gans")
        raise ValueError(f"{kind} {key!r} is not known{nearest(key, offered)}; there are: {', '.join(offered)}")
    if modules[key].rpartition(".")[2] != key:
        raise ValueError(f"{kind} {key!r} is registered as {modules[key]}: expected a module called {key}; rename one")
    try:
        return getattr(importlib.import_module(modules[key]), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{kind} {key!r}: {error}; reinstall or remove the package with {modules[key]}") from None


@functools.cache
def _modules(folder: str) -> dict[str, str]:
    """{key: module} of dasgm/<folder>/*.py, and of what other packages register in the group dasgm.<folder>."""
    from importlib.metadata import entry_points  # slow to import, and help must be quick

    package = importlib.import_module(f"dasgm.{folder}")
    files = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]
    registered = {entry.name: entry.value for entry in entry_points(group=package.__name__)}
    return registered | {name: f"{package.__name__}.{name}" for name in files}


def closest(name: str, known: list[str]) -> list[str]:
    """The name among `known` that is most alike, [] if none is."""
    return difflib.get_close_matches(name, known, 1, 0.5)


def nearest(name: str, known: list[str]) -> str:
    """', did you mean X?' or ''."""
    close = closest(name, known)
    return f", did you mean {close[0]!r}?" if close else ""


def key_of(part: Any) -> str:
    """The key of a plug-in's configuration, 'none' for no part."""
    return "none" if part is None else type(part).__module__.rpartition(".")[2]
