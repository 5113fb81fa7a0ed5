"""A GPU that does nothing, for machines without one, and for what a real one does not show.

It stands for the CUDA runtime, cuBLAS, cuDNN and NCCL (by LD_PRELOAD) beneath a CUDA build of torch. Device checks,
dispatch, the caching allocator, autograd's threads, the rules of graph capture, synchronisations, launches, memory and
the alerts of `torch.use_deterministic_algorithms` are real. Kernels do nothing, and what is copied back to the host is
ones. So it shows tensors on the wrong device, what happens when memory is full, how many launches and synchronisations
there are, and whether a step can be captured. It shows no number, no speed, and no fault of cuDNN or NCCL.

`null_gpu` is the fixture: `null_gpu("script.py", ...)` runs a script of this folder in a process that has such a GPU,
and returns the JSON that the script printed last. `inside.py` is what the scripts use. By hand:

python tests/tools/nullgpu FOLDER [-n GPUS] SCRIPT ...    builds it in FOLDER, if it is not there, and runs SCRIPT
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
TORCH = "2.14."
"""The torch that it is written for: another may call what is not here."""
REQUIRED = "DASGM_NULL_GPU"
"""The variable of the environment that turns a skip into a failure; .ci/run sets it."""


def missing() -> str:
    """What the null GPU needs and this machine has not; '' where it can be built."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return f"the null GPU is for Linux on x86-64, not for {platform.system()} on {platform.machine()}"
    if not torch.version.cuda:
        return f"the null GPU needs a CUDA build of torch, and {torch.__version__} is none"
    if not torch.__version__.startswith(TORCH):
        return f"the null GPU is written for torch {TORCH}*, not for {torch.__version__}"
    absent = [tool for tool in ("g++", "gcc", "nm") if not shutil.which(tool)]
    return f"the null GPU needs {', '.join(absent)}" if absent else ""


def build(folder: Path) -> None:
    """Build the libraries in a folder, unless they are there; one process at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "built").exists():
            return
        site = Path(torch.__file__).parents[1]
        wheels = [f"-I{path}" for path in sorted(site.glob("nvidia/*/include"))]
        # the wheels lack crt/, which Triton or an installed CUDA has
        others = [site / "triton/backends/nvidia/include", Path("/usr/local/cuda/include")]
        headers = [*wheels, *(word for path in others if path.is_dir() for word in ("-idirafter", str(path)))]
        common = ["-O1", "-fPIC", "-w", "-shared"]
        sources = [str(HERE / name) for name in ("runtime.cpp", "libraries.cpp")]
        _run("g++", *common, *headers, *sources, "-o", str(folder / "part.so"), "-ldl")
        _run(sys.executable, str(HERE / "stubs.py"), str(folder / "part.so"), str(folder / "stubs.c"))
        _run("gcc", "-O1", "-fPIC", "-w", "-fno-builtin", "-c", str(folder / "stubs.c"), "-o", str(folder / "stubs.o"))
        objects = [*sources, str(folder / "stubs.o")]
        _run("g++", *common, *headers, *objects, "-o", str(folder / "libnullgpu.so"), "-ldl")
        _run("gcc", *common, str(HERE / "driver.c"), "-o", str(folder / "libcuda.so.1"))
        (folder / "built").touch()


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{words[0]}: {done.stderr[-3000:]}")


class NullGpu:
    """The null GPU, built in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def environment(self, gpus: int = 1, old: int | None = None, mib: int | None = None) -> dict[str, str]:
        """Variables of a process that has such GPUs.

        Args:
            old: the number from which on they are old, and lack bfloat16.
            mib: memory of all together.
        """
        kept = os.environ.get("LD_LIBRARY_PATH", "")
        return {
            "LD_PRELOAD": str(self.folder / "libnullgpu.so"),
            "LD_LIBRARY_PATH": f"{self.folder}:{kept}" if kept else str(self.folder),
            "PYTHONPATH": f"{ROOT}:{HERE.parent}:{HERE}",
            "OMP_NUM_THREADS": "1",
            "TORCH_DISABLE_NATIVE_JIT": "1",  # torch's Triton kernels would be compiled for the device
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(gpus))),
            **({} if old is None else {"NULLGPU_OLD": str(old)}),
            **({} if mib is None else {"NULLGPU_MIB": str(mib)}),
        }

    def __call__(self, script: str, *words: str, **devices: Any) -> Any:
        """Run a script of this folder: the JSON that it printed last."""
        said = [sys.executable, "-X", "faulthandler", str(HERE / script), *words]
        ours = os.environ | self.environment(**devices)
        done = subprocess.run(said, env=ours, capture_output=True, text=True)
        print(done.stdout[-8000:], done.stderr[-8000:], sep="\n")
        assert done.returncode == 0, f"{script} ended with {done.returncode}: {done.stderr[-3000:]}"
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def null_gpu(tmp_path_factory: pytest.TempPathFactory) -> NullGpu:
    """The null GPU, built once for all processes of these tests."""
    if reason := missing():
        pytest.fail(f"{REQUIRED}: {reason}") if os.environ.get(REQUIRED) else pytest.skip(reason)
    place = tmp_path_factory.getbasetemp()
    folder = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "nullgpu"
    build(folder)
    return NullGpu(folder)
