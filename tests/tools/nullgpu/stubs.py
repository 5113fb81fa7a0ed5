"""python stubs.py PART OUT: C for all that torch calls and PART lacks. It returns success, and counts what computes."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

CALLED = re.compile(r"(__cuda[A-Z]|cuda[A-Z]|cublas|cudnn|nccl)")
COMPUTES = {
    "blas": re.compile(
        r"cublas(?!.*(?:Algo|Desc|Preference))(\w*(gemm|gemv|dot|trsm|getrf|getrs|geqrf|gels)\w*)$", re.I
    ),
    "dnn": re.compile(
        r"cudnn(Convolution\w*(Forward|BackwardData|BackwardFilter)|PoolingForward"
        r"|BatchNormalization(ForwardTrainingEx|BackwardEx|ForwardInference))$"
    ),
    "nccl": re.compile(r"nccl(AllReduce|Broadcast|Bcast|AllGather|Gather|AlltoAll|Reduce|ReduceScatter|Send|Recv)$"),
}


def names(library: Path, which: str) -> set[str]:
    """The symbols that a library defines, or those that it calls."""
    listed = subprocess.run(["nm", "-D", f"--{which}-only", library], capture_output=True, text=True, check=True)
    return {line.split()[-1].split("@")[0] for line in listed.stdout.splitlines()}


def stub(name: str) -> str:
    kinds = [kind for kind, pattern in COMPUTES.items() if pattern.match(name)]
    return f"int {name}() {{ return {f'nullgpu_{kinds[0]}()' if kinds else 0}; }}\n"


def main(part: str, out: str) -> None:
    spec = find_spec("torch")  # where torch is, without its import
    assert spec and spec.origin
    libraries = [
        Path(spec.origin).parent / "lib" / f"lib{name}.so" for name in ("torch_cuda", "c10_cuda", "torch_python")
    ]
    called = {name for library in libraries for name in names(library, "undefined") if CALLED.match(name)}
    declared = "".join(f"int nullgpu_{kind}();\n" for kind in COMPUTES)
    Path(out).write_text(declared + "".join(map(stub, sorted(called - names(Path(part), "defined")))))


if __name__ == "__main__":
    main(*sys.argv[1:])
