"""The version, for those whom `dasgm/__init__.py` imports."""

__version__ = "0.1.0"
