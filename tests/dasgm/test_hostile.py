"""Files that somebody else wrote, damaged by a fuzzer: refused in one line, or read; nothing run, nothing vast."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import command, damaged, document, hunt, one_line
from hypothesis import strategies as st
from samples import BEST, ROW, RUN, SEARCH, SWEEP, TEXT, TOKENS, edges, png, rows_of, sealed, tensor_file

from cluster import contents, writer
from dasgm import model, pretrained
from dasgm.cli.evaluate import choose_training
from dasgm.config import PretrainConfig, from_json, to_json
from dasgm.data import _listing, _memory, _pictures, digits
from dasgm.genotype import Genotype
from dasgm.jobs import search as search_job
from dasgm.jobs.session import Hooks, Session
from dasgm.networks.network import Network
from dasgm.presets import preset
from dasgm.recipes import EvaluateConfig
from dasgm.search import Search
from dasgm.spaces.darts import KNOWN
from dasgm.store.run import Run
from dasgm.store.tensors import packed


class Hunts:
    """By name: what is damaged, and what has to hold of it. Each has a folder of its own."""

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / "file.json"

    def genotype(self) -> tuple[Any, Any]:
        valid = json.loads(KNOWN["DARTS_V2"].to_json())

        def check(text: str) -> None:
            self.file.write_text(text, "utf-8", "surrogatepass")
            one_line(lambda: Genotype.load(self.file))

        return document(valid), check

    def genotype_text(self) -> tuple[Any, Any]:
        @st.composite
        def spliced(draw: Any) -> bytes:
            at, to = sorted(draw(st.integers(0, len(TEXT))) for _ in range(2))
            text = TEXT[:at] + draw(st.sampled_from(TOKENS)) + TEXT[to if draw(st.booleans()) else at :]
            return draw(damaged(text.encode())) if draw(st.booleans()) else text.encode()

        def check(content: bytes) -> None:
            self.file.write_bytes(content)
            one_line(lambda: Genotype.load(self.file))

        return spliced(), check

    def preset(self) -> tuple[Any, Any]:
        overrides = {"gan": "biggan", "gan.channels": 4, "method": "darts", "method.cells": 3, "val_portion": 0.3}
        overrides |= {"data.image_size": 32, "proxy.cells": 3, "device": "cpu", "threads": 1, "data_dir": "x"}
        overrides |= {"batch_size": 8, "order": "first", "gan.z_dim": 64, "seed": 1}

        def check(text: str) -> None:
            self.file.write_text(text)
            command("presets", self.file)

        return document({"parent": "quickstart", "overrides": overrides}), check

    def configuration(self) -> tuple[Any, Any]:
        """config.json of a run whose genotype is evaluated."""
        KNOWN["DARTS_V2"].save(self.folder / "genotype.json")

        def check(text: str) -> None:
            (self.folder / "config.json").write_text(text)
            one_line(lambda: choose_training([str(self.folder)]))
            one_line(lambda: from_json(json.loads(text)) if len(text) < 10_000 else None)

        return document(to_json(preset("quickstart").config)), check

    def run_folder(self) -> tuple[Any, Any]:
        """Listed, shown as a page, read for MLflow."""
        run, rows = (
            self.folder / "runs" / "r",
            st.lists(document(ROW) | document(BEST) | document(edges(1)), max_size=3),
        )
        run.mkdir(parents=True)
        (run / "pictures").mkdir()
        (run / "pictures" / "samples-\u00b2.png").write_bytes(png())

        def check(drawn: tuple[str, str, list[str]]) -> None:
            about, config, lines = drawn
            (run / "run.json").write_text(about)
            (run / "config.json").write_text(config)
            for name in ("metrics", "alphas"):
                (run / f"{name}.jsonl").write_text("\n".join([json.dumps(ROW), *lines, json.dumps(edges(1))]))
            assert command("runs", "--storage", run.parent)[0] == 0
            assert command("report", run)[0] == 0
            one_line(lambda: [list(writer.points(line)) for line in contents.content_of_run(run).lines])
            Run(run).cut(1)

        return st.tuples(document(RUN), document({"method": {"key": "darts"}, "gan": None}), rows), check

    def sweep_folder(self) -> tuple[Any, Any]:
        trial = self.folder / "s" / "t000"
        trial.mkdir(parents=True)

        def check(drawn: tuple[str, str, str]) -> None:
            (trial.parent / "sweep.json").write_text(drawn[0])
            (trial / "run.json").write_text(drawn[1])
            (trial / "metrics.jsonl").write_text(f"{json.dumps(ROW)}\n{drawn[2]}\n{json.dumps(BEST)}\n")
            command("report", trial.parent)
            one_line(lambda: contents.content_of_sweep(trial.parent))
            one_line(lambda: contents.identity(trial))

        return st.tuples(document(SWEEP), document(RUN), document(BEST)), check

    def model(self) -> tuple[Any, Any]:
        config = EvaluateConfig(data=digits.Config(), cells=3, channels=2)
        genotype = Genotype.parse(TEXT)
        network = Network(genotype, 2, 3, 10)
        data = type(
            "Data", (), {"classes": "0123456789", "image_size": 16, "resize": 16, "mean": [0] * 3, "std": [1] * 3}
        )
        model.save(self.folder, network, genotype, config, data, {"result/error": 0.1})
        valid = json.loads((self.folder / "model.json").read_text())
        weights = (self.folder / "model.safetensors").read_bytes()
        (self.folder / "picture.png").write_bytes(png(20, 16))

        def check(drawn: tuple[str, bytes]) -> None:
            about, content = drawn
            about = about.replace(valid["sha256"], hashlib.sha256(content).hexdigest())
            (self.folder / "model.json").write_text(about)
            (self.folder / "model.safetensors").write_bytes(content)
            command("predict", self.folder, self.folder / "picture.png")

        about = st.just(json.dumps(valid))
        return st.tuples(document(valid), st.just(weights)) | st.tuples(about, damaged(weights)), check

    def pretrained_gan(self) -> tuple[Any, Any]:
        config = PretrainConfig.of(preset("quickstart").config)
        data = digits.Config(limit=100, holdout=0.1).load(None)
        pretrained.write(self.folder, config, data, {"G.x": torch.zeros(3)}, iterations=5)
        valid = json.loads((self.folder / "gan.json").read_text())
        weights = (self.folder / "gan.safetensors").read_bytes()
        asked = replace(preset("quickstart").config, gan_checkpoint=str(self.folder))

        def check(drawn: tuple[str, bytes]) -> None:
            sha256 = hashlib.sha256(drawn[1]).hexdigest()  # whoever damages one file can mend the other
            (self.folder / "gan.json").write_text(drawn[0].replace(valid["sha256"], sha256))
            (self.folder / "gan.safetensors").write_bytes(drawn[1])
            assert one_line(lambda: pretrained.chosen(asked, data))

        about = st.just(json.dumps(valid))
        return st.tuples(document(valid), st.just(weights)) | st.tuples(about, damaged(weights)), check

    def checkpoint_bytes(self) -> tuple[Any, Any]:
        content = packed({"W": {"a": torch.randn(3, 4)}, "rows": [1.0, 2], "name": "x", "none": None})

        def check(found: bytes) -> None:
            one_line(Run(sealed(self.folder, found)).load)

        return damaged(content), check

    def checkpoint_header(self) -> tuple[Any, Any]:
        """The same within the file, whose lengths and checksum are right: what reads its header, and the data in it."""
        tensors = {"w": torch.ones(2, 3), "n": torch.arange(4)}
        content = packed({"a": [1, {"b": (2.5, "x")}], "t": tensors, 7: None})
        length = int.from_bytes(content[:8], "little")
        header, numbers = content[8 : 8 + length], content[8 + length :]
        known = json.loads(header)
        text = known["__metadata__"]["dasgm"]

        def check(drawn: tuple[str, Any]) -> None:
            kind, found = drawn
            if kind != "header":
                data = found if kind == "data" else found.decode("utf-8", "replace")
                found = json.dumps(known | {"__metadata__": {"dasgm": data}})
            one_line(lambda: Run(sealed(self.folder, tensor_file(found, numbers))).load())

        return st.one_of(
            st.tuples(st.just("header"), damaged(header) | document(known)),
            st.tuples(st.just("data"), document(json.loads(text))),
            st.tuples(st.just("text"), damaged(text.encode())),
        ), check

    def checkpoint(self) -> tuple[Any, Any]:
        """Sound, but of other shapes and kinds."""
        data = SEARCH.data.load(None)
        search = Search(SEARCH, data)
        search.iterate()
        state = {"search": search.state_dict(), "epoch": 0, "best": 0.1, "means": {"classifier": [1.0]}}
        state |= {"warmup_seconds": 0.0, "spent": 1.0, "hours": 1.0, "workers": 1}

        def check(changes: list[tuple[int, Any]]) -> None:
            changed, places = _copied(state)
            for place, value in changes:
                holder, key = places[place % len(places)]
                holder[key] = value
            run = Run(sealed(self.folder, packed(changed)))
            again = search_job.SearchLoop(Session(run, Hooks(say=lambda line: None), []), SEARCH, data)
            again.search, found = search, run.load()
            if found and not one_line(lambda: again._restore(found)):
                again.search.iterate()

        other = st.sampled_from(
            [torch.zeros(()), torch.zeros(2), torch.zeros(3, 3, 3), torch.zeros(4, dtype=torch.int64)]
        )
        values = other | st.sampled_from([None, -1, 10**9, "x", [], {}, [1], {"step": 1}, float("nan"), 2.5])
        return st.lists(st.tuples(st.integers(0, 10**6), values), min_size=1, max_size=2), check

    def cifar_parquet(self) -> tuple[Any, Any]:
        content = rows_of([png(32, 32)] * 3 + [None], [0, 1, 2, 3])

        def check(found: bytes) -> None:
            path = self.folder / "train.parquet"
            path.write_bytes(found)
            one_line(lambda: _memory.load_file(path, ("label",), 10, 32, skip_unreadable=True))

        return damaged(content), check

    def imagenet_parquet(self) -> tuple[Any, Any]:
        content = rows_of([png(), png(), png()], [0, 1, 1], "image", row_group_size=2)
        (self.folder / "val.parquet").write_bytes(content)

        def check(found: bytes) -> None:
            (self.folder / "train.parquet").write_bytes(found)

            def read() -> None:
                train, _ = _listing.listings(str(self.folder))
                train.source.read(train.permuted(0, 0).tolist())

            one_line(read)

        return damaged(content), check

    def picture(self) -> tuple[Any, Any]:
        def check(drawn: tuple[str, bytes]) -> None:
            pixels, good, notes = _pictures.read([drawn[1]], ["x"], lambda s: _pictures.fitted(s, 16), True)
            assert len(pixels) == 768 * len(good) and (bool(good) or notes)

        kinds = ("PNG", "JPEG", "GIF", "WEBP")
        return st.one_of(*(st.tuples(st.just(kind), damaged(png(20, 16, kind))) for kind in kinds)), check

    def study(self) -> tuple[Any, Any]:
        from tuning.asking import open_study

        trial = open_study(self.folder).ask()
        trial.set_user_attr("overrides", {"classifier_lr": 0.1})
        content = (self.folder / "study.db").read_bytes()

        def check(found: bytes) -> None:
            (self.folder / "study.db").write_bytes(found)
            one_line(lambda: open_study(self.folder))

        return damaged(content), check


EXAMPLES = {  # in the normal run: some two seconds each
    "genotype": 200,
    "genotype_text": 150,
    "preset": 80,
    "configuration": 80,
    "run_folder": 30,
    "sweep_folder": 30,
    "model": 60,
    "pretrained_gan": 40,
    "checkpoint_bytes": 80,
    "checkpoint_header": 300,
    "checkpoint": 25,
    "cifar_parquet": 80,
    "imagenet_parquet": 60,
    "picture": 150,
    "study": 8,
}


def _copied(value: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """A copy of nested data, and every place in it."""
    places: list[tuple[Any, Any]] = []

    def walk(one: Any) -> Any:
        if not isinstance(one, dict | list | tuple):
            return one
        found = {k: walk(v) for k, v in one.items()} if isinstance(one, dict) else [walk(v) for v in one]
        places.extend((found, key) for key in (found if isinstance(found, dict) else range(len(found))))
        return found

    return walk(value), places


@pytest.mark.parametrize("name", EXAMPLES)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    strategy, check = getattr(Hunts(tmp_path), name)()
    hunt(check, strategy, EXAMPLES[name])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", EXAMPLES)
def test_many_damaged_files(name: str, tmp_path: Path) -> None:
    strategy, check = getattr(Hunts(tmp_path), name)()
    hunt(check, strategy, 20 * EXAMPLES[name], fixed=False)


def test_a_preset_that_is_its_own_parent(tmp_path: Path) -> None:
    path = tmp_path / "me.json"
    path.write_text(json.dumps({"parent": str(path)}))
    assert "it is its own ancestor" in command("presets", path)[1]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"method.cells": 10**9}, "expected at most 100"),
        ({"method": "pdarts", "method.added_cells": [0, 10**9, 0]}, "100 cells"),
        ({"method": "pdarts", "method.operations": [8] + [3] * 10**5}, "at most 8"),
        ({"gan.channels": 10**9}, "expected 1 to 65536"),
        ({"gan.channels": 60_000}, "choose fewer channels"),
        ({"method.channels": 4096, "method.cells": 30}, "choose fewer channels"),
        ({"proxy.cells": 10**9}, "expected a number between 3 and 100"),
        ({"threads": 10**9}, "expected a number between 1 and 1024"),
        ({"device": "cuda:\n"}, "expected auto, cpu, cuda, cuda:N or mps"),
        ({"classifier_lr": 10**400}, "expected a number"),
    ],
)
def test_sizes_that_no_machine_has_are_refused(tmp_path: Path, overrides: dict[str, Any], says: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"parent": "quickstart", "overrides": overrides}))
    code, said = command("search", path, "--storage", tmp_path / "runs")
    assert code == 2 and says in said, said
