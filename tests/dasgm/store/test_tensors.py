"""Tensors on disk come back as they were; a torn file of the cache is said, and made again to the same bits."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import load

from dasgm.config import PretrainConfig, override
from dasgm.jobs import pretrain
from dasgm.jobs.session import Hooks
from dasgm.jobs.warmup import warm_up
from dasgm.measures import fidelity
from dasgm.measures import judge as judging
from dasgm.presets import preset
from dasgm.pretrained import read
from dasgm.search import Search
from dasgm.store.files import LARGEST
from dasgm.store.tensors import KINDS, packed, unpacked

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

    before = one.with_name("before.safetensors")
    before.write_bytes(content)
    pairs = list(zip(tensors(one), tensors(before), strict=True))
    before.unlink()
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


def cache_file(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
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


def test_tensors_of_every_kind_are_what_safetensors_reads(tmp_path: Path) -> None:
    whole = torch.arange(24.0).view(2, 3, 4)
    state = {
        "views": [whole, whole[:, 1], whole[1], whole.mT, whole[:, :, ::2], whole],  # of one storage
        "layout": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "odd": [torch.tensor(3.0), torch.empty(0, 3), torch.empty(0), torch.tensor([True, False, True])],
        "kinds": {i: torch.arange(5).to(kind) for i, kind in enumerate(getattr(torch, name) for name in KINDS)},
        "random": torch.get_rng_state(),
        "learnt": torch.nn.Parameter(torch.randn(3)),
    }
    content = packed(state)
    assert content == packed(state), "the same bytes each time"
    (tmp_path / "x").write_bytes(content)
    found, read = unpacked(tmp_path / "x"), load(content)
    for name, tensor in [(f"{k}/{i}", t) for k in ("views", "odd") for i, t in enumerate(state[k])] + [
        *((f"kinds/{i}", t) for i, t in state["kinds"].items()),
        *((k, state[k]) for k in ("layout", "random", "learnt")),
    ]:
        first, _, rest = name.partition("/")
        mine = found[first][int(rest)] if rest else found[first]
        for other in (mine, read[name]):
            assert torch.equal(other, tensor) and (other.dtype, other.shape) == (tensor.dtype, tensor.shape), name
    found["views"][0].zero_()
    assert torch.equal(found["views"][5], whole), "each has memory of its own"


def test_what_no_file_can_hold_is_refused_as_it_is_written() -> None:
    for state, error in (
        ({"a": {"b": torch.ones(1)}, "a/b": torch.ones(1)}, ValueError),
        ({"__metadata__": torch.ones(1)}, ValueError),
        ({(1, 2): 3}, TypeError),
        ({"a": object()}, TypeError),
    ):
        with pytest.raises(error):
            packed(state)


def nested(levels: int, kind: str, inmost: Any) -> Any:
    for _ in range(levels):
        inmost = [inmost] if kind == "lists" else {"d": inmost}
    return inmost


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"few": 1, "losses": ["x" * 1000] * (LARGEST // 1000)}, "^losses: .*larger than 16 MiB$"),
        ({"a": [1, {"b": 2**63}]}, "^'a/1/b': a whole number beyond 64 bits$"),
        ({"a": -(2**63)}, "^'a': a whole number beyond 64 bits$"),
        ({"a": {2**64: 1}}, "^'a/18446744073709551616': a whole number beyond 64 bits$"),
        (
            {"W": {"x": torch.ones(1, dtype=torch.complex128)}},
            "^'W/x': a tensor of complex128, which cannot be written$",
        ),
        ({"W": torch.ones(1).to(torch.float8_e5m2)}, "^'W': a tensor of float8_e5m2, which cannot be written$"),
        ({"a": nested(5000, "lists", 1)}, "^'a/0/0.*: nested more than 32 levels$"),
        ({"a": nested(5000, "dictionaries", 1)}, "^'a/d/d.*: nested more than 32 levels$"),
    ],
    ids=["size", "integer", "negative", "key", "complex128", "float8", "lists", "dictionaries"],
)
def test_what_would_not_be_read_is_refused_by_its_place(state: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        packed(state)
    assert len(str(refused.value)) < 150


@pytest.mark.parametrize("kind", ["lists", "dictionaries"])
@pytest.mark.parametrize("inmost", [1, [], {}, torch.ones(2)], ids=["number", "list", "dictionary", "tensor"])
def test_what_is_written_is_read(tmp_path: Path, kind: str, inmost: Any) -> None:
    """As deep as it goes: one level more is refused."""
    deepest = 0
    for levels in range(40):
        state = {"a": nested(levels, kind, inmost)}
        try:
            content = packed(state)
        except ValueError:
            continue
        deepest = levels
        (tmp_path / "x").write_bytes(content)
        assert str(unpacked(tmp_path / "x")) == str(state)
    # of 32 levels: the file's dictionary, the state's (2), then 1 a list and 2 a dictionary; a tensor's own 1
    left = 29 - (isinstance(inmost, dict | torch.Tensor))
    assert deepest == left // (1 if kind == "lists" else 2)


def test_numbers_at_the_bounds_come_back(tmp_path: Path) -> None:
    conjugate = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64).conj()
    state = {"most": 2**63 - 1, "least": 1 - 2**63, "x": conjugate, "y": conjugate.imag}
    (tmp_path / "x").write_bytes(packed(state))
    found = unpacked(tmp_path / "x")
    assert (found["most"], found["least"]) == (9223372036854775807, -9223372036854775807)
    assert found["x"].tolist() == [1 - 2j, 3 + 4j] and found["y"].tolist() == [-2.0, 4.0]
