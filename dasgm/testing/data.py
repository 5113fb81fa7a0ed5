"""What every data set must hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dasgm.data._base import DataConfig
from dasgm.data._images import Data
from dasgm.jobs.search import fits
from dasgm.plugins import key_of
from dasgm.testing._plugins import Conformance, small_search


class DataConformance(Conformance):
    """Subclass it with a fixture `config`, and a fixture `data_dir` if the data set reads files of the user's.

    A data set that is `streamed` passes the tests of its settings and of what is known without reading a picture.
    """

    part = "data"

    @pytest.fixture
    def data_dir(self) -> str | None:
        return None

    @pytest.fixture
    def data(self, config: DataConfig, data_dir: str | None) -> Data:
        """In memory, at 16 pixels, with a tenth held out."""
        if config.streamed:
            pytest.skip("a streamed data set is not held in memory")
        return replace(config, image_size=16, holdout=0.1).load(data_dir)

    def test_what_is_known_before_training(self, config: DataConfig, data_dir: str | None) -> None:
        found = config.open(data_dir)
        assert found.name == key_of(config) and found.image_size == config.image_size
        assert len(set(found.classes)) == len(found.classes) == (config.class_count() or len(found.classes)) >= 2
        assert min(found.counts) > 0 and found.resize >= found.image_size
        assert len(found.mean) == len(found.std) == 3 and min(found.std) > 0
        assert all(line.isprintable() for line in (found.describe(), *found.notes))
        assert found.digest == config.open(data_dir).digest, "the digest is a run's identity"

    def test_a_streamed_one_refuses_a_search_in_one_line(self, config: DataConfig, data_dir: str | None) -> None:
        if not config.streamed:
            pytest.skip("it is held in memory")
        with pytest.raises(ValueError, match=r"^[^\n]*streamed[^\n]*$"):
            config.load(data_dir)

    def test_images_and_labels(self, data: Data) -> None:
        for images, labels in ((data.images, data.labels), (data.test_images, data.test_labels)):
            assert images.dtype == torch.uint8 and images.shape[1:] == (3, 16, 16)
            assert labels.dtype == torch.int64 and labels.shape == (len(images),)
            assert labels.min() >= 0 and labels.max() < len(data.classes)
        assert data.counts == (len(data.labels), len(data.test_labels))

    def test_parts_share_no_image_and_leave_none_out(self, data: Data) -> None:
        parts = torch.cat([data.J1, data.J2, data.Jval])
        assert torch.equal(parts.sort().values, torch.arange(len(data.labels)))
        assert min(len(data.J1), len(data.J2), len(data.Jval)) > 0

    def test_a_limit_is_kept(self, config: DataConfig, data_dir: str | None) -> None:
        config = replace(config, limit=20)
        found: Any = config.open(data_dir)
        assert (found.counts[0] if config.streamed else len(found.J1) + len(found.J2) + len(found.Jval)) == 20

    def test_normalised_images_have_the_mean_0_and_the_deviation_1(self, data: Data) -> None:
        """To within what a data set's published statistics leave: those are of all its images."""
        x = data.to_classifier(data.raw(slice(None)))
        assert x.isfinite().all() and x.mean().abs() < 1 and 0.1 < x.std() < 3

    def test_a_search_takes_it(self, config: DataConfig, data_dir: str | None, data: Data) -> None:
        search = small_search(loaded=data, batch_size=2, data=replace(config, image_size=16, holdout=0.1))
        fits(replace(search.config, proxy=replace(search.config.proxy, batch_size=2)), data, 1)
        search.schedule()
        assert all(loss.isfinite().all() for loss in search.iterate().values())
        assert search.supernet.head.out_features == len(data.classes)

    @pytest.mark.parametrize(("field", "value"), [("image_size", 8), ("limit", -1), ("cutout", -1)])
    def test_wrong_settings_are_refused_by_name(self, config: DataConfig, field: str, value: int) -> None:
        wrong: dict[str, Any] = {field: value}
        with pytest.raises(ValueError, match=rf"^data\.{field} is {value}:[^\n]*$"):
            replace(config, **wrong)
