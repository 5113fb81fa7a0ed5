"""Differentiable architecture search with a generative model (DASGM)."""

__version__ = "0.1.0"
