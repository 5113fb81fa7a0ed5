"""The line "to continue": pasted into a shell it is the command again, however that was called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

from dasgm.cli.again import PROGRAM, called, part_of
from dasgm.store.files import shell_line

PRINTS = """
import json, os, sys
from dasgm.cli.again import called
print(called(sys.argv[1:], "dasgm"))
print(json.dumps([os.path.abspath(sys.argv[0]), sys.argv[1:], os.getcwd(), sys.orig_argv[:1]]))
"""
WORDS = [
    "",
    "plain",
    "two words",
    "it's",
    '"',
    "$HOME",
    "`id`",
    "a\nb",
    "tab\there",
    "\x1b[31m",
    "ünï",
    "-x",
    "*",
    "a\\b",
]
WORDS += ["a;b", "#", "!!", "~", "\udcff", "\x017", "a=b c", "\u2028", "\\n", "{a,b}"]


@pytest.fixture
def place(tmp_path) -> Path:
    """tuning/sweep.py, a package, and two console scripts, one by way of env, that print what they were called."""
    (tmp_path / "tuning").mkdir()
    (tmp_path / "tuning" / "sweep.py").write_text(PRINTS)
    (tmp_path / "pack age").mkdir()
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "__main__.py").write_text(PRINTS)
    for folder, shebang in (("bin", f"#!{sys.executable}"), ("pack age", "#!/usr/bin/env python")):
        script = tmp_path / folder / "dasgm-test"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"{shebang}\n{PRINTS}")
        script.chmod(0o755)
    return tmp_path


def bash(command: str, cwd: Path, *path: Path) -> tuple[str, list[str]]:
    """What a command says that it is called, and what it was given."""
    places = [str(one) for one in (*path, Path(sys.executable).parent)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}", "PATH": ":".join([*places, os.environ["PATH"]])}
    done = subprocess.run(["bash", "-c", command], cwd=cwd, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    said, given = done.stdout.decode().splitlines()
    return said, json.loads(given)


@pytest.mark.parametrize(
    ("typed", "where"),
    [
        ("python tuning/sweep.py", "."),
        ("python ../tuning/sweep.py", "bin"),
        ("python {place}/tuning/sweep.py", "bin"),
        ("python -X utf8 tuning/sweep.py", "."),
        ("python -m shown", "."),
        ("dasgm-test", "shown"),
        ("../'pack age'/dasgm-test", "bin"),
        ("{place}/'pack age'/dasgm-test", "."),
        ("./dasgm-test", "pack age"),
    ],
)
def test_the_line_runs_the_same_program_with_the_same_words(place, typed, where):
    command = typed.format(place=place)
    path = [place / "bin"] if command == "dasgm-test" else []
    said, given = bash(f"{command} --name 'a b' x", place / where, *path)
    assert said == f"{command} --name 'a b' x" or said.replace("'", "") == f"{command} --name a b x".replace("'", "")
    assert bash(said, place / where, *path) == (said, given)


def test_words_survive_the_shell_in_one_line():
    said = shell_line(WORDS)
    assert said.isprintable()
    code = "import os, sys; sys.stdout.buffer.write(b'\\0'.join(os.fsencode(w) for w in sys.argv[1:]))"
    done = subprocess.run(
        ["bash", "-c", f"{shell_line([sys.executable, '-c', code])} {said}"], capture_output=True, check=True
    )
    assert done.stdout.split(b"\0") == [os.fsencode(word) for word in WORDS]


def test_called_from_python_it_has_its_usual_name(monkeypatch, tmp_path):
    assert called(["search", "a b"], "dasgm") == "dasgm search 'a b'"
    monkeypatch.chdir(ROOT)
    assert called(["--seeds=2"], "cluster/evaluate.py") == "python cluster/evaluate.py --seeds=2"
    monkeypatch.chdir(tmp_path)
    assert called(["--seeds=2"], "cluster/evaluate.py") == "python -m cluster.evaluate --seeds=2"


def test_a_clusters_job_and_a_last_stage_name_what_the_user_typed(monkeypatch):
    with part_of("dasgm-sweep --top=2"):
        assert called(["--seeds=2"], "cluster/evaluate.py") == "dasgm-sweep --top=2"
    monkeypatch.setenv(PROGRAM, json.dumps(["python", "/my own/tuning/sweep.py"]))
    assert called(["--top=2"], "tuning/sweep.py") == "python '/my own/tuning/sweep.py' --top=2"
