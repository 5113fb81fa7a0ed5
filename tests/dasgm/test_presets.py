"""The presets against what the paper and facts/nas-methods 1.2 and 1.4 say; `dasgm presets` and `dasgm random`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
from commands import finish
from warm import Warm

from dasgm.config import from_json, override, to_json
from dasgm.genotype import Genotype
from dasgm.plugins import key_of
from dasgm.presets import PRESETS, difference, preset, small, with_method
from dasgm.presets.field import FIELD
from dasgm.presets.nasbench201 import NASBENCH201
from dasgm.presets.paper import PAPER as ROWS
from dasgm.spaces.darts import SearchSpace
from dasgm.spellings import CHOOSABLE

PAPER = sorted(ROWS)


@pytest.fixture
def dasgm(warm: Warm) -> Callable[..., tuple[int, str, str]]:
    """The command: its exit code, output and errors."""
    return lambda *words, **more: finish(warm.start("-m", "dasgm", *words, **more))


def test_every_row_of_table_2_has_a_preset():
    methods = {"darts": "darts-2nd", "pdarts": "pdarts", "pcdarts": "pcdarts"}
    rows = {"darts-1st"}
    for method, plain in methods.items():
        own = {plain, f"dasgm-{method}", *(f"dasgm-{method}-val{n}" for n in (30, 50, 70))}
        rows |= own if method == "darts" else own | {f"{name}-upstream" for name in own}
    assert set(PAPER) == rows


@pytest.mark.parametrize("name", PAPER)
def test_what_the_paper_fixes(name):
    """Section 5.2; facts 1.2 for what it takes from the methods' own papers."""
    found, config = preset(name), preset(name).config
    method = key_of(config.method)
    assert method in name.replace("darts-1st", "darts").replace("darts-2nd", "darts")
    upstream = name.endswith("-upstream")
    batches = {"darts": 64, "pdarts": 96 if upstream else 64, "pcdarts": 256 if upstream else 64}
    assert config.batch_size == batches[method] and config.method.channels == 16
    assert config.classifier_lr == (0.1 if upstream and method == "pcdarts" else 0.025)
    assert config.classifier_lr_min == (0.001 if method == "darts" else 0.0)
    assert (config.classifier_momentum, config.classifier_weight_decay, config.classifier_clip) == (0.9, 3e-4, 5.0)
    assert (config.arch_lr, config.arch_weight_decay) == (3e-4 if method == "darts" else 6e-4, 1e-3)
    assert config.arch_clip == (5.0 if method == "pdarts" else 0.0)
    assert config.total_epochs == (75 if method == "pdarts" else 50)
    assert config.method.arch_start_epoch == {"darts": 0, "pdarts": 10, "pcdarts": 15}[method]
    assert config.order == ("second" if method == "darts" and name != "darts-1st" else "first")
    assert config.data.split == ("contiguous" if upstream else "stratified")
    assert not config.proxy.epochs and not config.data.holdout and not config.data.cutout
    # collapse is looked at, never acted on, in the paper's rows
    assert not config.stop_skips and not config.stop_entropy and not config.hessian_every
    assert found.choices and "Table 2" in found.published and "CIFAR-100" in found.published


@pytest.mark.parametrize("name", PAPER)
def test_rows_differ_in_what_their_name_says(name):
    config = preset(name).config
    if name.startswith("dasgm"):
        assert key_of(config.gan) == "biggan"
        portion = next((n / 100 for n in (30, 50, 70) if f"val{n}" in name), 0.0)
        assert config.val_portion == config.real_portion == portion
        assert config.freeze_gan == (portion > 0)
        of_order = any("the order is not given: second" in choice for choice in preset(name).choices)
        assert of_order == (portion > 0 and config.order == "second")
        assert config.searches_discriminator == (name == "dasgm-darts")  # first order keeps the stock discriminator
    else:
        assert config.gan is None and config.real_portion == 1.0


def test_published_errors():
    """Table 2, copied by hand from the paper."""
    for name, cifar10, cifar100 in (
        ("dasgm-darts", "2.70 ± 0.08", "17.14 ± 0.10"),
        ("dasgm-darts-val50", "2.75 ± 0.02", "18.40 ± 0.27"),
        ("darts-1st", "3.00 ± 0.14", "20.52 ± 0.31"),
        ("darts-2nd", "2.76 ± 0.09", "20.58 ± 0.44"),
        ("dasgm-pdarts", "2.56 ± 0.04", "16.82 ± 0.03"),
        ("dasgm-pdarts-val70-upstream", "3.03 ± 0.05", "18.74 ± 0.13"),
        ("pdarts", "2.50", "17.49"),
        ("dasgm-pcdarts-val30", "3.43 ± 0.12", "18.19 ± 0.31"),
        ("dasgm-pcdarts-upstream", "2.52 ± 0.04", "17.42 ± 0.11"),
        ("pcdarts", "2.57 ± 0.07", "17.96 ± 0.15"),
    ):
        assert preset(name).published == f"CIFAR-10 {cifar10}, CIFAR-100 {cifar100} (Table 2)"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = preset(name).config
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_difference_is_what_sets_two_apart():
    config = preset("dasgm-pcdarts").config
    changed = override(config, {"arch_lr": 0.5, "gan.channels": 8, "threads": 3})
    assert difference(config, changed) == {"arch_lr": (6e-4, 0.5), "gan.channels": (64, 8)}  # threads: placement
    other = replace(config, method=preset("pdarts").config.method)
    found = difference(config, other)
    assert found["method.key"] == ("pcdarts", "pdarts") and found["method.partial"] == (4, None)
    assert difference(config, config) == {}


def test_a_small_search_gets_another_method_at_its_small_size():
    for name in ("quickstart", "cifar10-smoke", "cifar10-smoke-pdarts"):
        config = preset(name).config
        for key in ("darts", "pdarts", "pcdarts", "drnas", "dropnas"):
            found = with_method(config, key)
            method = found.method
            assert key_of(method) == key and method.cells <= 3 and method.channels <= 8 and found.total_epochs <= 6
        assert with_method(config, key_of(config.method)) == config
    assert with_method(preset("dasgm-darts").config, "pdarts").method == preset("pdarts").config.method
    with pytest.raises(ValueError, match="did you mean 'pdarts'"):
        with_method(preset("quickstart").config, "pdart")


@pytest.mark.parametrize(
    ("name", "epochs", "cells", "channels"),
    [
        ("cifar10-smoke-nasbench201", {"gdas": 5, "dropnas": 5, "drnas": 4, "random": 0}, 5, 8),
        ("nasbench201-darts-1st", {"gdas": 250, "dropnas": 76, "drnas": 50, "random": 0}, 17, 16),
    ],
)
def test_another_method_in_another_space_keeps_the_sizes_of_the_search(name, epochs, cells, channels):
    config = preset(name).config
    for key, total in epochs.items():
        found = with_method(config, key)
        assert found == replace(config, method=found.method) and key_of(found.method) == key
        assert (found.total_epochs, found.method.cells, found.method.channels) == (total, cells, channels)
    assert with_method(config, "darts") == config
    with pytest.raises(ValueError, match="search-space nasbench201: pdarts is not defined"):
        with_method(config, "pdarts")


# what the other methods' authors use: facts/more-methods, sections 1.2 to 1.9
FIELD_SETTINGS = {
    "betadarts": (50, 64, 0.025, 0.001, 3e-4, 5.0, 3e-4, 8, 16),
    "sdarts-rs": (50, 64, 0.025, 0.001, 3e-4, 5.0, 3e-4, 8, 16),
    "sdarts-adv": (50, 64, 0.025, 0.001, 3e-4, 5.0, 3e-4, 8, 16),
    "gdas": (250, 256, 0.025, 0.001, 5e-4, 5.0, 3e-4, 8, 16),
    "drnas": (50, 64, 0.1, 0.0, 3e-4, 5.0, 6e-4, 20, 36),
    "dropnas": (76, 96, 0.0375, 0.0015, 3e-4, 3.0, 3e-4, 14, 16),
    "fairdarts": (50, 128, 0.005, 0.001, 3e-4, 5.0, 3e-3, 8, 16),
    **dict.fromkeys(("rdarts", "sgas-cri1", "sgas-cri2", "dartsminus"), (50, 64, 0.025, 0.001, 3e-4, 5.0, 3e-4, 8, 16)),
}


@pytest.mark.parametrize("name", FIELD_SETTINGS)
def test_other_methods_have_their_authors_settings_plain_and_with_dasgm(name):
    plain, dasgm = preset(name), preset(f"dasgm-{name}")
    config, method = plain.config, plain.config.method
    assert FIELD_SETTINGS[name] == (
        config.total_epochs, config.batch_size, config.classifier_lr, config.classifier_lr_min,
        config.classifier_weight_decay, config.classifier_clip, config.arch_lr, method.cells, method.channels,
    )  # fmt: skip
    assert config.classifier_nesterov == (name == "gdas")
    assert config.arch_beta1 == (0.9 if name == "fairdarts" else 0.5)
    order = "second" if name == "rdarts" else "first"
    assert (config.arch_weight_decay, config.order, config.search_discriminator) == (1e-3, order, False)
    gan, searched = PRESETS["dasgm-darts"].config.gan, order == "second"
    assert dasgm.config == replace(config, gan=gan, search_discriminator=searched)
    assert plain.published and plain.choices and not dasgm.published
    tiny = small(dasgm.config)
    assert key_of(tiny.method) == key_of(method) and tiny.order == order and tiny.method.cells == 3


# what their authors use in NAS-Bench-201: facts/more-methods, sections 1.3, 1.4, 1.9 and 2.2
EPOCHS_201 = {
    "darts-1st": 50, "darts-2nd": 50, "betadarts": 100, "sdarts-rs": 50, "sdarts-adv": 50, "gdas": 250, "drnas": 100,
    "dropnas": 50, "rdarts": 50, "dartsminus": 50, "random": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", NASBENCH201)
def test_searches_in_nasbench201(name):
    """16 channels, 5 cells a stage, batch 64, rates and decays as in the benchmark's searches; at small size those of
    cifar10-smoke-nasbench201.
    """
    config, smoke = PRESETS[name].config, PRESETS["cifar10-smoke-nasbench201"].config
    row = re.sub("-val.*", "", name.removeprefix("nasbench201-")).removeprefix("dasgm-")
    assert config.total_epochs == EPOCHS_201["darts-2nd" if row == "darts" else row]
    assert (config.method.cells, config.method.channels, config.batch_size, config.search_space) == (
        17, 16, 64, "nasbench201"
    )  # fmt: skip
    assert (config.classifier_lr, config.classifier_lr_min, config.classifier_weight_decay) == (0.025, 0.001, 5e-4)
    assert (config.classifier_nesterov, config.classifier_clip) == (True, 5.0)
    assert (config.arch_lr, config.arch_weight_decay, config.method.arch_start_epoch) == (3e-4, 1e-3, 0)
    assert config.order == ("second" if row in ("darts", "darts-2nd", "rdarts") else "first")
    portion = re.search(r"val(\d+)", name)
    assert config.val_portion == (int(portion[1]) / 100 if portion else 0) and config.freeze_gan == bool(portion)
    assert (config.gan is not None) == ("dasgm" in name)
    tiny = small(config)
    kept = {"order": config.order, "search_discriminator": config.search_discriminator, "gan": tiny.gan,
            "val_portion": config.val_portion, "freeze_gan": config.freeze_gan, "method": tiny.method}  # fmt: skip
    assert tiny == replace(smoke, **kept) and key_of(tiny.gan) == key_of(config.gan)
    shorter = config.method.shortened(smoke.method.epochs)
    sizes = replace(shorter, **{name: getattr(smoke.method, name) for name in SIZES})
    assert tiny.method == sizes and tiny.total_epochs == (5 if row != "random" else 0)
    assert tiny.space.supernet(tiny.stages[0], 10) is not None


SIZES = ("epochs", "cells", "channels", "arch_start_epoch")


def test_what_methods_change_in_nasbench201():
    of = {name: PRESETS[f"nasbench201-{name}"].config.method for name in EPOCHS_201}
    assert (of["drnas"].partial, of["drnas"].kept) == (1, 0)
    assert (of["gdas"].gradient, of["gdas"].tau_first, of["gdas"].tau_last) == ("all", 10, 0.1)
    assert of["betadarts"].strength == 50 and of["sdarts-adv"].perturbation == "adversarial"


def test_every_other_method_has_presets():
    assert set(FIELD) == {"random", *(row for name in FIELD_SETTINGS for row in (name, f"dasgm-{name}"))}
    assert preset("random").config.total_epochs == 0 and preset("random").config.gan is None


def test_listing_describing_and_comparing(dasgm, tmp_path):
    code, listed, _ = dasgm("presets", cwd=tmp_path)
    assert code == 0 and all(name in listed for name in PRESETS)
    assert "17.14 ± 0.10" in listed and "25+25+25" in listed
    _, one, _ = dasgm("presets", "darts-1st", cwd=tmp_path)
    assert "aims at: CIFAR-10 3.00" in one and "the original codes step A first" in one and '"order": "first"' in one
    _, apart, _ = dasgm("presets", "--diff", "pdarts", "pdarts-upstream", cwd=tmp_path)
    assert [line.split() for line in apart.splitlines() if "batch" in line] == [["batch_size", "64", "96"]]
    code, _, wrong = dasgm("presets", "--diff", "pdarts", "pdart-upstream", cwd=tmp_path)
    assert code == 2 and "did you mean 'pdarts-upstream'" in wrong and len(wrong.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"parent": "pdarts", "overrides": {"method.max_skip": 3}}', "max_skips"),
        ('{"parent": "pdarts", "overrides": {"method.operations": [8, 5, 1]}}', "at least 3"),
        ('{"parent": "pdarts", "overrides": {"method.operations": "8 5 3"}}', "method.operations"),
        ('{"parent": "pcdart"}', "did you mean 'pcdarts'"),
        ('{"overrides": {}}', "parent"),
        ('{"parent": 3}', "expected"),
        ('{"parent": "pdarts", "overrides": [1]}', "expected"),
        ('{"parent": "mine.json"}', "its own ancestor (mine.json -> mine.json)"),
        ("[1]", "parent"),
        ("{", "not JSON"),
        ("[" * 100_000, "nested more than 32 levels; expected a JSON file"),
    ],
)
def test_own_preset_that_is_wrong_is_one_line(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(ValueError) as refusal:
        preset("mine.json")
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_own_preset_by_its_path(dasgm, tmp_path):
    (tmp_path / "mine.json").write_text('{"parent": "pdarts", "overrides": {"method.max_skips": 4}}')
    assert preset(str(tmp_path / "mine.json")).config.method == replace(preset("pdarts").config.method, max_skips=4)
    two = {"method.operations": [8, 4], "method.added-cells": [0, 3], "method.skip_dropout_rates": [0.0, 0.5]}
    (tmp_path / "two.json").write_text(json.dumps({"parent": "pdarts", "overrides": two}))
    stages = preset(str(tmp_path / "two.json")).config.stages
    assert [(stage.cells, len(stage.operations[0][0])) for stage in stages] == [(5, 8), (8, 4)]
    (tmp_path / "wrong.json").write_text('{"parent": "pdart"}')
    code, _, err = dasgm("presets", "wrong.json", cwd=tmp_path)
    assert code == 2 and "did you mean 'pdarts'" in err and len(err.splitlines()) == 1


def test_random_genotypes_are_uniform():
    """Each of the pairs of inputs and each operation equally often: chi-square below its 0.1 % bound."""
    n, pairs, operations = 2000, Counter(), Counter()
    for seed in range(n):
        genotype = SearchSpace().random(seed)
        for cell in (genotype.normal, genotype.reduce):
            for node in range(4):
                two = cell[2 * node : 2 * node + 2]
                pairs[node, tuple(state for _, state in two)] += 1
            operations.update(name for name, _ in cell)
        assert Genotype.from_json(genotype.to_json()) == genotype
    for node in range(4):
        possible = list(combinations(range(2 + node), 2))
        expected = 2 * n / len(possible)
        found = sum((pairs[node, pair] - expected) ** 2 / expected for pair in possible)
        assert found < {1: 1e-9, 3: 13.8, 6: 20.5, 10: 27.9}[len(possible)], node
    expected = 16 * n / len(CHOOSABLE)
    assert sum((operations[name] - expected) ** 2 / expected for name in CHOOSABLE) < 22.5
    assert SearchSpace().random(1) == SearchSpace().random(1) != SearchSpace().random(2)


def test_random_command_writes_a_genotype(dasgm, tmp_path):
    code, _, _ = dasgm("random", "--seed", "7", "--output", "g.json", cwd=tmp_path)
    assert code == 0 and Genotype.load(tmp_path / "g.json") == SearchSpace().random(7)
    code, _, lost = dasgm("random", "--output", "nowhere/g.json", cwd=tmp_path)
    assert code == 2 and "nowhere/g.json: No such file" in lost and len(lost.splitlines()) == 1
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        SearchSpace().random(7).save(tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"g.json", "folder"}, "nothing half-written is left"
    with pytest.raises(ValueError, match="seed -7: expected at least 0"):
        SearchSpace().random(-7)
