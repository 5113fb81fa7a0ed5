"""A small ImageNet, in both layouts."""

from listed import data, parts, root  # noqa: F401
