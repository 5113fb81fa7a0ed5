"""The sentence under each setting, which `--help` shows."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import fields
from typing import Any


def sentences(kind: Any) -> dict[str, str]:
    """{setting: the docstring under it} of a dataclass, inherited settings included; "" if there is none."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        (declared,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(declared, ast.ClassDef)
        for setting, following in zip(declared.body, [*declared.body[1:], None], strict=True):
            if isinstance(setting, ast.AnnAssign) and isinstance(setting.target, ast.Name):
                found[setting.target.id] = _text(following)
    return {field.name: found.get(field.name, "") for field in fields(kind)}


def _text(statement: ast.stmt | None) -> str:
    match statement:
        case ast.Expr(value=ast.Constant(value=str() as text)):
            return text
    return ""


def unclear(text: str | None) -> str:
    """Why a help text is not a sentence; "" if it is one."""
    said = re.sub(r"\s*\((default|required|fixed)[^()]*(\([^()]*\))?[^()]*\)\s*$", "", text or "").strip()
    if not said:
        return "nothing is said"
    if not re.match(r"[A-Z]", said):
        return "it does not begin with a capital letter"
    if not re.search(r"[.)]$", said):
        return "it does not end with a full stop"
    return "" if len(said.split()) >= 3 else "it is too short"
