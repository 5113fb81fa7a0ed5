"""Functions of a test's file in processes of their own: such a file is no module that another process could import."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp


def spawn(function: Callable[..., None], args: tuple[Any, ...], nprocs: int, join: bool = True) -> Any:
    """`torch.multiprocessing.spawn`, for a function at the top level of any file."""
    return mp.spawn(_call, (inspect.getfile(function), function.__name__, args), nprocs=nprocs, join=join)


def _call(rank: int, path: str, name: str, args: tuple[Any, ...]) -> None:
    spec = importlib.util.spec_from_file_location("spawned", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    getattr(module, name)(rank, *args)
