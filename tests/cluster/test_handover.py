"""Commands that hand themselves over to Ray's job server, and what comes back."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest
from commands import ROOT, TINY, Simulated, finish, wait_for

from cluster import handover
from dasgm.store.records import read_json
from dasgm.store.run import Run


def test_no_option_is_one_of_ray_submits(warm):
    from ray.scripts.scripts import submit

    theirs = {name for option in submit.params for name in option.opts if name.startswith("-")}
    assert "--stop" in theirs
    for script in ("tuning/sweep.py", "tuning/reproduce.py", "cluster/search.py"):
        _, out, _ = finish(warm.start(str(ROOT / script), "--help"))
        ours = {word.strip(",│") for word in out.split() if word.startswith("--")}
        assert {"--follow", "--cancel", "--storage"} <= ours and not ours & theirs, ours & theirs


def test_only_a_command_on_a_joined_cluster_is_handed_over(monkeypatch, capsys):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert handover.hand_over("tuning.sweep", ["--num-trials=1"]) is None
    for words in (["--follow", "x"], ["--cancel=x"], ["--follow"], ["--cancel", "x", "--name=y"]):
        with pytest.raises(SystemExit) as error:
            handover.hand_over("tuning.sweep", words)
        said = capsys.readouterr().err
        assert error.value.code == 2 and len(said.splitlines()) == 1, said
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert handover.hand_over("tuning.sweep", ["--preset", "pdarts", "--dry-run"]) is None
    assert handover.hand_over("tuning.sweep", ["--help"]) is None
    monkeypatch.setenv(handover.INSIDE, "sweep-1")
    assert handover.hand_over("tuning.sweep", []) is None


@pytest.mark.parametrize(
    "words",
    [["--storage=s3://b/p?secret_key=HIDDEN"], ["--storage", "s3://k:HIDDEN@b/p"], ["s3://b/p?access_key=HIDDEN"]],
)
def test_key_in_an_address_is_refused_before_the_job_is_handed_over(words, monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(handover, "_client", lambda: pytest.fail("the job server is asked"))
    with pytest.raises(SystemExit) as error:
        handover.hand_over("tuning.sweep", words)
    said = capsys.readouterr()
    assert error.value.code == 2 and "HIDDEN" not in said.err + said.out and len(said.err.splitlines()) == 1


def test_no_job_server_is_one_line(warm):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{s.getsockname()[1]}"
    code, _, err = finish(warm.start(str(ROOT / "tuning" / "sweep.py"), RAY_ADDRESS=address))
    assert code == 2 and address in err and "no job server answers" in err and len(err.splitlines()) == 1, err


HAND_OVER = "import sys; from cluster.handover import hand_over; sys.exit(hand_over('echo_job', sys.argv[1:]))"


@pytest.fixture(scope="module")
def one_node():
    cluster = Simulated(1)
    yield cluster
    cluster.stop()


@pytest.mark.slow
def test_arguments_arrive_intact_and_the_exit_code_comes_back(one_node, tmp_path):
    words = ["--note", "two words", "--json", '{"a": "*"}', "--code", "7", "--name", "a name"]
    code, out, err = finish(one_node.run("-c", HAND_OVER, *words, cwd=tmp_path))
    said = next(json.loads(line) for line in out.splitlines() if line.startswith("{"))
    assert code == 7 and said["words"] == words and said["cwd"] == str(tmp_path), (out, err)
    assert said["inside"].startswith("a-name-") and f"job {said['inside']} runs on the cluster" in out
    code, again, _ = finish(one_node.run("-c", HAND_OVER, "--follow", "a name"))
    assert code == 7 and "two words" in again and "the end" in again
    code, _, err = finish(one_node.run("-c", HAND_OVER, "--follow", "nothing"))
    assert code == 2 and "'nothing' is not known" in err and said["inside"] in err


@pytest.mark.slow
def test_ctrl_c_and_a_lost_terminal_only_stop_following(one_node, tmp_path):
    end = tmp_path / "end"
    for number, how in enumerate((signal.SIGINT, signal.SIGHUP)):
        name = f"f{number}"
        log = (tmp_path / name).open("w")
        process = one_node.run("-c", HAND_OVER, "--until", str(end), "--name", name)
        assert process.stdout
        seen = ""
        while '"words"' not in seen:
            seen += process.stdout.readline()
        os.killpg(process.pid, how)
        code, out, _ = finish(process)
        log.close()
        if how == signal.SIGINT:
            assert code == 130 and "no longer following" in out and f"--follow {name}-" in out, out
        end.touch()
        code, out, err = finish(one_node.run("-c", HAND_OVER, "--follow", name))
        assert code == 0 and "the end" in out, (out, err)
        end.unlink()


@pytest.mark.slow
def test_cancel_ends_a_job(one_node, tmp_path):
    process = one_node.run("-c", HAND_OVER, "--until", str(tmp_path / "never"), "--name", "c")
    assert process.stdout
    seen = ""
    while '"words"' not in seen:
        seen += process.stdout.readline()
    code, out, err = finish(one_node.run("-c", HAND_OVER, "--cancel", "c"))
    assert code == 0 and "was cancelled" in out, (out, err)
    code, out, _ = finish(process)
    assert code == 130 and "the end" not in out
    code, out, _ = finish(one_node.run("-c", HAND_OVER, "--cancel", "c"))
    assert code == 0 and "had ended already" in out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trials_spread_over_the_machines_of_a_cluster(tmp_path):
    cluster = Simulated(3)
    try:
        words = ["--gan=none", "--num-trials=3", "--space=toy_spaces:mixed", "--grace=4", *TINY]
        process = cluster.run(str(ROOT / "tuning" / "sweep.py"), "--storage", str(tmp_path), "--name", "s", *words)
        wait_for(process, lambda: len(list(tmp_path.glob("s/t*/metrics.jsonl"))) == 3)
        used = cluster.ask("nodes")
        code, out, err = finish(process)
        assert code == 0 and "best genotype" in out, (out, err)
        assert len(set(used)) == 3  # a slot each
        assert read_json(tmp_path / "s" / "sweep.json")["state"] == "finished"
        assert {Run(tmp_path / "s" / f"t00{n}").about["state"] for n in range(3)} <= {"finished", "failed", "stopped"}
    finally:
        cluster.stop()
