"""The time that is left of a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from dasgm.pages.view import RunView
from tuning.plan import METRIC
from tuning.table import table, time_left, told


def timeline(
    durations: list[tuple[float, float, float, int]], at_once: int, epochs: int
) -> tuple[list[dict[str, object]], float]:
    """Trials of (start-up, seconds an epoch, proxy, epochs done) one after another on `at_once` slots."""
    free, trials = [0.0] * at_once, []
    for start, pace, proxy, done in durations:
        slot = free.index(min(free))
        asked, times = free[slot], []
        times = [asked + start + pace * (e + 1) for e in range(done)]
        free[slot] = times[-1] + (proxy if done == epochs else 0.5)
        trials.append({"asked": asked, "times": times, "ended": free[slot], "whole": done == epochs})
    return trials, max(free)


def seen_at(trials: list[dict], now: float, offset: float) -> list[RunView]:
    runs = []
    for i, trial in enumerate(trials):
        if trial["asked"] > now:
            continue
        over = trial["ended"] <= now
        info = {"asked": trial["asked"] + offset, "ended": trial["ended"] + offset if over else None}
        rows = [{"epoch": e, "time": t + offset, METRIC: 0.5} for e, t in enumerate(trial["times"], 1) if t <= now]
        state = ("finished" if trial["whole"] else "stopped") if over else "running" if rows else "waiting"
        runs.append(RunView(Path(f"t{i:03d}"), state, info, {}, rows, None))
    return runs


TIMELINES = {
    "alike": ([(12, 10, 15, 5)] * 8, 2, 5),
    "one at a time": ([(12, 10, 15, 5)] * 6, 1, 5),
    "slow and quick": ([(12, 14, 20, 6), (12, 8, 20, 6)] * 4, 2, 6),
    "some stopped": ([(12, 20, 15, 8), (12, 20, 15, 8), (12, 20, 0, 2), (12, 20, 15, 8)] * 3, 2, 8),
    "long epochs": ([(20, 600, 900, 10)] * 9, 3, 10),
}


@pytest.mark.parametrize("name", TIMELINES)
@pytest.mark.parametrize("share", [0.34, 0.5, 0.67, 0.8])
def test_time_left_within_a_quarter_after_a_third(name, share):
    durations, at_once, epochs = TIMELINES[name]
    trials, end = timeline(durations, at_once, epochs)
    now, offset = share * end, 1e9
    guess = time_left(seen_at(trials, now, offset), epochs, len(trials), at_once, now + offset, offset)
    assert guess is not None and guess == pytest.approx(end - now, rel=0.25)


def test_time_left_expects_a_trial_to_stop_as_often_as_others_did():
    """The last trial has 2 epochs to its rung and 8 after it; half of the six before it went on there."""
    whole, short = (10, 10, 0, 10), (10, 10, 0, 2)
    trials, _ = timeline([whole, short, whole, short, whole, short, whole], 1, 10)
    now = trials[-1]["asked"] + 10.0 + 1e-6  # started, no epoch yet
    offset = 1e9
    runs = seen_at(trials, now, offset)
    guess = time_left(runs, 10, 7, 1, now + offset, offset, [2])
    assert guess == pytest.approx(20 + 0.5 * 80, rel=0.02)
    assert time_left(runs, 10, 7, 1, now + offset, offset) == pytest.approx(100, rel=0.02)  # where no rung is ahead
    assert (sooner := time_left(runs, 10, 7, 1, now + offset, offset, [2], 0.0)) == pytest.approx(20, rel=0.02)
    assert told(guess, sooner) == "about 60 s left (20 s if stopped at the next rung)"
    assert told(100.0, 90.0) == "about 1.7 min left" and told(None, None) == ""


def test_time_left_after_a_night_forgets_the_night():
    trials, end = timeline([(12, 10, 15, 5)] * 8, 1, 5)
    runs = seen_at(trials, 0.5 * end, 0.0)
    night = 40_000.0
    later = [RunView(r.folder, r.state, dict(r.info), {}, list(r.metrics), None) for r in runs]
    later[-1].info["asked"] = 0.5 * end + night
    assert time_left(later, 5, 8, 1, 0.5 * end + night, 0.5 * end + night) is None
    begun = len(later[-1].metrics)
    for e in range(begun + 1, begun + 3):
        later[-1].metrics.append({"epoch": e, "time": 0.5 * end + night + 12 + 10 * (e - begun), METRIC: 0.5})
    now = 0.5 * end + night + 32
    guess = time_left(later, 5, 8, 1, now, 0.5 * end + night)
    assert guess is not None and guess < end


@pytest.mark.parametrize(("objective", "order"), [("best/proxy", ["a", "b"]), ("best/naswot", ["b", "a"])])
def test_the_table_is_ranked_by_the_asked_score_and_shows_both(objective, order):
    scores = {"a": (0.9, 500.0), "b": (0.5, 812.25)}
    runs = [
        RunView(
            Path(name),
            "finished",
            {"name": name},
            {},
            [{"epoch": 4, "best/proxy": proxy, "best/proxy_error": 0.02, "best/naswot": naswot}],
            None,
        )
        for name, (proxy, naswot) in scores.items()
    ]
    found = table(runs, 4, "", objective)
    columns = {column.header: list(column.cells) for column in found.columns}
    assert columns["trial"] == order and columns["rank"] == ["1", "2"]
    assert sorted(columns["proxy"]) == ["0.500 ± 0.020", "0.900 ± 0.020"]
    assert sorted(columns["naswot"]) == ["500.0", "812.2"]
