"""Who becomes champion: McNemar's test by hand, several challengers, and predictions that cannot be compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from predicted import predictions

from cluster.champion import Contender, challenge, decide
from dasgm.pages.comparison import Duel


def test_mcnemars_test_is_that_of_a_fair_coin(tmp_path: Path) -> None:
    champion = predictions(tmp_path / "a", "0" * 8 + "1" + "1" * 20 + "0" * 3)
    challenger = predictions(tmp_path / "b", "1" * 8 + "0" + "1" * 20 + "0" * 3)
    # of 9 tosses, 0 or 1 tails, or 0 or 1 heads: 2 (1 + 9) / 2^9, less half of what was seen on both sides, 9 / 2^9
    assert challenge(challenger, champion) == Duel(8, 1, pytest.approx(11 / 512))
    assert challenge(champion, challenger) == Duel(1, 8, pytest.approx(11 / 512))
    assert challenge(champion, champion) == Duel(0, 0, 1.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("picture,true,predicted,probability\nx.png,cat,cat,1\n", "other pictures"),
        ("picture,true\n0.png,cat\n", "expected picture, true, predicted, probability"),
        ("picture,true,predicted,probability\n0.png,cat,cat,1\n0.png,cat,dog,1\n", "expected a line for each picture"),
        ("", "not the predictions of a run"),
        ('picture,true,predicted\n"0.png,cat,cat\n', "unexpected end of data"),
    ],
)
def test_what_cannot_be_compared_is_said(tmp_path: Path, text: str, says: str) -> None:
    good = predictions(tmp_path / "good", "1", ["0.png"])
    (tmp_path / "odd").write_text(text)
    with pytest.raises(ValueError, match=says):
        challenge(tmp_path / "odd", good)


def test_the_first_becomes_champion_and_only_one_that_is_better_takes_over(tmp_path: Path) -> None:
    def contender(version: str, right: str) -> Contender:
        return Contender(version, f"r{version}", predictions(tmp_path / version, right))

    first = contender("1", "0" * 9 + "1" * 9)
    luckier = contender("2", "1" * 7 + "0" * 3 + "1" * 8)  # 7 : 1, p = 10 / 256 alone, twice that by Holm among two
    none = Contender("3", "r3", None)
    best, lines = decide("cats", None, [first])
    assert best is first and lines == [
        "version 1 (r1) is the champion of cats: there was none before, so nothing was compared"
    ]
    best, (line,) = decide("cats", first, [luckier])
    assert best is luckier and "version 2 (r2) is the champion of cats now" in line
    assert "version 2 (r2) has 7 and version 1 (r1) has 1, p = 0.039 (McNemar's mid-p test)" in line
    best, (line,) = decide("cats", first, [luckier, contender("4", "1" * 5 + "0" * 4 + "0" * 5 + "1" * 4)])
    assert best is first and "version 1 (r1) stays the champion" in line
    assert "p = 0.078 (McNemar's mid-p test, Holm's method over 2), and p < 0.05 is needed" in line
    best, lines = decide("cats", None, [first, contender("5", "1" * 9 + "1" * 9), none])
    assert best.version == "5" and len(lines) == 3, "9 : 0, p = 1 / 512"
    assert "version 3 (r3) cannot be compared with the champion, version 1 (r1): one of them has no pred" in lines[1]
    assert decide("cats", best, [best]) == (best, ["version 5 (r5) is the champion of cats already"])
    worse = contender("6", "0" * 18)
    kept, (line,) = decide("cats", best, [worse])
    assert kept is best and line.endswith("(McNemar's mid-p test), and a new one must have more"), "p is small"
