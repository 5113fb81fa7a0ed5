"""Pre-training: exact resume, the file and what it refuses, a frozen GAN's bits, `--pretrain` from one command."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from commands import TINY, finish, start, wait_for
from safetensors.torch import load_file, save_file

from dasgm.bilevel import grad, replay, seed_of
from dasgm.config import PretrainConfig, SearchConfig, from_json, key_of, mathematics, override, to_json
from dasgm.jobs import pretrain
from dasgm.jobs import search as loop
from dasgm.jobs.pretrain import Pretraining, first_half, of_search
from dasgm.jobs.session import Hooks
from dasgm.presets import PRESETS, SMALL_GANS, preset
from dasgm.pretrained import at_average, chosen, read
from dasgm.search import Search, SearchFailed
from dasgm.store.records import read_lines
from dasgm.store.run import Run, state_of

ROOT = Path(__file__).parents[1]
TIMES = ("time", "speed/", "cost/")
LENGTH = 205  # two epochs and a piece
CHANGES: dict[str, Any] = {
    "gan.channels": 2,
    "gan.shared_dim": 8,
    "gan.z_dim": 24,
    "gan.average_start": 50,
    "gan.average_decay": 0.98,
    "gan.pretrain_iterations": LENGTH,
    "gan.pretrain_discriminator_steps": 1,
    "data.limit": 200,
    "data.holdout": 0.2,
    "batch_size": 8,
    "val_portion": 0.5,
    "method.epochs": 2,
    "method.channels": 2,
    "proxy.epochs": 0,
    "pictures_every": 1,
}
WORDS = [f"--{k.replace('_', '-')}={v}" for k, v in CHANGES.items()]
OWN = [w for w in WORDS if not w.startswith(("--method", "--proxy", "--val"))]  # of these, what a pre-training has
QUIET = Hooks(say=lambda line: None)


def small(**changes: Any) -> SearchConfig:
    """A tiny search on digits whose GAN is frozen, unless changed."""
    return override(preset("quickstart").config, CHANGES | {"freeze_gan": True} | changes)


def pretraining(storage: Path, *more: str) -> Any:
    """The real command."""
    words = ["pretrain", "quickstart", "--no-search-discriminator", *OWN, "--storage", str(storage), "--name", "gan"]
    return start("-m", "dasgm", *words, *more)


def rows_of(folder: Path) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in read_lines(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A finished pre-training, stock discriminator."""
    storage = tmp_path_factory.mktemp("made")
    code, out, err = finish(pretraining(storage))
    assert (code, err) == (0, ""), (out, err)
    assert "are what their label says" in out
    return storage / "gan"


def with_file(made: Path, **changes: Any) -> SearchConfig:
    return small(gan_checkpoint=str(made), **changes)


@pytest.fixture(scope="module")
def data():
    return small().data.load(None)


# the run


def test_folder_is_a_runs(made):
    assert Run(made).about["state"] == "finished" and Run(made).about["kind"] == "pretrain"
    rows = rows_of(made)
    assert [(row["epoch"], row["phase"]) for row in rows] == [*((e, "pretrain") for e in (1, 2, 3)), (3, "best")]
    assert [row["iteration"] for row in rows[:3]] == [100, 200, LENGTH]  # J_2 has 80 images: passes of 10 batches
    figures = {"gan/synthetic_accuracy", "gan/diversity", "gan/fd_proxy"}
    assert {"loss/generator", "loss/discriminator"} | figures <= set(rows[0])
    assert "not FID" in Run(made).about["protocols"]["gan/fd_proxy"]
    for name in ("config.json", "report.html", "gan.safetensors", "gan.json", "pictures/samples-000.png"):
        assert (made / name).is_file(), name
    assert "dasgm pre-training" in (made / "report.html").read_text()
    config = from_json(json.loads((made / "config.json").read_text()), PretrainConfig)
    assert replace(config, pictures_every=1) == replace(PretrainConfig.of(small()), pictures_every=1)


def test_killed_pretraining_goes_on_to_the_same_bits(made, tmp_path):
    shutil.copytree(made.parent / "cache", tmp_path / "cache")
    process = pretraining(tmp_path)
    wait_for(process, lambda: Run(tmp_path / "gan").checkpoints())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert state_of(tmp_path / "gan") == "interrupted"
    code, out, err = finish(pretraining(tmp_path))
    assert code == 0 and "going on after epoch" in out, err
    assert rows_of(tmp_path / "gan") == rows_of(made)
    for name in ("gan.safetensors", "gan.json"):
        assert (tmp_path / "gan" / name).read_bytes() == (made / name).read_bytes(), name


def test_finished_one_is_kept_a_longer_one_goes_on_and_another_is_refused(made, tmp_path):
    shutil.copytree(made.parent, tmp_path, dirs_exist_ok=True)
    config, folder = PretrainConfig.of(small()), tmp_path / "gan"
    before = (folder / "gan.safetensors").stat().st_mtime_ns
    pretrain.main(config, folder, QUIET)
    assert (folder / "gan.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"began with gan\.channels = 2, asked is 3"):
        pretrain.main(override(config, {"gan.channels": 3}), folder, QUIET)
    pretrain.main(override(config, {"gan.pretrain_iterations": LENGTH + 5}), folder, QUIET)
    assert read(folder).about["iterations"] == LENGTH + 5


def test_nan_is_named(tmp_path, made):
    shutil.copytree(made.parent / "cache", tmp_path / "cache")
    config = PretrainConfig.of(small(**{"gan.generator_lr": 1e30}))
    with pytest.raises(SearchFailed, match=r"^epoch 1, stage . \("):
        pretrain.main(config, tmp_path / "gan", QUIET)
    about = Run(tmp_path / "gan").about
    assert about["state"] == "failed" and "the loss is" in about["reason"]
    assert not (tmp_path / "gan" / "gan.safetensors").exists()


def test_collapse_is_named(tmp_path, made, monkeypatch):
    """All images of a class are one picture."""
    shutil.copytree(made.parent / "cache", tmp_path / "cache")
    one = lambda gan, G, labels, seed: (labels / 5 - 1).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)  # noqa: E731
    monkeypatch.setattr(loop, "sample", one)
    config = PretrainConfig.of(small(**{"gan.pretrain_iterations": 400}))
    with pytest.raises(SearchFailed, match=r"^epoch 3: the generator has collapsed: .* 0\.\d %"):
        pretrain.main(config, tmp_path / "gan", QUIET)
    assert Run(tmp_path / "gan").about["state"] == "failed" and len(rows_of(tmp_path / "gan")) == 3
    assert not (tmp_path / "gan" / "gan.json").exists()


def test_an_iteration_is_eq_4_then_5_with_the_gans_own_number_of_steps(data):
    """Against the hinge losses written out, and Adam's own steps counted; every step has real images of its own."""
    config = override(PretrainConfig.of(small()), {"gan.pretrain_discriminator_steps": 3})
    training = Pretraining(config, data)
    G, E, B = training.gan.players
    place_G, place_E, seen = G.state(), E.state(), []
    losses_of = training.gan.gan.discriminator_losses
    spied = lambda turn: [lambda d, x, *rest: seen.append(x) or losses_of(turn)[0](d, x, *rest)]  # noqa: E731
    training.gan.gan.discriminator_losses = spied
    losses = training.iterate()
    assert (G.steps, E.steps, B.steps) == (1, 3, 0)
    stream = ("pre-training", 0, 0, 0)
    order = torch.randperm(len(data.J2), generator=torch.Generator().manual_seed(seed_of(0, "pre-training", 0)))
    j = data.J2[order[:8]]
    assert [len(x) for x in seen] == [8, 8, 8] and torch.equal(torch.cat(seen), data.raw(data.J2[order[:24]]))
    z, y = training.gan.draw(8, seed_of(*stream, "z"))
    with replay(seed_of(*stream, "gan")):
        fake = place_G(z, y)
        expected = -place_E((), fake, y).mean()
    torch.testing.assert_close(losses["generator"], expected)
    with replay(seed_of(*stream, "discriminator"), 0, 0):
        # spectral norms are as Eq. 4 left them: nothing but E's own step moves them
        logits = place_E((), torch.cat([data.raw(j), fake]), torch.cat([data.labels[j], y]))
    hinge = (1 - logits[:8]).relu().mean() + (1 + logits[8:]).relu().mean()
    torch.testing.assert_close(losses["discriminator"], hinge.detach())


def averaged_gradients(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    config = PretrainConfig.of(small())
    training = Pretraining(config, config.data.load(None))
    training.iterate()
    torch.save(training.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_take_the_step_of_one_that_averages(tmp_path, data):
    mp.spawn(averaged_gradients, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in "GE":
        for k, t in first[name]["module"].items():
            assert torch.equal(t, second[name]["module"][k]), (name, k)
    # one process, which evaluates the workers' losses of Eq. 4 one after the other
    training = Pretraining(PretrainConfig.of(small()), data)
    gan, (G, E, B) = training.gan, training.gan.players
    found = []
    for rank in range(2):
        stream = ("pre-training", 0, rank, 0)
        z, y = gan.draw(8, seed_of(*stream, "z"))
        found.append(grad(gan.generator_pass(G, E.fixed, B.fixed, z, y, seed_of(*stream, "gan"))[0], G)[0])
    G.step({k: (g + found[1][k]) / 2 for k, g in found[0].items()})
    for k, p in G.params.items():
        torch.testing.assert_close(first["G"]["module"][k], p.detach(), rtol=1e-4, atol=1e-6, msg=k)


# the file


def test_file_says_what_it_is(made, data):
    about, tensors = json.loads((made / "gan.json").read_text()), load_file(made / "gan.safetensors")
    assert about["gan"]["key"] == "biggan" and about["gan"]["channels"] == 2 and about["data"]["key"] == "digits"
    assert about["classes"] == [str(n) for n in range(10)] and about["data"]["image_size"] == 16
    assert (about["discriminator"], about["iterations"], about["seed"]) == ("stock", LENGTH, 0)
    assert 0 <= about["synthetic_accuracy"] <= 1
    assert about["sha256"] == hashlib.sha256((made / "gan.safetensors").read_bytes()).hexdigest()
    state = Run(made).load()
    assert state is not None
    for part in "GE":
        for k, t in state["search"][part]["module"].items():
            assert torch.equal(tensors[f"{part}.{k}"], t), (part, k)
    mean = state["search"]["G"]["mean"]
    assert all(torch.equal(tensors[f"G_average.{k}"], t) for k, t in mean.items())
    assert any(not torch.equal(t, tensors[f"G.{k}"]) for k, t in mean.items())


def test_averaged_generator_has_spectral_norms_of_its_own(made):
    """Their vectors, iterated where the averaged weights stand, against a singular value decomposition."""
    tensors = load_file(made / "gan.safetensors")
    names = [k.removesuffix(".u") for k in tensors if k.startswith("G_average.") and k.endswith(".u")]
    assert names
    for name in names:
        w, u = tensors[f"{name}.weight"].flatten(1).double(), tensors[f"{name}.u"].double()
        sigma = torch.linalg.svdvals(w)[0]
        assert abs((w.mT @ u).norm() / sigma - 1) < 0.02, name


def test_averaging_leaves_the_live_generator_alone(data):
    training = Pretraining(PretrainConfig.of(small()), data)
    training.iterate()
    before = {k: t.clone() for k, t in training.gan.G.module.state_dict().items()}
    with at_average(training.gan, 8, "some stream"):
        pass
    assert all(torch.equal(t, before[k]) for k, t in training.gan.G.module.state_dict().items())


@pytest.mark.parametrize("place", ["", "gan.safetensors", "gan.json"])
def test_file_is_found_by_folder_and_by_either_name(made, place):
    assert read(made / place).digest == json.loads((made / "gan.json").read_text())["sha256"]


def test_what_is_no_such_file_is_one_line(made, tmp_path):
    copy = shutil.copytree(made, tmp_path / "copy")
    about = json.loads((copy / "gan.json").read_text())
    for change, says in (
        ({"format": 9}, "format 9, expected 1"),
        ({"sha256": "0"}, "copy both again"),
        ({}, None),
    ):
        (copy / "gan.json").write_text(json.dumps(about | change))
        if says:
            with pytest.raises(ValueError, match=says):
                read(copy)
    (copy / "gan.json").write_text(json.dumps({k: v for k, v in about.items() if k != "classes"}))
    with pytest.raises(ValueError, match="it lacks classes"):
        read(copy)
    (copy / "gan.safetensors").write_bytes(b"no tensors")
    (copy / "gan.json").write_text(json.dumps(about | {"sha256": hashlib.sha256(b"no tensors").hexdigest()}))
    with pytest.raises(ValueError, match="not a safetensors file"):
        read(copy)
    (copy / "gan.safetensors").unlink()
    for place, says in ((copy, "no gan.safetensors"), (tmp_path, "no gan.json"), (copy / "lock", "expected a pre-tr")):
        with pytest.raises(ValueError, match=says) as error:
            read(place)
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "told", "mend"),
    [
        ({"gan.channels": 3}, "gan.channels is 2, this search's 3", "--gan.channels 2"),
        ({"gan.shared_dim": 4, "gan.generator_lr": 1.0}, "gan.shared_dim is 8, this search's 4", "--gan.shared-dim 8"),
        ({"data.image_size": 32}, "image size is 16, this search's 32", "--data.image-size 16"),
        ({"data.split_seed": 1}, "data.split_seed is 0, this search's 1", "--data.split-seed 0"),
        ({"data.holdout": 0.3}, "data.holdout is 0.2, this search's 0.3", "--data.holdout 0.2"),
        ({"data.limit": 300}, "data.limit is 200, this search's 300", "--data.limit 200"),
        ({"data.split": "contiguous"}, "data.split is stratified, this search's contiguous", "--data.split strat"),
        (
            {"freeze_gan": False, "search_discriminator": True},
            "discriminator is stock, this search's relaxed",
            "--no-search-discriminator",
        ),
    ],
)
def test_mismatch_names_both_sides_and_what_to_do(made, changes, told, mend):
    config = with_file(made, **changes)
    with pytest.raises(ValueError) as error:
        chosen(config, config.data.load(None))
    line = str(error.value)
    assert told in line and mend in line and "dasgm pretrain" in line and len(line.splitlines()) == 1, line


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"gan": {"key": "othergan"}}, "its GAN is othergan, this search's biggan"),
        ({"data": {"key": "cifar10"}}, "its data set is cifar10, this search's digits"),
        ({"classes": ["a", "b"]}, "its classes are 2 (a, b), this search's 10 (0, 1, 2, ...)"),
        (
            {"classes": [*"0123457689"]},
            "its classes are 10 (..., 7, 6, 8, ...), this search's 10 (..., 6, 7, 8, ...)",
        ),
        ({"data_digest": "1234567890"}, "its images are those of 12345678"),
        ({"J2_digest": "1234567890"}, "it has seen another J_2: 12345678"),
    ],
)
def test_mismatch_of_kinds_and_contents(made, data, tmp_path, about, told):
    copy = shutil.copytree(made, tmp_path / "copy")
    was = json.loads((copy / "gan.json").read_text())
    changed = {k: was[k] | v if isinstance(v, dict) else v for k, v in about.items()}
    (copy / "gan.json").write_text(json.dumps(was | changed))
    with pytest.raises(ValueError) as error:
        chosen(with_file(copy), data)
    assert told in str(error.value) and len(str(error.value).splitlines()) == 1


def test_rates_may_differ(made, data):
    assert chosen(with_file(made, **{"gan.generator_lr": 0.1, "gan.warmup": 3, "arch_lr": 0.1, "seed": 5}), data)


def test_frozen_without_a_file_or_a_gan_is_one_line(data):
    for config, says in (
        (small(), "--pretrain"),
        (replace(small(), gan=None), "freeze-gan with gan none"),
        (replace(small(), gan=None, freeze_gan=False, gan_checkpoint="x"), "gan-checkpoint with gan none"),
    ):
        with pytest.raises(ValueError, match=says) as error:
            chosen(config, data)
        assert len(str(error.value).splitlines()) == 1
    assert chosen(small(freeze_gan=False), data) is None


# the search


def test_frozen_gan_never_changes_by_one_bit(made, tmp_path):
    shutil.copytree(made.parent / "cache", tmp_path / "cache")
    loop.main(with_file(made), tmp_path / "run", QUIET)
    tensors, state = load_file(made / "gan.safetensors"), Run(tmp_path / "run").load()
    assert state is not None and state["search"]["iteration"] > 15
    for part, name in (("G_average", "G"), ("E", "E")):
        module = state["search"][name]["module"]
        assert module.keys() == {k.removeprefix(f"{part}.") for k in tensors if k.startswith(f"{part}.")}
        assert all(torch.equal(t, tensors[f"{part}.{k}"]) for k, t in module.items()), name
        assert state["search"][name]["optimizer"] is None
    row = read_lines(tmp_path / "run" / "metrics.jsonl")[1]
    assert "loss/architecture" in row and "loss/generator" not in row and "grad/B" not in row
    about = json.loads((made / "gan.json").read_text())
    assert row["gan/synthetic_accuracy"] == about["synthetic_accuracy"]
    assert row["gan/fd_proxy"] == pytest.approx(about["fd_proxy"]) and "not FID" in about["protocols"]["fd_proxy"]


def test_frozen_search_takes_a_relaxed_discriminator_too(made, data, tmp_path):
    """Nobody asks it: the file of a search that searches B serves a frozen one."""
    shutil.copytree(made.parent / "cache", tmp_path / "cache")
    config = PretrainConfig.of(small(freeze_gan=False, **{"gan.pretrain_iterations": 3}))
    assert config.search_discriminator
    pretrain.main(config, tmp_path / "relaxed", QUIET)
    frozen = with_file(tmp_path / "relaxed")
    search = Search(frozen, data, chosen(frozen, data))
    before = [{k: t.clone() for k, t in p.module.state_dict().items()} for p in search.gan.players]
    search.left = 1
    search.iterate()
    for player, state in zip(search.gan.players, before, strict=True):
        assert state and all(torch.equal(t, state[k]) for k, t in player.module.state_dict().items())
    live = with_file(tmp_path / "relaxed", freeze_gan=False)
    assert Search(live, data, chosen(live, data)).gan.B.trainable


def test_live_search_begins_where_the_file_stands(made, data):
    config = with_file(made, freeze_gan=False, search_discriminator=False)
    search, tensors = Search(config, data, chosen(config, data)), load_file(made / "gan.safetensors")
    G, E, _ = search.gan.players
    for part, player in (("G", G), ("E", E)):
        assert all(torch.equal(t, tensors[f"{part}.{k}"]) for k, t in player.module.state_dict().items())
    assert all(torch.equal(t, tensors[f"G_average.{k}"]) for k, t in G.mean.items())
    assert G.steps == LENGTH and G.trainable and E.trainable
    search.iterate()
    assert G.steps == LENGTH + 1 and any(not torch.equal(p, tensors[f"G.{k}"]) for k, p in G.params.items())


def test_file_is_part_of_the_identity_and_its_place_is_not(made, tmp_path):
    shutil.copytree(made.parent / "cache", tmp_path / "cache")
    copy, folder = shutil.copytree(made, tmp_path / "copy"), tmp_path / "run"
    config = with_file(made, **{"method.epochs": 1})
    loop.main(config, folder, QUIET)
    loop.main(replace(config, gan_checkpoint=str(copy / "gan.safetensors")), folder, QUIET)
    tensors = load_file(copy / "gan.safetensors")
    name = next(k for k in tensors if k.startswith("G_average."))
    tensors[name] = tensors[name] + 1
    save_file(tensors, copy / "gan.safetensors")
    about = json.loads((copy / "gan.json").read_text())
    new = hashlib.sha256((copy / "gan.safetensors").read_bytes()).hexdigest()
    (copy / "gan.json").write_text(json.dumps(about | {"sha256": new}))
    with pytest.raises(ValueError) as error:
        loop.main(replace(config, gan_checkpoint=str(copy)), folder, QUIET)
    assert about["sha256"][:8] in str(error.value) and new[:8] in str(error.value)
    (tmp_path / "other").mkdir()
    Run(tmp_path / "other").begin(to_json(small()), mathematics(small()) | {"data": "d"}, {})
    with pytest.raises(ValueError, match=r"began with a GAN of its own, asked is a pre-trained GAN \(01234567\)"):
        Run(tmp_path / "other").begin(
            to_json(small()), mathematics(small()) | {"data": "d", "gan_checkpoint": "0123456789"}, {}
        )


# one command


def test_pretrain_from_one_command(tmp_path, made):
    """Pre-trains, searches frozen; another seed finds it; a whole new length is another."""
    shutil.copytree(made.parent / "cache", tmp_path / "cache")
    words = ["-m", "dasgm", "search", "quickstart", *WORDS, "--freeze-gan", "--pretrain", "--storage", str(tmp_path)]
    words += ["--gan.pretrain-iterations=30", "--method.epochs=1"]
    code, out, err = finish(start(*words, "--name=one"))
    assert (code, err) == (0, "") and "pre-training first: 30 iterations" in out, (out, err)
    (folder,) = tmp_path.glob("gan-biggan-digits-s0-*")
    assert Run(folder).about["state"] == Run(tmp_path / "one").about["state"] == "finished"
    assert Run(tmp_path / "one").about["mathematics"]["gan_checkpoint"] == read(folder).digest
    config = override(small(seed=3), {"gan.pretrain_iterations": 30, "gan.generator_lr": 5e-4})
    found = of_search(config, tmp_path, lambda *_: pytest.fail("it is there"), lambda line: None)
    assert found.gan_checkpoint == str(folder / "gan.safetensors")
    assert PretrainConfig.of(small()).name != folder.name


def test_what_a_pretraining_depends_on_is_in_its_name():
    config = PretrainConfig.of(small())
    for changes in ({"gan.channels": 3}, {"data.split_seed": 1}, {"batch_size": 9}, {"gan.pretrain_iterations": 9}):
        assert override(config, changes).name != config.name
    for changes in ({"gan.warmup": 9}, {"threads": 2}, {"device": "cpu"}, {"data.cutout": 4}):
        assert override(config, changes).name == config.name
    assert from_json(json.loads(json.dumps(to_json(config))), PretrainConfig) == config


def test_papers_rows_pretrain_as_biggans_authors():
    """Facts 1.1: 4 discriminator steps; one J_2 and one GAN for the rows of a batch size."""
    rows = [PretrainConfig.of(found.config) for name, found in PRESETS.items() if "-val" in name]
    assert {(c.gan.pretrain_discriminator_steps, c.gan.pretraining_length) for c in rows} == {(4, 50_000)}
    assert len({c.name for c in rows if c.batch_size == 64}) == 1


@pytest.mark.parametrize("gan", [preset("quickstart").config.gan, *SMALL_GANS.values()], ids=key_of)
def test_small_ones_average_over_the_last_of_their_iterations(gan):
    """Averaged like a weight: the number of the iteration, over the length of a small pre-training."""
    built, mean = gan.build(3, 16, False), 0.0
    for step in range(1, gan.pretraining_length + 1):
        decay = built.average_decay(step)
        mean = decay * mean + (1 - decay) * step
    assert 0.8 < mean / gan.pretraining_length < 0.99


def test_an_average_that_is_too_slow_is_told():
    """BigGAN's published average, from iteration 1,000 on: of 3,000 iterations it shows the first half."""
    published = preset("dasgm-darts").config.gan.build(10, 32, False).average_decay
    for length in (1000, 3000, 50_000):
        old = 1.0
        for step in range(1, length + 1):
            decay = published(step)
            old = decay * old + (1 - decay) * (step <= length // 2)
        assert first_half(published, length) == pytest.approx(old)
    assert first_half(published, 1000) == 0 and first_half(published, 3000) > 0.8 > 0.1 > first_half(published, 50_000)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_job_of_two_workers_then_a_sweep_that_shares_it(tmp_path):
    """python cluster/pretrain.py and tuning/sweep.py --pretrain, mirrored in MLflow."""
    from mlflow import MlflowClient

    gan = [*(w for w in TINY if w.startswith(("--batch", "--data"))), "--gan.channels=2", "--gan.shared-dim=8"]
    gan += ["--gan.z-dim=24", "--storage", str(tmp_path), "--gan.pretrain-iterations=20"]
    words = ["quickstart", *gan, "--no-search-discriminator", "--workers=2", "--name=two"]
    code, out, err = finish(start(str(ROOT / "cluster" / "pretrain.py"), *words))
    assert (code, err) == (0, "") and "use it" in out, (out, err)
    assert read(tmp_path / "two").about["workers"] == 2
    rest = [w for w in TINY if w not in gan]
    words = [*gan, *rest, "--pretrain", "--freeze-gan", "--name=s", "--num-trials=2", "--method.epochs=3"]
    code, out, err = finish(start(str(ROOT / "tuning" / "sweep.py"), *words))
    assert (code, err) == (0, "") and out.count("pre-training first") == 1, (out, err)
    (folder,) = tmp_path.glob("gan-biggan-digits-s0-*")
    digests = [Run(path.parent).about["mathematics"].get("gan_checkpoint") for path in tmp_path.glob("s/t*/run.json")]
    assert len(digests) == 2 and set(digests) <= {read(folder).digest, None}
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("dasgm")
    kinds = {run.info.run_name: run.data.tags["kind"] for run in client.search_runs([experiment.experiment_id])}
    assert kinds["two"] == kinds[folder.name] == "pretrain"
