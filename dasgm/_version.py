"""The version, for those whom `dasgm/__init__.py` imports."""

__version__ = "0.2.0"
