"""The paper's tables as rows over seeds: which searches are made, and what is said of them."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from commands import ROOT, finish
from optuna.trial import TrialState
from proposals import end
from scipy import integrate, special

from dasgm.config import from_json, mathematics, override
from dasgm.pages.tables import baselines, compared, holm, markdown, rows, welch
from dasgm.pages.view import RunView
from dasgm.plugins import key_of
from dasgm.presets import PRESETS, preset
from dasgm.store.records import read_json
from tuning.asking import open_study
from tuning.halving import Halving
from tuning.results import RESULTS
from tuning.rows import Options, _everything
from tuning.trials import Proposer


@pytest.mark.parametrize("name", PRESETS)
def test_a_row_is_made_from_any_other_by_all_its_settings(name):
    for base in (preset(name).config for name in ("quickstart", "dasgm-pcdarts", "nasbench201-darts-1st")):
        made = override(base, _everything(preset(name).config, base))
        assert made.gan_checkpoint is None
        assert mathematics(made) == mathematics(preset(name).config)


@pytest.mark.parametrize("name", sorted({row for one in RESULTS.values() for row, _ in one.rows}))
def test_rows_of_the_tables_keep_what_they_are_at_small_size(name):
    frozen = "val" in name
    config = Options(rows=(name,), small=True, pretrain=frozen).configs()[name]
    full = Options(rows=(name,), pretrain=frozen).configs()[name]
    for same in ("order", "search_discriminator", "val_portion", "freeze_gan", "arch_clip"):
        assert getattr(config, same) == getattr(full, same)
    assert key_of(config.gan) == key_of(full.gan) and key_of(config.method) == key_of(full.method)
    assert config.method.cells <= 5 and config.data.holdout == 0.1
    assert full.data.holdout == 0 and full.method.channels == 16 and full.proxy.epochs > 0


def test_settings_reach_the_rows_that_have_them():
    options = Options(rows=("pdarts", "dasgm-darts"), set=("gan.channels=8", "method.max_skips=1", "batch_size=16"))
    found = options.configs()
    assert found["dasgm-darts"].gan.channels == 8 and found["pdarts"].method.max_skips == 1
    assert {config.batch_size for config in found.values()} == {16}
    with pytest.raises(ValueError, match="max_skips"):
        replace(options, set=("method.max_skip=1",)).configs()
    assert key_of(Options(rows=("pdarts",), dataset="digits").configs()["pdarts"].data) == "digits"


def test_trials_are_the_rows_seed_by_seed_and_more_seeds_extend(tmp_path):
    def proposer(seeds: int) -> Proposer:
        options = Options(rows=("darts-1st", "dasgm-pdarts"), seeds=seeds, small=True)
        configs = options.configs()
        plan, base = options.plan(configs), next(iter(configs.values()))
        return Proposer(open_study(tmp_path), tmp_path, tmp_path / "cache", base, plan, Halving([]), lambda *_: {})

    one = proposer(1)
    asked = [one.suggest(letter) for letter in "ab"]
    made = [from_json(json.loads(trial["config"])) for trial in asked]
    assert [key_of(config.method) for config in made] == ["darts", "pdarts"]
    assert made[0].gan is None and made[1].stages[1].cells == 4 and made[1].arch_clip == 5.0
    assert read_json(tmp_path / "t001" / "run.json")["epochs"] == made[1].total_epochs == 6
    for letter in "ab":
        end(one, letter, "finished", [0.5])
    assert one.suggest("c") == Proposer.FINISHED
    two = proposer(2)
    assert [from_json(json.loads(two.suggest(letter)["config"])).seed for letter in "cd"] == [1, 1]
    assert [t.params["row"] for t in two.study.get_trials()] == ["darts-1st", "dasgm-pdarts"] * 2
    assert two.study.get_trials()[0].state == TrialState.COMPLETE


def run(row: str, seed: int, accuracy: float | None, state: str = "finished") -> RunView:
    metrics = [{"epoch": 1, "speed/images_per_s": 64.0, "cost/gpu_hours": 0.5}]
    metrics += [] if accuracy is None else [{"epoch": 1, "best/proxy": accuracy, "cost/gpu_hours": 0.5}]
    info = {"parameters": {"row": row, "seed": seed}, "workers": 2}
    return RunView(Path(f"{row}{seed}"), state, info, {"batch_size": 16}, metrics, None)


def test_mean_deviation_and_what_is_missing():
    runs = [run("pdarts", s, a) for s, a in enumerate((0.50, 0.54, 0.58))] + [run("dasgm-pdarts", 0, 0.6)]
    runs += [run("dasgm-pdarts", 1, None, "failed")]
    found = rows(runs, ("dasgm-pdarts", "pdarts", "pcdarts"), 3)
    assert found[1].mean == pytest.approx(0.54) and found[1].deviation == pytest.approx(0.04)
    assert found[1].seconds == pytest.approx((0.5,) * 3)  # 2 workers x 16 images at 64 a second
    assert [row.state for row in found] == ["1 of 3 finished", "", "not run"]
    base = {"dasgm-pdarts": "pdarts", "pcdarts": "pdarts"}
    text = markdown(found, base).splitlines()
    assert text[2].startswith("| dasgm-pdarts | 60.00 (1 of 3 finished) | 1 |")
    assert text[2].endswith("| pdarts | - | - |")
    assert text[3:] == [
        "| pdarts | 54.00 ± 4.00 | 3 | 0.5000 | 0.500 | - | - | - |",
        "| pcdarts | not run | 0 | - | - | - | - | - |",
    ]
    twice = [*runs, *(run("pcdarts", s, a) for s, a in enumerate((0.60, 0.64, 0.68)))]
    text = markdown(rows(twice, ("pdarts", "pcdarts"), 3), {"pcdarts": "pdarts"}).splitlines()
    p = welch((0.60, 0.64, 0.68), (0.50, 0.54, 0.58))
    assert text[3].endswith(f"| pdarts | {p:.3f} | {p:.3f} |") and text[-1].endswith("of which there is 1.")


def test_a_run_without_epochs_has_no_speed_and_says_so():
    one = run("random", 0, 0.5)
    found = rows([replace(one, metrics=[{"epoch": 0, "best/proxy": 0.5}])], ("random",), 1)
    assert markdown(found, {}).splitlines()[2] == "| random | 50.00 | 1 | 0.0000 | - | - | - | - |"


def test_welch_is_the_formula():
    """t and its degrees of freedom by hand, the tail of Student's distribution by integration."""
    a, b = (2.70, 2.62, 2.81, 2.66), (2.90, 2.75, 2.95)
    means, variances = [], []
    for values in (a, b):
        mean = sum(values) / len(values)
        means.append(mean)
        variances.append(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    t = abs(means[0] - means[1]) / math.sqrt(sum(variances))
    df = sum(variances) ** 2 / (variances[0] ** 2 / 3 + variances[1] ** 2 / 2)
    scale = special.gamma((df + 1) / 2) / (math.sqrt(df * math.pi) * special.gamma(df / 2))
    tail, _ = integrate.quad(lambda x: scale * (1 + x * x / df) ** (-(df + 1) / 2), t, math.inf)
    assert welch(a, b) == pytest.approx(2 * tail, rel=1e-6)
    assert math.isnan(welch((1.0,), b))


def test_holm_is_the_closed_test_of_bonferroni():
    """An adjusted p is the largest of Bonferroni's over all sets of hypotheses that have this one (closed testing)."""
    rng = random.Random(0)
    for n in (1, 2, 5, 8):
        ps = [rng.random() ** 4 for _ in range(n)] + [0.01] * (n > 4)
        sets = [s for size in range(1, len(ps) + 1) for s in combinations(range(len(ps)), size)]
        expected = [max(min(1.0, len(s) * min(ps[i] for i in s)) for s in sets if one in s) for one in range(len(ps))]
        assert holm(ps) == pytest.approx(expected)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]) and holm([]) == []


def test_every_row_with_a_gan_is_compared_with_its_plain_method():
    """In both spaces; the plain row is that of the name without dasgm and Val, and DARTS's is of the second order."""
    found, names = baselines(list(PRESETS)), {name for name, of in PRESETS.items() if of.config.gan is not None}
    for name in sorted(names - {name for name in names if "smoke" in name or name == "quickstart"}):
        plain = re.sub(r"-val\d+", "", name).replace("dasgm-", "")
        assert found[name] == (
            f"{plain}-2nd" if plain.endswith("darts-2nd") or plain in ("darts", "nasbench201-darts") else plain
        ), name
    assert (found["gdas"], found["rdarts"], found["pdarts"], found["random"]) == (
        "darts-1st", "darts-2nd", "darts-1st", "darts-1st"
    )  # fmt: skip
    assert (found["nasbench201-gdas"], found["nasbench201-rdarts"], found["nasbench201-random"]) == (
        "nasbench201-darts-1st", "nasbench201-darts-2nd", "nasbench201-darts-1st"
    )  # fmt: skip
    assert not {"darts-1st", "darts-2nd", "nasbench201-darts-1st", "nasbench201-darts-2nd"} & found.keys()
    assert baselines(("gdas", "pdarts")) == {}, "the rows of the table alone"
    assert baselines(("dasgm-darts:contragan", "darts-2nd")) == {"dasgm-darts:contragan": "darts-2nd"}
    gan = ("darts-1st", "gdas:biggan", "gdas")
    assert baselines(gan) == {"gdas:biggan": "gdas", "gdas": "darts-1st"}
    assert baselines(("dasgm-gdas", "gdas", "random"), "random") == {"dasgm-gdas": "random", "gdas": "random"}
    with pytest.raises(ValueError, match="did you mean 'gdas'"):
        baselines(("gdas", "random"), "gdsa")


def test_holm_counts_the_comparisons_of_all_tables_that_make_one():
    names = ("dasgm-darts", "dasgm-darts:contragan", "darts-2nd", "pdarts")
    one = rows([run(row, s, 0.5 + 0.01 * s + 0.02 * i) for i, row in enumerate(names[:-1]) for s in (0, 1)], names, 2)
    found = compared([one, one], baselines(names))
    assert list(found[0]) == ["dasgm-darts", "dasgm-darts:contragan"] and found[0] == found[1]
    p = welch((0.50, 0.51), (0.54, 0.55))
    assert found[0]["dasgm-darts"][:2] == (pytest.approx(p), pytest.approx(4 * p))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--table 2"),
        (["--table", "9"], "expected 2, 3, 4, 5 or 6"),
        (["--figure", "2"], "expected 3, 4 or 5"),
        (["--table", "2", "--figure", "3"], "one of them at a time"),
        (["--table", "2", "--small", "--budget", "small"], "--small is --budget smoke"),
        (["--table", "2", "--budget", "big"], "--budget 'big': expected "),
        (["--table", "6", "--rows", "darts-1st"], "no row of table 6"),
        (["--table", "5", "--train-set", "epochs=1"], "trains nothing on CIFAR"),
        (["--table", "6", "--pretrain"], "leave it out"),
        (["--table", "2", "--workers", "8"], "trains nothing on ImageNet"),
        (["--table", "3", "--workers", "9"], "expected 1 to 8"),
        (["--rows", "pdarts", "--train-set", "epochs=1"], "--rows alone trains nothing"),
        (["--table", "2", "--data-dir", "nowhere"], "table 2: nothing of it can be made here: no cifar100: "),
        (["--rows", "pdart"], "did you mean 'pdarts'"),
        (["--rows", "dasgm-darts:bigan"], "did you mean 'biggan'"),
        (["--rows", "pdarts", "--set", "method.epoch=3"], "did you mean 'epochs'"),
        (["--rows", "pdarts", "--set", "nothing"], "method.epochs=3"),
        (["--rows", "pdarts", "--seeds", "0"], "at least 1"),
        (["--rows", "pdarts", "--set", "proxy.epochs=0"], "row pdarts, proxy.epochs 0: expected at least 1"),
        (["--rows", "dasgm-pdarts-val30"], "add --pretrain"),
        (["--rows", "dasgm-pdarts", "--pretrain"], "leave it out"),
        (["--rows", "pdarts", "gdas", "--against", "pdart"], "did you mean 'pdarts'"),
        (["--rows", "pdarts", "--data-dir", "nowhere"], "nowhere"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, warm, words, says):
    code, _, err = finish(warm.start(str(ROOT / "tuning" / "reproduce.py"), *words, cwd=tmp_path))
    assert code == 2 and says in err and len(err.splitlines()) == 1, err
    assert not list(tmp_path.glob("*")), "nothing is left half-written"
