"""What every data set must hold, on files of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from photographs import both_parts, write_folder
from pictures import cifar_like, pictures

from dasgm.data import cifar10, cifar100, digits, folder, imagenet
from dasgm.data._base import DataConfig
from dasgm.plugins import keys
from dasgm.testing import DataConformance


class TestDigits(DataConformance):
    @pytest.fixture
    def config(self) -> DataConfig:
        return digits.Config()


class TestCifar10(DataConformance):
    @pytest.fixture
    def config(self) -> DataConfig:
        return cifar10.Config()

    @pytest.fixture
    def data_dir(self, tmp_path: Path) -> str:
        cifar_like(tmp_path)
        return str(tmp_path)


class TestCifar100(DataConformance):
    @pytest.fixture
    def config(self) -> DataConfig:
        return cifar100.Config()

    @pytest.fixture
    def data_dir(self, tmp_path: Path) -> str:
        cifar_like(tmp_path, 40, {"fine_label": [i % 100 for i in range(40)]})
        return str(tmp_path)


class TestFolder(DataConformance):
    @pytest.fixture
    def config(self) -> DataConfig:
        return folder.Config()

    @pytest.fixture
    def data_dir(self, tmp_path: Path) -> str:
        pictures(tmp_path, {"dog": 30, "cat": 12})
        return str(tmp_path)


class TestImagenet(DataConformance):
    @pytest.fixture
    def config(self) -> DataConfig:
        return imagenet.Config()

    @pytest.fixture
    def data_dir(self, tmp_path: Path) -> str:
        return str(write_folder(tmp_path, **both_parts()))


def test_every_data_set_is_among_them() -> None:
    suites = (TestDigits, TestCifar10, TestCifar100, TestFolder, TestImagenet)
    assert sorted(suite.__name__.removeprefix("Test").lower() for suite in suites) == keys("data")
