"""Pre-training: exact resume, the file and what it refuses, a frozen GAN's bits, `--pretrain` from one command."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from commands import ROOT, TINY, finish, start, wait_for
from outcomes import rows_of
from pretraining import LENGTH, QUIET, WORDS, pretraining, small
from processes import spawn

from dasgm.bilevel import grad, replay, seed_of
from dasgm.config import PretrainConfig, from_json, override, to_json
from dasgm.jobs import inspection, pretrain
from dasgm.jobs.pretrain import Pretraining, first_half, of_search, wanted_by
from dasgm.plugins import key_of
from dasgm.presets import PRESETS, SMALL_GANS, preset
from dasgm.pretrained import read
from dasgm.search import SearchFailed
from dasgm.store.run import Run, state_of


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


def test_killed_pretraining_goes_on_to_the_same_bits(made, tmp_path, warm):
    shutil.copytree(made.parent / "cache", tmp_path / "cache")
    process = pretraining(tmp_path, warm.start)
    wait_for(process, lambda: Run(tmp_path / "gan").checkpoints())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert state_of(tmp_path / "gan") == "interrupted"
    code, out, err = finish(pretraining(tmp_path, warm.start))
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
    with pytest.raises(ValueError, match=r"began with gan\.channels = 2, but this command asks for 3"):
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
    monkeypatch.setattr(inspection, "sample", one)
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
    for player in training.gan.players:
        player.agree()
    torch.save(training.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_take_the_step_of_one_that_averages(tmp_path, data, warm):
    spawn(warm, averaged_gradients, str(tmp_path), nprocs=2)
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


def test_pretrain_from_one_command(tmp_path, made, warm):
    """Pre-trains, searches frozen; another seed finds it; a whole new length is another."""
    shutil.copytree(made.parent / "cache", tmp_path / "cache")
    words = ["-m", "dasgm", "search", "quickstart", *WORDS, "--freeze-gan", "--pretrain", "--storage", str(tmp_path)]
    words += ["--gan.pretrain-iterations=30", "--method.epochs=1"]
    code, out, err = finish(warm.start(*words, "--name=one"))
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


def test_a_pretraining_that_cannot_be_continued_names_what_helps(tmp_path):
    """--name is of the search, and changes nothing about the folder of the pre-training that it shares."""
    config = small(freeze_gan=False)
    folder = tmp_path / wanted_by(config).name
    folder.mkdir()
    (folder / "run.json").write_text('{"format": 1, "state": "interrupted", "mathematics": {"seed": 1}}')
    with pytest.raises(ValueError, match="written by dasgm 0.1.0: .*another --storage"):
        of_search(config, tmp_path, lambda wanted, place: pretrain.main(wanted, place, QUIET), lambda line: None)
