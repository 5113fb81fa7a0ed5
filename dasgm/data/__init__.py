"""Data sets: one file each, its name the key of `--dataset`; files that begin with `_` are helpers."""
