"""A setting that is given to a sweep is kept, and the space of a sweep stays the one that it began with."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest
from proposals import captured, end, propose, refused

from dasgm.cli.settings import choose
from dasgm.config import mathematics, override, to_json
from dasgm.plugins import key_of
from dasgm.presets import preset
from dasgm.store.records import read_json
from dasgm.store.run import Run
from tuning import spaces
from tuning.asking import ensure_same_space
from tuning.plan import Plan
from tuning.sweep import Sweep

BASE = preset("quickstart").config
# by setting: the words that give it, and its value; each is the preset's own value too
WORDS = {
    "classifier_lr": (["--classifier-lr", "0.05"], 0.05),
    "arch_lr": (["--arch_lr=0.02"], 0.02),
    "gan": (["--gan", "biggan"], "biggan"),
    "gan.generator_lr": (["--gan.generator-lr", "5e-4"], 5e-4),
    "val_portion": (["--val-portion=0.0"], 0.0),
}


def value(config: Any, path: str) -> Any:
    if path == "gan":
        return key_of(config.gan)
    return config.gan and config.gan.generator_lr if path == "gan.generator_lr" else getattr(config, path)


def proposed(one: Sweep, number: int = 40) -> list[Any]:
    """Configurations of so many random proposals."""
    study, space = optuna.create_study(sampler=optuna.samplers.RandomSampler(1)), one.plan.space()
    return [override(one.base, space(study.ask(), one.base)) for _ in range(number)]


def test_a_folder_is_a_runs_or_a_sweeps_never_both(monkeypatch, tmp_path):
    """A search and a sweep of the same preset, data set and seed have the same name by default."""
    assert choose([]).name() == captured(monkeypatch, []).folder.name
    one = captured(monkeypatch, [f"--storage={tmp_path}", "--name=x"])
    one.folder.mkdir(parents=True)
    one.note(state="running")
    with Run(one.folder) as run, pytest.raises(ValueError, match="x belongs to a sweep: choose another --name"):
        run.begin(to_json(BASE), mathematics(BASE), {})
    assert not (one.folder / "run.json").exists()
    (one.folder / "sweep.json").rename(one.folder / "run.json")
    with pytest.raises(ValueError, match="x belongs to a single run: choose another --name"):
        one.compare()
    one.note(state="running")  # both, as older versions allowed: each goes on
    with Run(one.folder) as run:
        run.begin(to_json(BASE), mathematics(BASE), {})


# ------------------------------------------------------------------------------------------------ what is given


def test_what_is_given_on_the_command_line():
    words = [word for given, _ in WORDS.values() for word in given]
    assert choose(words, positional=False).given == set(WORDS)
    assert choose(["--num-trials=3", "--name", "val-portion"], positional=False).given == frozenset()
    assert choose(["quickstart", "--no-search-discriminator"]).given == {"search_discriminator"}


def write(path: Path, parent: str, **overrides: Any) -> str:
    path.write_text(json.dumps({"parent": parent, "overrides": overrides}))
    return str(path)


def test_what_is_given_in_files_of_the_users_but_not_in_presets_here(tmp_path):
    first = write(tmp_path / "a.json", "quickstart", **{"gan.generator-lr": 1e-3, "arch_lr": 0.02})
    second = write(tmp_path / "b.json", first, val_portion=0.25)
    assert choose([second]).given == {"gan.generator_lr", "arch_lr", "val_portion"}
    assert choose([second, "--gan", "biggan"]).given == {"gan", "gan.generator_lr", "arch_lr", "val_portion"}
    # of another GAN that rate says nothing
    assert choose([second, "--gan", "contragan"]).given == {"gan", "arch_lr", "val_portion"}
    third = write(tmp_path / "c.json", second, gan="contragan")
    assert choose([third]).given == {"gan", "arch_lr", "val_portion"}
    assert choose(["dasgm-darts-val50"]).given == frozenset()


@pytest.mark.parametrize("path", WORDS)
def test_a_given_setting_is_kept_and_the_others_vary(path, monkeypatch, tmp_path):
    """Given on the command line or in a file: alike."""
    words, given = WORDS[path]
    file = write(tmp_path / "mine.json", "quickstart", **{path: given})
    for command in (words, ["--preset", file]):
        one = captured(monkeypatch, command)
        configs = proposed(one)
        with_gan = [config for config in configs if config.gan] if path == "gan.generator_lr" else configs
        assert {value(config, path) for config in with_gan} == {given}
        for other in WORDS:
            assert other == path or len({value(config, other) for config in configs}) > 1, other
        (line,) = one.about_space()
        varied, _, fixed = line.partition("; fixed as given: ")
        name = path.rpartition(".")[2]
        assert fixed == f"{name} {given}" and name not in varied.removeprefix("varied: ").split(", ")


def test_a_gan_that_is_given_is_the_only_one(monkeypatch):
    one = captured(monkeypatch, ["--gan", "contragan"])
    assert {key_of(config.gan) for config in proposed(one)} == {"contragan"}
    one = captured(monkeypatch, ["--gan=none"])
    assert {config.gan for config in proposed(one)} == {None}
    assert one.about_space() == ["varied: classifier_lr, arch_lr; fixed as given: gan none"]


def test_a_frozen_gan_that_is_given_may_be_left_out(monkeypatch, tmp_path):
    """The default space compares it with no GAN, where there is nothing to freeze."""
    words = ["--freeze-gan", f"--gan-checkpoint={tmp_path}", "--num-trials=40", f"--storage={tmp_path}"]
    one = captured(monkeypatch, words)
    proposer = propose(tmp_path, 40, one.plan.space())
    proposer.base, proposer.plan = one.base, one.plan
    configs = [json.loads(proposer.suggest(str(i))["config"]) for i in range(12)]
    assert {bool(config["gan"]): config["freeze_gan"] for config in configs} == {True: True, False: False}


def test_where_all_is_given_nothing_is_proposed_and_that_is_said(monkeypatch, tmp_path):
    words = [word for given, _ in WORDS.values() for word in given]
    one = captured(monkeypatch, [*words, f"--storage={tmp_path}"])
    assert [line.split(";")[0] for line in one.about_space()][0] == "varied: nothing"
    assert "--num-trials 1" in one.about_space()[1]
    assert len(captured(monkeypatch, [*words, "--num-trials=1"]).about_space()) == 1
    proposer = propose(tmp_path, 7, one.plan.space())
    for number in range(7):  # beyond the random start: TPE has no parameter either
        assert proposer.suggest(str(number))["name"] == f"t{number:03d}"
        end(proposer, str(number), "finished", [0.5] * 4, proxy=0.1 * number)
    assert {str(trial.params) for trial in proposer.study.trials} == {"{}"}


@pytest.mark.parametrize("words", [["--gan=none"], ["--preset=darts-1st"]])
def test_a_portion_without_a_gan_is_refused(words, tmp_path, capsys):
    assert "val-portion" in refused([*words, "--val-portion=0.25", f"--storage={tmp_path}"], capsys)
    own = write(tmp_path / "mine.json", "quickstart", val_portion=0.25)
    assert "val-portion" in refused([f"--preset={own}", "--gan=none", f"--storage={tmp_path}"], capsys)


@pytest.mark.parametrize("words", [["--name=a\udcff"], ["--dry-run", "--name=a\udcff"]])
def test_a_name_that_no_database_holds_is_refused(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    said = refused([*words, f"--storage={tmp_path}"], capsys)
    assert "a\\udcff: its path has bytes that are no UTF-8" in said and not (tmp_path / "a\udcff").exists()


# ------------------------------------------------------------------------------------------------ a space of one's own


def own_space(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str, name: str) -> str:
    (folder / f"{name}.py").write_text(f"def space(trial, base):\n    return {body}\n")
    monkeypatch.syspath_prepend(str(folder))
    return f"--space={name}:space"


@pytest.mark.parametrize("choices", ['["biggan", "contragan"]', '["biggan", "none"]'])
def test_a_space_that_varies_a_given_gan_is_refused_by_name(choices, tmp_path, monkeypatch, capsys):
    body = f'{{"gan": trial.suggest_categorical("gan", {choices})}}'
    words = [own_space(tmp_path, monkeypatch, body, "kinds"), "--gan=biggan", f"--storage={tmp_path / 'runs'}"]
    said = refused(words, capsys)
    assert "kinds:space sets gan to " in said and "'biggan' is given" in said


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("constant", '{"val_portion": 0.5}'),
        ("dashed", '{"val-portion": 0.5}'),
        ("by_chance", '{"val_portion": trial.suggest_categorical("portion", [0.25, 0.25, 0.25, 0.5])}'),
    ],
)
def test_a_space_that_sets_a_given_setting_is_refused_by_name(name, body, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    words = [own_space(tmp_path, monkeypatch, body, name), "--val-portion=0.25", f"--storage={tmp_path / 'runs'}"]
    said = refused(words, capsys)
    assert f"{name}:space" in said and "val_portion" in said and "0.25 is given" in said
    assert not list((tmp_path / "runs").glob("*"))


def test_a_space_that_sets_the_given_value_is_none_too_many(tmp_path, monkeypatch):
    words = [own_space(tmp_path, monkeypatch, '{"gan": "none", "arch_lr": 0.1}', "agrees"), "--gan=none"]
    one = captured(monkeypatch, [*words, f"--storage={tmp_path}"])
    one.compare()
    assert one.about_space() == ["varied: the settings that agrees:space proposes; fixed as given: gan none"]


def test_a_trial_that_would_change_a_given_setting_fails(tmp_path):
    """Where the first proposal did not show it."""
    identity, given = {"space": "mine:space"}, frozenset({"val_portion"})
    plan = Plan(4, lambda: lambda trial, base: {"val_portion": 0.5}, [], identity, given=given)
    proposer = propose(tmp_path)
    proposer.plan, proposer.space = plan, plan.space()
    with pytest.raises(ValueError, match="at trial 0: .*sets val_portion to 0.5, but 0.0 is given"):
        proposer.suggest("a")


def first(trial, base):
    return {
        "classifier_lr": trial.suggest_float("rate", 0.1, 0.2),
        "gan": trial.suggest_categorical("kind", ["none", "biggan"]),
        "batch_size": 8,
    }


def more_choices(trial, base):
    return first(trial, base) | {"gan": trial.suggest_categorical("kind", ["none", "biggan", "contragan"])}


def another_range(trial, base):
    trial.suggest_float("rate", 0.1, 0.3)
    return first(trial, base)


def one_more(trial, base):
    return first(trial, base) | {"arch_lr": trial.suggest_float("arch", 0.1, 0.3, log=True)}


def one_less(trial, base):
    return {"classifier_lr": trial.suggest_float("rate", 0.1, 0.2), "gan": "none", "batch_size": 8}


def another_constant(trial, base):
    return first(trial, base) | {"batch_size": 16}


def asks_its_study(trial, base):
    assert trial.study.trials
    return first(trial, base)


def broken(trial, base):
    trial.suggest_float("rate", 0.1, 0.2, log=True)
    raise OSError("a mount is away")


def begun(folder: Path, space: spaces.Space, number: int = 2) -> None:
    proposer = propose(folder, number, space)
    for i in range(number):
        proposer.suggest(str(i))


def plan_of(space: spaces.Space, num_trials: int) -> Plan:
    return Plan(num_trials, lambda: space, [], {"space": "mine:space"})


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (more_choices, r"parameter 'kind' has the choices \['none', 'biggan', 'contragan'\], and had the choices"),
        (another_range, "parameter 'rate' has the range 0.1 to 0.3, and had the range 0.1 to 0.2"),
        (one_more, "parameter 'arch' is new"),
        (one_less, "parameter 'kind' is gone"),
        (another_constant, "sets batch_size to 16, before to 8"),
    ],
)
def test_a_space_that_changed_is_refused_by_the_name_of_what_changed(space, says, tmp_path):
    begun(tmp_path, first)
    before = (tmp_path / "study.db").read_bytes()
    with pytest.raises(ValueError, match=f"space mine:space has changed .*{says}.*--name"):
        ensure_same_space(tmp_path, plan_of(space, 3), BASE)
    assert (tmp_path / "study.db").read_bytes() == before
    ensure_same_space(tmp_path, plan_of(space, 2), BASE)  # none is to be proposed


@pytest.mark.parametrize("space", [first, asks_its_study])
def test_a_space_that_did_not_change_goes_on(space, tmp_path):
    begun(tmp_path, first)
    ensure_same_space(tmp_path, plan_of(space, 3), BASE)


def test_what_optuna_cannot_mix_is_named_though_no_search_came_of_it(tmp_path):
    proposer = propose(tmp_path, 1, broken)
    with pytest.raises(ValueError, match="a mount is away"):
        proposer.suggest("a")
    with pytest.raises(ValueError, match=r"parameter 'rate' has the range 0.1 to 0.2, and had the .* \(log\)"):
        ensure_same_space(tmp_path, plan_of(first, 1), BASE)


# ------------------------------------------------------------------------------------------------ a sweep's identity


def begin(one: Sweep, old: bool = False, number: int = 2) -> None:
    """What a sweep leaves behind that has made its first searches; `old`: by a version that varied all."""
    one.folder.mkdir(parents=True, exist_ok=True)
    one.plan = one.plan.varying_all() if old else one.plan
    one.begin()
    proposer = propose(one.folder, number, one.plan.space())
    proposer.base = one.base
    for i in range(number):
        proposer.suggest(str(i))


GIVEN = ["--val-portion=0.25", "--arch-lr=0.1"]


def test_what_is_fixed_is_part_of_a_sweep(tmp_path, monkeypatch, capsys):
    words = ["--name=s", "--num-trials=3", f"--storage={tmp_path}"]
    begin(captured(monkeypatch, [*words, *GIVEN]))
    again = captured(monkeypatch, [*words, *GIVEN])
    again.compare()
    assert read_json(tmp_path / "s" / "sweep.json")["space"] == again.about_space()[0]
    with pytest.raises(ValueError, match="val_portion"):
        captured(monkeypatch, [*words, GIVEN[1]]).compare()
    begin(captured(monkeypatch, [*words, "--name=t"]))
    with pytest.raises(ValueError, match="fixed as given: nothing; now: classifier_lr; .*--name"):
        captured(monkeypatch, [*words, "--name=t", "--classifier-lr=0.05"]).compare()  # the default, but given


def test_a_sweep_of_an_older_version_goes_on_with_its_own_space(tmp_path, monkeypatch):
    words = ["--name=s", "--num-trials=3", f"--storage={tmp_path}", *GIVEN]
    begin(captured(monkeypatch, words), old=True)
    assert "fixed" not in read_json(tmp_path / "s" / "sweep.json")["mathematics"]
    again = captured(monkeypatch, words)
    again.compare()
    line, why = again.about_space()
    assert line == "varied: classifier_lr, arch_lr, gan, generator_lr, val_portion" and "older version" in why
    assert len({config.val_portion for config in proposed(again)}) > 2
    with pytest.raises(ValueError, match="val_portion"):
        captured(monkeypatch, words[:3]).compare()


NASBENCH = ["--preset=cifar10-smoke-nasbench201", "--dataset=digits"]


def test_the_score_of_a_sweep_is_its_records(tmp_path, monkeypatch):
    """One that is asked for, else that of the search space; an older version's sweep goes on with the proxy."""
    words = [*NASBENCH, "--num-trials=3", f"--storage={tmp_path}"]
    begin(captured(monkeypatch, [*words, "--name=s"]))
    begin(captured(monkeypatch, [*words, "--name=t", "--rank-by=proxy"]))
    for name, known, other in (("s", "naswot", "proxy"), ("t", "proxy", "naswot")):
        path = tmp_path / name / "sweep.json"
        assert read_json(path)["objective"] == f"best/{known}"
        for more in ([], [f"--rank-by={known}"]):
            again = captured(monkeypatch, [*words, f"--name={name}", *more])
            again.begin()
            assert again.plan.rank_by == known and read_json(path)["objective"] == f"best/{known}"
            assert again.about()[-1].startswith(f"ranked by {known} (--rank-by): ")
        with pytest.raises(ValueError, match=f"began with rank-by = '{known}', .*asks for '{other}'; choose another"):
            captured(monkeypatch, [*words, f"--name={name}", f"--rank-by={other}"]).compare()


@pytest.mark.parametrize("rank_by", ["naswot", "proxy"])
def test_naswot_compares_networks_of_one_size_alone(rank_by, tmp_path, monkeypatch):
    body = '{"data.holdout": 0.2, "data.cutout": trial.suggest_categorical("cutout", [0, 4])}'
    words = [own_space(tmp_path, monkeypatch, body, "parts"), f"--rank-by={rank_by}", f"--storage={tmp_path / 'runs'}"]
    one = captured(monkeypatch, words)
    says = "data.holdout is 0.2, elsewhere in this sweep 0.1, and naswot compares"
    with pytest.raises(ValueError, match=says) if rank_by == "naswot" else nullcontext():
        one.compare()
    captured(monkeypatch, [*words, "--data.holdout=0.2"]).compare()


# ------------------------------------------------------------------------------------------------ grace


def test_a_grace_beyond_the_epochs_is_refused(monkeypatch, capsys):
    assert "grace 5: expected at most 4" in refused(["--grace=5"], capsys)
    assert captured(monkeypatch, ["--grace=4"]).plan.rungs == []  # at the end: no search is stopped
    assert captured(monkeypatch, ["--method.epochs=1"]).plan.rungs == []  # nobody asked for a grace
    capsys.readouterr()
    captured(monkeypatch, ["--method=pdarts", "--grace=2"])  # stages are compared at their ends
    assert "grace 2 has no effect" in capsys.readouterr().out
