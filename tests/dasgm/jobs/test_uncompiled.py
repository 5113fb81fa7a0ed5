"""A job's optimisers do what torch's do, and torch's compiler stays out of the process."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys, torch

def trained(kind, **settings):
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    optimizer = kind([w], **settings)
    for _ in range(3):
        optimizer.zero_grad()
        (w**3).sum().backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    return w.detach()

def both():
    momentum = trained(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=0.1)
    return [momentum, trained(torch.optim.Adam, lr=0.1, betas=(0.5, 0.999), weight_decay=0.1)]

from dasgm.jobs.uncompiled import leave_out_compiler

plain = []
if "plain" in sys.argv:
    plain = both()
    assert "torch._dynamo" in sys.modules  # else nothing has to be left out any more
leave_out_compiler()
ours = both()
assert all(map(torch.equal, plain, ours))
assert plain or "torch._dynamo" not in sys.modules
"""


PLUG_IN = """
import sys, torch
from dasgm.jobs.uncompiled import leave_out_compiler

leave_out_compiler()
x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
moved = x.clone()
optimizer = torch.optim.SGD([moved], lr=0.1, differentiable=True)
moved.grad = x**2
optimizer.step()  # x - 0.1 x^2
assert torch.equal(torch.autograd.grad(moved.sum(), x)[0], 1 - 0.2 * x)

w = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
optimizer = torch.optim.SGD([w], lr=0.1)

@torch.compile(backend="eager")
def step():
    optimizer.zero_grad()
    (w**2).sum().backward()
    optimizer.step()

step()
step()
assert torch.allclose(w, 0.64 * torch.tensor([1.0, 2.0], dtype=torch.float64))
"""


def test_a_plug_in_may_differentiate_and_compile_a_step() -> None:
    subprocess.run([sys.executable, "-c", PLUG_IN], check=True)


def test_optimisers_compute_the_same_without_the_compiler() -> None:
    for words in (["plain"], []):
        subprocess.run([sys.executable, "-c", SCRIPT, *words], check=True)
