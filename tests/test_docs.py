"""The Markdown pages: links that lead somewhere, on GitHub as on the site (which Sphinx checks: .ci/run)."""

from __future__ import annotations

import os
import re
from pathlib import Path

from commands import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "cluster").rglob("*.md"), *(ROOT / "docs").rglob("*.md")]
CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    found: set[str] = set()
    for heading in re.findall(
        r"^#{1,6} (.+)$", re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.M | re.S), re.M
    ):
        words = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        again = next(n for n in range(99) if (f"{anchor}-{n}" if n else anchor) not in found)
        found.add(f"{anchor}-{again}" if again else anchor)
    return found


def test_every_link_leads_somewhere() -> None:
    dead, seen = [], 0
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text())):
            if re.match(r"\w+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = Path(os.path.normpath(page.parent / name)) if name else page
            seen += 1
            if not target.exists() or anchor and anchor not in anchors(target):
                dead.append(f"{page.relative_to(ROOT)}: {link}")
    assert seen > 50 and not dead, "\n".join(dead)


def test_every_page_is_in_the_sidebar() -> None:
    """The lists of docs/index.md are it (docs/conf.py)."""
    links = re.findall(r"^- \[.*?\]\((.*?)\)", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    listed = {Path(os.path.normpath(ROOT / "docs" / link)) for link in links}
    assert listed == {*PAGES} - {ROOT / "docs" / "index.md"} and len(listed) == len(links)
