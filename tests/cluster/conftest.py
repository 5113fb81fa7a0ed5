"""A new store of MLflow, and a few photographs."""

from evaluations import photographs  # noqa: F401
from tracked import new_store, storage  # noqa: F401
