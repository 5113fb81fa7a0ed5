"""The score without a training: counts, the determinant, and what it is drawn from."""

import math

import pytest
import torch
from torch import nn

from dasgm.data import digits
from dasgm.measures.naswot import Rectified, naswot
from dasgm.spaces.nasbench201 import SearchSpace


@pytest.fixture(scope="module")
def data():
    return digits.Config(holdout=0.1).load(None)


@torch.no_grad()
def test_units_are_counted_in_which_two_images_agree(seeded):
    """Against a loop over units, for ReLUs of each form."""
    first, second = nn.Conv2d(3, 4, 3), nn.Linear(4, 7)
    x = torch.randn(5, 3, 8, 8)
    with Rectified() as counting:
        hidden = torch.relu(first(x)).mean((2, 3))
        nn.ReLU(inplace=True)(second(hidden))
    units = torch.cat([first(x).flatten(1), second(hidden)], 1) > 0
    expected = [[sum(bool(a == b) for a, b in zip(one, other, strict=True)) for other in units] for one in units]
    assert counting.agreeing.tolist() == expected


def test_score_is_of_fixed_draws_and_ranks_capacity(data):
    """A cell of 3x3 convolutions is told from one of skip connections; weights drawn before do not matter."""
    space = SearchSpace()
    cells = {
        name: space.parse(f"|{name}~0|+|{name}~0|{name}~1|+|{name}~0|{name}~1|{name}~2|", print)
        for name in ("nor_conv_3x3", "skip_connect")
    }  # fmt: skip
    torch.manual_seed(1)
    found = {name: naswot(cell, data, 4, 5) for name, cell in cells.items()}
    torch.manual_seed(2)
    assert naswot(cells["nor_conv_3x3"], data, 4, 5) == found["nor_conv_3x3"] > found["skip_connect"]


def test_no_cell_is_below_one_without_a_path(data):
    """Its score is 0, which no sum of Gram matrices and 1 can undercut. A cell of skip connections alone is above."""
    none, skip, *found = [
        naswot(SearchSpace().parse(f"|{op}~0|+|{op}~0|none~1|+|{op}~0|none~1|none~2|", print), data, 4, 5)
        for op in ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1")
    ]
    assert none == 0 < min(skip, *found) and math.isfinite(skip)
