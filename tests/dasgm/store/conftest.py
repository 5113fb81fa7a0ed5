"""A bucket, and machines that share it."""

from replicas import machine, server  # noqa: F401
