"""What is computed once for all searches: a torn file of it is said in one line and made again, to the same bits."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from dasgm.config import PretrainConfig, override
from dasgm.jobs import pretrain
from dasgm.jobs.session import Hooks
from dasgm.jobs.warmup import warm_up
from dasgm.measures import fidelity
from dasgm.measures import judge as judging
from dasgm.presets import preset
from dasgm.pretrained import read
from dasgm.search import Search
from dasgm.store.tensors import packed, unpacked

SMALL = {"gan.channels": 4, "gan.shared_dim": 8, "gan.z_dim": 16, "gan.warmup": 2, "method.channels": 2}
CONFIG = override(preset("quickstart").config, SMALL | {"data.limit": 200, "data.holdout": 0.2})


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def other_keys(content: bytes) -> bytes:
    return packed({"nothing": 1})


TORN: dict[str, Callable[[bytes], bytes]] = {
    "cut in half": cut,
    "without its end": lambda content: content[:-10],
    "garbage": lambda content: b"\xff\x00garbage\n" * 30,
    "zeros": lambda content: bytes(len(content)),
    "empty": lambda content: b"",
    "another file": other_keys,
}


@pytest.fixture(scope="module")
def data():
    return CONFIG.data.load(None)


def same(one: Path, content: bytes) -> bool:
    """Whether a file holds the same tensors; how long it took to make them may differ."""

    def tensors(path: Path) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []

        def collect(value: object) -> None:
            if isinstance(value, torch.Tensor):
                found.append(value)
            for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
                collect(inner)

        collect(unpacked(path))
        return found

    before = one.with_name("before.pt")
    before.write_bytes(content)
    pairs = list(zip(tensors(one), tensors(before), strict=True))
    before.unlink()
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


def cache_file(folder: Path) -> Path:
    (path,) = folder.glob("*.pt")
    return path


@pytest.mark.parametrize("how", TORN)
def test_a_torn_judge_is_trained_again(data, tmp_path, monkeypatch, how):
    monkeypatch.setattr(judging, "ITERATIONS", 3)
    said: list[str] = []
    first = judging.judge(data, tmp_path, said.append)
    path, sound = cache_file(tmp_path), cache_file(tmp_path).read_bytes()
    path.write_bytes(TORN[how](sound))
    said.clear()
    again = judging.judge(data, tmp_path, said.append)
    assert [line for line in said if "made again" in line] == said[:1] and path.name in said[0] and len(said) == 2
    assert same(path, sound) and (again.accuracy, again.real_distance) == (first.accuracy, first.real_distance)
    said.clear()
    assert judging.judge(data, tmp_path, said.append).accuracy == first.accuracy and not said


@pytest.mark.parametrize("how", [*TORN, "sound but for the discriminator"])
def test_a_torn_warm_up_is_run_again(data, tmp_path, how):
    said: list[str] = []
    warm_up(Search(CONFIG, data), tmp_path, said.append)
    path, sound = cache_file(tmp_path), cache_file(tmp_path).read_bytes()
    if how in TORN:
        path.write_bytes(TORN[how](sound))
    else:  # the generator fits, and would be left trained
        path.write_bytes(packed(unpacked(path) | {"E": {"module": {}}}))
    said.clear()
    search = Search(CONFIG, data)
    warm_up(search, tmp_path, said.append)
    assert "made again" in said[0] and sum("made again" in line for line in said) == 1
    assert same(path, sound)
    loaded = Search(CONFIG, data)
    said.clear()
    warm_up(loaded, tmp_path, said.append)
    pairs = zip(search.gan.G.params.values(), loaded.gan.G.params.values(), strict=True)
    assert not said and all(torch.equal(a, b) for a, b in pairs)


def test_a_file_of_the_cache_that_cannot_be_read_stays(data, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "ITERATIONS", 3)
    judging.judge(data, tmp_path, lambda line: None)
    path = cache_file(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError):
        judging.judge(data, tmp_path, lambda line: None)
    assert path.is_dir()


def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> Path:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [b"", b"half of a download", bytes(1000)])
def test_torn_weights_of_inception_are_downloaded_again(tmp_path, monkeypatch, content):
    path, said, published = hub(tmp_path, monkeypatch, content), [], b"what is published"
    monkeypatch.setattr(fidelity, "SHA256", hashlib.sha256(published).hexdigest())
    monkeypatch.setattr(fidelity, "urlopen", lambda *_, **__: io.BytesIO(published))
    assert fidelity.downloaded(said.append) == path and path.read_bytes() == published
    assert len(said) == 1 and "downloaded again" in said[0] and str(path) in said[0]
    assert fidelity.downloaded(said.append) == path and len(said) == 1


def test_torn_weights_stay_where_there_is_no_network(tmp_path, monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    path = hub(tmp_path, monkeypatch, b"half of a download")
    monkeypatch.setattr(fidelity, "urlopen", unreachable)
    with pytest.raises(OSError, match="not known"):
        fidelity.downloaded(lambda line: None)
    assert path.read_bytes() == b"half of a download"


def test_a_users_own_weights_are_refused_and_stay(tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(b"half of a download")
    with pytest.raises(ValueError, match="not the weights of Inception"):
        fidelity.inception(path)
    assert path.read_bytes() == b"half of a download"


@pytest.mark.parametrize("name", ["gan.safetensors", "gan.json"])
def test_the_torn_file_of_a_pre_training_is_written_again(data, tmp_path, monkeypatch, name):
    monkeypatch.setattr(judging, "ITERATIONS", 3)
    config = override(PretrainConfig.of(CONFIG), {"gan.pretrain_iterations": 2, "batch_size": 8, "threads": 1})
    folder, said = tmp_path / "gan", []
    hooks = Hooks(say=said.append)
    pretrain.main(config, folder, hooks)
    sound = read(folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:40])
    said.clear()
    pretrain.main(config, folder, hooks)
    again = read(folder)
    assert again.digest == sound.digest and again.about["iterations"] == 2
    assert sum("it is written again" in line for line in said) == 1, said
