"""How many searches share a GPU: --gpus-per-trial auto, from the memory that one takes."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from cluster import connection
from cluster.patience import told
from dasgm.config import SearchConfig
from dasgm.device import is_out_of_memory
from dasgm.store.files import first_line

GIB = 2**30
MARGIN = 1.25
"""How many times its measured peak a search is given. The pictures and figures of an epoch are not measured, and blocks
of memory do not fit together without gaps."""
CONTEXT = 1 * GIB
"""Bytes of a GPU that CUDA and its libraries are given for each search; PyTorch does not count them."""


def searches_per_gpu(peak: int, free: int, wanted: int) -> int:
    """How many searches share a GPU, at least 1.

    Args:
        peak: bytes that a search takes at its peak, as PyTorch counts them.
        free: bytes that are free on the GPU.
        wanted: how many there are for each GPU at most.
    """
    return max(1, min(wanted, int(free // (MARGIN * peak + CONTEXT))))


def share_of(number: int) -> float:
    """The share of a GPU of each of `number` searches. Ray counts in steps of 1/10000."""
    return math.floor(10_000 / number) / 10_000


def gpus_per_search(
    configs: Sequence[SearchConfig], workers: int, at_once: int, pretrain: bool
) -> tuple[float | None, str]:
    """The GPUs of a search, and a line that says why so many.

    Args:
        configs: the searches, of which the largest counts.
        workers: of each search.
        at_once: how many searches there may be at once.
        pretrain: the GAN will be a pre-trained one, which is not there yet.

    Raises:
        ValueError: the searches run on a cluster, whose GPUs are not this machine's.
    """
    said = "gpus-per-trial auto"
    if connection.joined():
        raise ValueError(
            f"{said}: it measures a GPU of this machine, and the searches run on the cluster at RAY_ADDRESS; give a "
            "number such as 0.25"
        )
    there = connection.visible_gpus()
    if not there or configs[0].device == "cpu":
        return 0.0, f"{said} has no effect: " + ("this machine has no GPU" if not there else "the device is cpu")
    if workers > 1:
        return None, f"{said}: a GPU for each worker, since NCCL cannot put two workers on one"
    wanted = math.ceil(at_once / there)
    if wanted == 1:
        return 1.0, f"{said}: 1, as there is a GPU for each of the {at_once} searches at once"
    try:
        with told("measuring a search's memory", lambda: "a few of its iterations"):
            found = [_measured(config, pretrain) for config in configs]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise connection.Failed(f"{said}: nothing was measured ({first_line(error)}); give a number") from None
        return 1.0, f"{said}: 1, as a search does not fit into a GPU that it shares"
    peak, free = max(peak for peak, _ in found), min(free for _, free in found)
    number = searches_per_gpu(peak, free, wanted)
    share = share_of(number)
    fits = f"{number} search{'es share' if number > 1 else ' has'} a GPU"
    return share, (
        f"{said}: {share:g}, {fits}: one takes {peak / GIB:.2f} GiB (measured; with a margin "
        f"{(MARGIN * peak + CONTEXT) / GIB:.2f}), {free / GIB:.1f} GiB are free, {wanted} may run at once on each"
    )


def _measured(config: SearchConfig, pretrain: bool) -> tuple[int, int]:
    """`estimate.gpu_memory` in a process of its own, so that this one holds nothing of the GPU."""
    from dasgm.jobs.estimate import gpu_memory

    stopped = (signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    with ProcessPoolExecutor(1, get_context("spawn"), signal.signal, stopped) as process:
        return process.submit(gpu_memory, config, pretrain).result()
