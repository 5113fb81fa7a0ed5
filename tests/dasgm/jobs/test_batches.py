"""Where the batches of a training come from: what is learnt from, what is measured, and who decodes."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from dasgm.bilevel import replay, seed_of
from dasgm.data import digits
from dasgm.data._base import DataConfig
from dasgm.data._images import Data
from dasgm.jobs import training
from dasgm.jobs.evaluate import decoders, everything, in_memory
from dasgm.jobs.training import InMemory, Training
from dasgm.recipes import EvaluateConfig
from dasgm.spaces.darts import KNOWN

TINY = EvaluateConfig(data=digits.Config(limit=120, cutout=4), cells=3, channels=2, batch_size=32, threads=1)


def marked(n: int = 50, tests: int = 23) -> Data:
    """Images that each show their own number: training ones from 0, test ones from 100. Augmentation leaves them."""
    shown = [torch.arange(k, dtype=torch.uint8)[:, None, None, None].expand(k, 3, 16, 16) for k in (n, tests)]
    labels = [torch.arange(k) % 2 for k in (n, tests)]
    train, test = (shown[0].clone(), labels[0]), (shown[1] + 100, labels[1])
    data = Data("marked", ["a", "b"], train, test, DataConfig(image_size=16, holdout=0.2))
    data.augment = lambda x, cutout, **how: x  # type: ignore[method-assign]
    return data


def numbers(data: Data, x: torch.Tensor) -> list[int]:
    pixels = (x * data._std + data._mean) * 255
    return pixels[:, 0, 0, 0].round().long().tolist()


def as_workers(monkeypatch: pytest.MonkeyPatch, rank: int, workers: int) -> None:
    monkeypatch.setattr(training, "rank", lambda: rank)
    monkeypatch.setattr(training, "world_size", lambda: workers)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_all_training_images_are_learnt_from_and_every_test_image_counts_once(monkeypatch, workers):
    data = marked()
    assert len(data.Jval) and everything(data).tolist() == list(range(50))
    learnt: list[list[int]] = [[], []]
    measured: list[int] = []
    for rank in range(workers):
        as_workers(monkeypatch, rank, workers)
        batches = in_memory(data, replace(TINY, batch_size=4))
        assert batches.iterations == 50 // (4 * workers)
        for epoch in (0, 1):
            for x, y in batches.training(epoch):
                assert len(x) == 4 and [n % 2 for n in numbers(data, x)] == y.tolist()
                learnt[epoch] += numbers(data, x)
        for x, _, mask in batches.testing():
            measured += [n for n, m in zip(numbers(data, x), mask.tolist(), strict=True) if m]
    for epoch in (0, 1):  # no image twice, less than one batch of all workers left out
        assert len(set(learnt[epoch])) == len(learnt[epoch]) > 50 - 4 * workers
        assert max(learnt[epoch]) < 50
    assert learnt[0] != learnt[1]
    assert sorted(measured) == list(range(100, 123))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_is_drawn_from_the_stream_that_its_epoch_and_number_name(monkeypatch, workers):
    """As in every version: a run that goes on gets the batches that it would have had."""
    config = replace(TINY, batch_size=8)
    data = config.data.load(None, "cpu")
    for rank in range(workers):
        as_workers(monkeypatch, rank, workers)
        batches = in_memory(data, config)
        for epoch in (0, 1):
            generator = torch.Generator().manual_seed(seed_of(0, "evaluate", epoch))
            order = everything(data)[torch.randperm(len(everything(data)), generator=generator)]
            for i, (x, y) in enumerate(batches.training(epoch)):
                some = order[8 * (i * workers + rank) :][:8]
                with replay(0, "evaluate", epoch, i, rank):
                    expected = data.augment(data.to_classifier(data.raw(some)), cutout=True)
                assert torch.equal(x, expected) and torch.equal(y, data.labels[some])


def test_masked_images_are_not_counted():
    data = marked()
    one = Training(KNOWN["DARTS_V2"], TINY, 2, "cpu", 0)

    class Padded(InMemory):
        def testing(self):
            for x, y, mask in super().testing():
                yield torch.cat([x, x[:3]]), torch.cat([y, y[:3]]), torch.cat([mask, torch.zeros(3, dtype=torch.bool)])

    plain, padded = (kind(data, data.J1, 4, 0) for kind in (InMemory, Padded))
    assert one.counts(plain) == one.counts(padded) and one.counts(plain)[1:] == (23, 23)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system lets no process choose its CPUs")
def test_no_more_processes_decode_than_there_are_cpus_for_this_process(monkeypatch):
    allowed = os.sched_getaffinity(0)
    try:
        for some in (allowed, set(sorted(allowed)[:1])):
            os.sched_setaffinity(0, some)
            assert decoders("cpu") == 0 and 1 <= decoders("cuda") <= len(some)
            monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
            assert 1 <= decoders("cuda") <= max(1, len(some) // 2)
            monkeypatch.delenv("LOCAL_WORLD_SIZE")
    finally:
        os.sched_setaffinity(0, allowed)
