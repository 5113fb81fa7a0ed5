"""Data sets, one file each. The name of the file is the key for --dataset; files that begin with `_` are helpers."""
