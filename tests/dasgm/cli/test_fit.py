"""`dasgm fit`: from a folder of pictures to a model in one go, and on again after a kill in each stage."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import finish, start
from photographs import digit_pictures, write_folder
from pictures import pictures
from safetensors.torch import load_file

import dasgm
from dasgm.api import fitting, pricing
from dasgm.cli.evaluate import evaluate_options
from dasgm.cli.main import main
from dasgm.config import from_json
from dasgm.data import folder
from dasgm.genotype import Genotype, space_of
from dasgm.recipes import RECIPES, EvaluateConfig

SMALL = (
    *("--search.method.cells=3", "--search.method.channels=2", "--search.method.epochs=2"),
    *("--training.cells=3", "--training.channels=2", "--image-size=32", "--search.image-size=16", "--device=cpu"),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    return write_folder(root, train=digit_pictures((14, 12, 12)), test=digit_pictures((4, 3, 4), 100))


def weights(place: Path) -> dict[str, torch.Tensor]:
    return load_file(place / "training" / "model.safetensors")


def command(photos: Path, storage: Path, *more: str) -> list[str]:
    return ["-m", "dasgm", "fit", str(photos), *SMALL, "--training.epochs=3", f"--storage={storage}", "--name=a", *more]


def killed(words: list[str], sign: Path) -> None:
    """The command, killed as soon as `sign` is there."""
    process = start(*words)
    while not sign.exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    finish(process)
    assert sign.exists()


def test_a_model_in_one_go_and_the_same_bits_after_a_kill_in_each_stage(photos: Path, tmp_path: Path) -> None:
    code, said, errors = finish(start(*command(photos, tmp_path / "whole")))
    assert code == 0, errors
    place = tmp_path / "whole" / "a"
    assert (
        said.index("search      fit-small")
        < said.index("training    cifar-small: cifar form")
        < said.index("search: 2 epochs")
    )
    for line in ("dasgm predict", "dasgm export", "dasgm.load"):
        assert line in said
    assert (place / "training" / "report.html").is_file() and (place / "search" / "report.html").is_file()
    model = dasgm.load(place / "training")
    assert model.classes == ("n00000001", "n00000002", "n00000003") and model.image_size == 32
    assert model.about["result"]["error"] >= 0 and model.about["recipe"]["epochs"] == 3
    assert model.about["genotype"] == json.loads((place / "search" / "genotype.json").read_text())

    words = command(photos, tmp_path / "killed")
    stages = tmp_path / "killed" / "a"
    killed(words, stages / "search" / "metrics.jsonl")
    killed(words, stages / "training" / "metrics.jsonl")
    code, said, errors = finish(start(*words))
    assert code == 0 and "going on" in said, errors
    expected, found = weights(place), weights(stages)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_budget_chooses_the_epochs(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", str(photos), *SMALL[:2], *SMALL[3:], f"--storage={tmp_path}", "--dry-run"]
    seconds = {}
    for budget in (90, 200):
        main([*words, f"--time-budget={budget}"])
        said = capsys.readouterr().out
        measured, search, training = stages(said)
        assert search <= 0.4 * budget and measured + search + training <= budget + 1, said
        assert f"{measured + search + training} s, of {budget}" in said
        seconds[budget] = search + training
    assert seconds[90] < seconds[200] and not list(tmp_path.iterdir())


def stages(said: str) -> list[int]:
    """Seconds of measuring and of each stage, as a plan says them; its lines add up."""
    found = []
    for epochs, epoch, besides, whole in re.findall(r" (\d+) epochs? of (\S+) s \+ (\d+) s besides = (\d+) s\b", said):
        assert 0 <= int(whole) - (int(epochs) * float(epoch) + int(besides)) < 1
        found.append(int(whole))
    (total,) = re.findall(r"^in all      (.*) = ([\d,]+) s", said, re.MULTILINE)
    parts = [int(n) for n in re.findall(r"(\d+) s", total[0])]
    assert parts[1:] == found and sum(parts) == int(total[1].replace(",", "")) and " 1 epochs" not in said
    return parts


def test_a_plan_adds_up_and_counts_the_pictures_once(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = "torchvision:mobilenet_v3_small"
    words = ["fit", str(photos), *SMALL[3:-2], "--search.image-size=16", "--device=cpu", "--training.epochs=1"]
    words += [*SMALL[:2], "--search.method.epochs=1", f"--storage={tmp_path}", "--against", known]
    main([*words, "--dry-run"])
    said = capsys.readouterr().out
    assert len(stages(said)) == 4 and said.count(f"against     {known}: ") == 1
    assert "38 images to train on, 11 to test on" in said and "J_1" not in said
    assert said.count("n00000001") == 1 and "n00000001: 14 + 4" in said
    for what in ("search at 16 pixels", "training at 32 pixels", f"training of {known} at 32 pixels"):
        assert said.index(f"measuring the {what}: reading the pictures") < said.index("in all")


def test_what_is_told_in_the_plan_is_not_told_again(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", str(photos), "--genotype=DARTS_V2", *SMALL[3:-2], "--device=cpu", "--training.epochs=1"]
    main([*words, f"--storage={tmp_path}", "--name=a"])
    said = capsys.readouterr().out
    assert said.count("n00000001: 14 + 4") == 1 and said.count("38 images to train on") == 1
    (line,) = (line for line in said.splitlines() if "dasgm evaluate torchvision:resnet18" in line)
    other = tmp_path / "a" / "against-torchvision-resnet18"
    assert f"dasgm compare {tmp_path / 'a' / 'training'} {other}\n" in said
    found, options = evaluate_options(shlex.split(line.partition("dasgm evaluate ")[2]))
    trained = from_json(json.loads((tmp_path / "a" / "training" / "config.json").read_text()), EvaluateConfig)
    assert found.design.settled(options.config) == found.design.settled(replace(
        trained, **{name: getattr(options.config, name) for name in found.design.unused}
    ))  # fmt: skip
    assert options.storage / options.name == other


def test_what_a_recipe_has_and_streamed_pictures_have_not_is_told(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", str(photos), "--genotype=DARTS_V2", *SMALL[3:-2], "--device=cpu", "--training.epochs=1"]
    main([*words, f"--storage={tmp_path}", "--training.data.streaming=on", "--name=a"])
    said = capsys.readouterr().out
    told = "data.cutout is 8, but streamed pictures are trained without cutout; --training.data.streaming off, which"
    assert said.count(told) == 1 and "finished: test error" in said


def test_a_budget_that_is_used_up_ends_the_measuring(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    watch = pricing.Budget(30.0, 0.4, begun).watch("search", "at 32 pixels", print)
    for part in ("reading the pictures", "a few iterations", "a few iterations"):
        watch(part)
    assert capsys.readouterr().out.count("measuring the search at 32 pixels: a few iterations") == 1
    with pytest.raises(
        ValueError, match="^time-budget 30: measuring a few steps of the search takes all of it; [^\n]*$"
    ):
        pricing.Budget(30.0, 0.4, begun - 30).watch("search", "at 32 pixels", print)("reading the pictures")


@pytest.mark.parametrize(
    ("seconds", "expected"), [(7.0411, 7.05), (1234.5, 1240), (0.1, 0.1), (99.95, 100), (9.99, 9.99)]
)
def test_seconds_are_rounded_up_to_three_digits(seconds: float, expected: float) -> None:
    assert pricing.rounded_up(seconds) == expected


def test_what_was_chosen_is_kept(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a few steps would take now, and for the found network by its multiply-adds."""
    words = ["fit", str(photos), *SMALL[:2], *SMALL[3:], f"--storage={tmp_path}", "--name=a", "--time-budget=9999"]
    config = replace(fitting.at_size("cifar-small", 32, 38), cells=3, channels=2)
    most = fitting.work(fitting.costliest(space_of("darts")), config, 3)
    plan = fitting.Plan(32, 1, 2, most, 3)
    plan.save(tmp_path / "a")
    main(words)
    said = capsys.readouterr().out
    found = Genotype.load(str(tmp_path / "a" / "search"))
    epochs = json.loads((tmp_path / "a" / "training" / "config.json").read_text())["epochs"]
    assert "measuring" not in said and "search: 1 epoch, in" in said and 2 <= epochs <= 4
    assert epochs == fitting.with_training_epochs(config, found, plan).epochs
    (tmp_path / "a" / "fit.json").write_text("{")
    with pytest.raises(SystemExit):
        main(words)
    assert "use another --name" in capsys.readouterr().err


def test_a_known_genotype_is_trained_on_streamed_pictures(photos: Path, tmp_path: Path) -> None:
    words = ["fit", str(photos), "--genotype=DARTS_V2", "--image-size=68", "--device=cpu", f"--storage={tmp_path}"]
    small = ["--training.cells=3", "--training.channels=2", "--training.epochs=2", "--training.augment=trivialaugment"]
    ended = []
    for name in ("a", "b"):
        main([*words, *small, "--training.warmup-epochs=0", f"--name={name}"])
        model = dasgm.load(tmp_path / name / "training")
        about = model.about
        assert (about["form"], about["resize"], about["recipe"]["augment"]) == ("imagenet", 78, "trivialaugment")
        ended.append(weights(tmp_path / name))
    assert not (tmp_path / "a" / "search").exists()
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])
    (best, *_), *_ = model.predict([next(photos.rglob("*.JPEG"))])
    assert best[0] in model.classes


def test_known_networks_are_trained_beside_it_and_compared(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = "torchvision:mobilenet_v3_small"
    words = ["fit", str(photos), "--genotype=DARTS_V2", *SMALL[3:-2], "--device=cpu", "--training.epochs=1"]
    words += [f"--storage={tmp_path}", "--name=a", "--against", known]
    main(words)
    said, place = capsys.readouterr().out, tmp_path / "a"
    assert (
        f"against     {known}: " in said
        and f"  register  python -m cluster.tracking {place / 'training'} --register {photos.name}\n" in said
    )
    other = place / "against-torchvision-mobilenet_v3_small"
    settings = [json.loads((run / "config.json").read_text()) for run in (place / "training", other)]
    unused = ("auxiliary", "drop_path", "compile")
    alike = [{name: value for name, value in config.items() if name not in unused} for config in settings]
    assert alike[0] == alike[1] and alike[0]["epochs"] == 1
    table = (place / "comparison.md").read_text()
    assert said.index(known) < said.index("the baseline is a: training") and "11 test pictures" in table
    right = []  # of each picture, by the two runs
    for run in (place / "training", other):
        with (run / "predictions.csv").open() as file:
            right.append({row["picture"]: row["true"] == row["predicted"] for row in csv.DictReader(file)})
    won = sum(right[1][picture] and not mine for picture, mine in right[0].items())
    lost = sum(mine and not right[1][picture] for picture, mine in right[0].items())
    row = next(line for line in table.splitlines() if known in line)
    assert [cell.strip() for cell in row.split("|")][5:7] == [str(won), str(lost)]
    shutil.rmtree(other)
    main(words)  # goes on: that network alone
    assert "going on" in capsys.readouterr().out and (place / "comparison.md").read_text() == table
    with pytest.raises(SystemExit):
        main(words[:-2])
    assert f"it began with --against {known}" in capsys.readouterr().err


def test_time_that_known_networks_take_is_not_given_twice() -> None:
    space = space_of("darts")
    most, found = fitting.costliest(space), Genotype.load("DARTS_V2")
    config = fitting.at_size("photographs-small", 64, 400)
    plan = fitting.Plan(64, 5, 10, fitting.work(most, config, 3), 3)
    beside = replace(plan, against=("torchvision:resnet18",), others=1.0)  # takes as long as the costliest
    share = fitting.work(found, config, 3) / plan.costliest
    epochs = fitting.with_training_epochs(config, found, beside).epochs
    assert epochs * ((1 + share) / 2 + 1) <= 10 * 2 < (epochs + 1) * ((1 + share) / 2 + 1)


def test_a_found_network_gets_more_epochs_than_the_costliest() -> None:
    space = space_of("darts")
    most = fitting.costliest(space)
    assert set(re.findall(r"\w+_\dx\d", most.to_json())) == {"sep_conv_5x5"}
    config = fitting.at_size("photographs-small", 64, 400)
    plan = fitting.Plan(64, 5, 10, fitting.work(most, config, 3), 3)
    assert fitting.with_training_epochs(config, most, plan).epochs == 10
    cheaper = fitting.with_training_epochs(config, Genotype.load("DARTS_V2"), plan).epochs
    assert 10 < cheaper <= 20  # half of the time is the same for every network


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--time-budget=1"], "time-budget 1: 0."),
        (["--search.epochs=3"], "did you mean --search.method.epochs or --search.proxy.epochs?"),
        (["--training.epoch=3"], "did you mean --training.epochs?"),
        (["--epochs=3"], "did you mean --search.method.epochs or --search.proxy.epochs or --training.epochs?"),
        (["--training.image-size=64"], "dasgm fit takes it from --image-size"),
        (["--data-dir=x"], "--data-dir: dasgm fit takes it from PICTURES"),
        (["--search.gan.warmup=3"], "there is no GAN, so no such option; choose one with --preset"),
        (["--training.folds=5"], "--training.folds 5: dasgm fit trains one network"),
        (["--genotype=DARTS_V2", "--training.batch-size=500"], "choose a smaller --training.batch-size"),
        (["--search.batch-size=500"], "choose a smaller --search.batch-size"),
        (["--training.warmup-epochs=99"], "training.warmup-epochs 99: expected at most the number of epochs, 10"),
        (["--search.method.cells=2"], "search.method.cells 2: expected at least 3"),
        (["--search.image-size=50"], "search.image-size 50: expected a multiple of 4 from 16 to 1024"),
        (["--image-size=50"], "image-size 50: expected a multiple of 4 from 32 to 320"),
        (["--image-size=324"], "from 32 to 320"),
        (["--training.data.image-size=64"], "dasgm fit takes it from --image-size"),
        (["--genotype=DARTS_V2", "--search.batch-size=4"], "there is no search"),
        (["--against", "torchvision:resnet81"], "is not known, did you mean 'resnet18'?"),
        (["--against", "DARTS_V2"], "against DARTS_V2: expected a known network, such as torchvision:resnet18"),
        (["--search-share=1"], "search-share 1.0: expected a number between 0 and 1"),
    ],
)
def test_what_cannot_be_is_one_line(
    photos: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", str(photos), "--device=cpu", f"--storage={tmp_path}", *more])
    said, error = capsys.readouterr()
    assert "measuring" not in said or "batch-size" in message  # what needs no measuring is refused at once
    assert ended.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and message in error, error
    assert not list(tmp_path.iterdir())


def test_folders_that_make_no_data_set_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(name: str) -> str:
        with pytest.raises(SystemExit):
            main(["fit", str(tmp_path / name), "--device=cpu", f"--storage={tmp_path / 'runs'}"])
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    pictures(tmp_path / "one", {"a": 20})
    assert "has one class folder" in said("one")
    pictures(tmp_path / "empty" / "train", {"a": 20, "b": 20})
    (tmp_path / "empty" / "test").mkdir()
    assert "every class needs at least 2 pictures, but a has 0, b has 0" in said("empty")
    shutil.rmtree(tmp_path / "empty" / "test")
    pictures(tmp_path / "empty" / "test", {"a": 2, "b": 1})
    assert "every class needs at least 2 pictures, but b has 1" in said("empty")
    assert f"PICTURES {tmp_path / 'nowhere'}: no such folder" in said("nowhere")
    assert not (tmp_path / "runs").exists()


def test_the_usual_choices(photos: Path) -> None:
    from dasgm.data._parts import parts

    found = parts(folder.Config(), str(photos))
    assert fitting.photographs_size(found) == 32  # they have 36 to 40 pixels
    space = space_of("darts")
    assert fitting.usual_recipe(space, 64, gpu=False) == "cifar-small"
    assert fitting.usual_recipe(space, 68, gpu=False) == "photographs-small"
    assert fitting.usual_recipe(space, 224, gpu=True) == "photographs"
    assert fitting.usual_recipe(space_of("nasbench201"), 224, gpu=True) == "nasbench201"
    small, large = fitting.at_size("cifar-small", 32, 1000), fitting.at_size("photographs-small", 224, 1000)
    assert small.form == "cifar" and small.data.limit == 0 and small.data.cutout == 8
    assert large.form == "imagenet" and large.data.cutout == 0 and fitting.at_size("cifar", 32, 40).batch_size == 10


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_shortened_to_any_number_of_epochs(name: str) -> None:
    """Its own rules would refuse five epochs of warm-up in a training of two, and the linear schedule of five."""
    config = RECIPES[name].config
    for epochs in (1, 2, 5, 6, 30):
        found = fitting.lasting(config, epochs)
        assert found.epochs == epochs and found.warmup_epochs <= epochs / 2 and found.learning_rate(epochs - 1) > 0
    assert fitting.lasting(config, config.epochs) == config
    assert fitting.shortened(RECIPES["imagenet"].config, fitting.lasting(RECIPES["imagenet"].config, 4)) == (
        ", of which 2 warm up, with the cosine schedule"
    )
