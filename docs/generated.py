"""Text of the reference that is made from the code: each function gives the Markdown of its comment in a page."""

from __future__ import annotations
