"""Masks in somebody's own training loop: ``Sparsifier``, alone, after an interruption and under DistributedDataParallel."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.compress.edits import edits_of, masks_of
from accel.compress.masks.sparsity_plan import plan
from accel.compress.sparsify import Sparsifier
from accel.errors import PassFault, UsageError
from accel.model import Masks

TOTAL = 20


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5))


class Loop:
    """Anybody's loop: momentum, weight decay, and data that depends on the step alone."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)

    def step(self, number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(16, 16, generator=generator)
        loss = functional.cross_entropy(self.net(x), x[:, :5].argmax(1))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def zeros(net: nn.Module) -> dict[str, int]:
    return {name: int((value == 0).sum()) for name, value in net.named_parameters() if value.dim() > 1}


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def test_a_cubic_schedule_grows_the_masks_and_records_them_at_the_end(net: nn.Sequential) -> None:
    settings: dict[str, Any] = {"sparsity": 0.75, "schedule": "cubic", "begin": 0.1, "end": 0.8, "update_every": 3}
    expected = plan(**settings)
    sparsifier, loop = Sparsifier(net, total_steps=TOTAL, **settings), Loop(net)
    assert sum(zeros(net).values()) == 0
    seen = []
    for number in range(TOTAL):
        loop.step(number)
        sparsifier.step()
        seen.append(sparsifier.sparsity())
        if expected.due(number + 1, TOTAL):
            assert seen[-1] == pytest.approx(expected.sparsity_at(number + 1, TOTAL), abs=1 / 160)
        assert zeros(net) == {name: int((~mask).sum()) for name, mask in sparsifier.masks().items()}
    assert seen == sorted(seen) and seen[0] == 0 and len(set(seen)) > 4
    assert edits_of(net) == ()
    sparsifier.finish()
    sparsifier.finish()
    assert edits_of(net) == (Masks("unstructured", ("0.weight", "3.weight")),)
    assert zeros(net) == {"0.weight": 384, "3.weight": 120}


def test_a_weight_that_went_stays_away(net: nn.Sequential) -> None:
    sparsifier, loop = Sparsifier(net, sparsity=0.75, schedule="cubic", total_steps=TOTAL, update_every=1), Loop(net)
    before = sparsifier.masks()
    for number in range(TOTAL):
        loop.step(number)
        sparsifier.step()
        after = sparsifier.masks()
        assert not any((after[name] & ~mask).any() for name, mask in before.items())
        before = after


@pytest.mark.parametrize("pattern", ["2:4", "1:4"])
def test_one_shot_masks_at_once_and_holds(pattern: str, net: nn.Sequential) -> None:
    sparsifier, loop = Sparsifier(net, pattern=pattern), Loop(net)
    masks = sparsifier.masks()
    assert zeros(net) == {name: int((~mask).sum()) for name, mask in masks.items()} and sum(zeros(net).values()) > 0
    for number in range(4):
        loop.step(number)
        assert sum(zeros(net).values()) < sum(int((~mask).sum()) for mask in masks.values())  # momentum brings them back
        sparsifier.step()
    assert all(torch.equal(net.get_parameter(name) != 0, mask) for name, mask in masks.items())
    sparsifier.finish()
    assert edits_of(net) == (Masks(pattern, ("0.weight", "3.weight")),)


def test_masks_are_copies_and_zeros_are_positive(net: nn.Sequential) -> None:
    sparsifier = Sparsifier(net, sparsity=0.5)
    sparsifier.masks()["0.weight"].fill_(False)
    sparsifier.step()
    assert zeros(net)["0.weight"] == 256
    assert not any(torch.signbit(value[value == 0]).any() for value in net.parameters())


def test_only_the_masked_weights_change(net: nn.Sequential) -> None:
    before, objects = state(net), [id(value) for value in net.parameters()]
    handle = net.register_forward_hook(lambda *_: None)
    net.train()
    Sparsifier(net, sparsity=0.5)
    after = state(net)
    assert all(torch.equal(after[name], before[name]) for name in before if name not in ("0.weight", "3.weight"))
    assert objects == [id(value) for value in net.parameters()] and net.training and len(net._forward_hooks) == 1
    handle.remove()


def test_it_goes_on_after_an_interruption_as_if_there_had_been_none(net: nn.Sequential) -> None:
    settings: dict[str, Any] = {"sparsity": 0.75, "schedule": "cubic", "total_steps": TOTAL, "update_every": 3}
    whole = copy.deepcopy(net)
    sparsifier, loop = Sparsifier(whole, **settings), Loop(whole)
    for number in range(TOTAL):
        loop.step(number)
        sparsifier.step()
    first, loop = Sparsifier(net, **settings), Loop(net)
    for number in range(7):
        loop.step(number)
        first.step()
    checkpoint = {"net": state(net), "optimizer": loop.optimizer.state_dict(), "masks": first.state()}
    fresh = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5))
    second, loop = Sparsifier(fresh, **settings), Loop(fresh)
    fresh.load_state_dict(checkpoint["net"])
    loop.optimizer.load_state_dict(checkpoint["optimizer"])
    second.restore(checkpoint["masks"])
    assert second.sparsity() == first.sparsity() > 0
    for number in range(7, TOTAL):
        loop.step(number)
        second.step()
    second.finish()
    assert all(torch.equal(value, state(fresh)[name]) for name, value in state(whole).items())


def test_a_state_of_another_network_is_refused(net: nn.Sequential) -> None:
    other = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 5))
    with pytest.raises(UsageError, match="another network"):
        Sparsifier(net, sparsity=0.5).restore(Sparsifier(other, sparsity=0.5).state())


def test_finishing_early_says_how_far_it_is(net: nn.Sequential) -> None:
    sparsifier = Sparsifier(net, sparsity=0.75, schedule="cubic", total_steps=100)
    sparsifier.step()
    with pytest.raises(UsageError, match="after 1 of 75 steps"):
        sparsifier.finish()
    assert edits_of(net) == ()


def test_earlier_masks_hold_beside_the_new_ones(net: nn.Sequential) -> None:
    first = Sparsifier(net, sparsity=0.5, ignored_layers=["3"])
    first.finish()
    held = first.masks()["0.weight"]
    second, loop = Sparsifier(net, sparsity=0.25, ignored_layers=["0"]), Loop(net)
    loop.step(0)
    second.step()
    assert torch.equal(net.get_parameter("0.weight") != 0, held)
    second.finish()
    assert len(edits_of(net)) == 2 and set(masks_of(net)) == {"0.weight", "3.weight"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sparsity": 0}, "sparsity"),
        ({"sparsity": float("nan")}, "sparsity"),
        ({"pattern": "2-4"}, "pattern"),
        ({"schedule": "cubic"}, "total_steps"),
        ({"schedule": "cubic", "total_steps": 0}, "total_steps"),
        ({"begin": 0.5}, "begin"),
    ],
)
def test_wrong_settings_are_a_usage_error(settings: dict[str, Any], named: str, net: nn.Sequential) -> None:
    before = state(net)
    with pytest.raises(UsageError, match=f"Sparsifier: .*{named}"):
        Sparsifier(net, **settings)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_schedule_that_would_empty_a_layer_is_refused_before_the_training(net: nn.Sequential) -> None:
    with torch.no_grad():
        net.get_parameter("3.weight").mul_(1e-9)
    with pytest.raises(PassFault, match=r"every weight of 3\.weight"):
        Sparsifier(net, sparsity=0.5, global_pruning=True, schedule="cubic", total_steps=TOTAL)


def test_names_and_edits_are_the_users_inside_compile(net: nn.Sequential) -> None:
    compiled: Any = torch.compile(net, backend="eager")
    Sparsifier(compiled, sparsity=0.5).finish()
    assert edits_of(net) == (Masks("unstructured", ("0.weight", "3.weight")),)


DDP = """
import os, sys, torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from accel.compress.edits import edits_of
from accel.compress.sparsify import Sparsifier

rank = int(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))
parallel = DistributedDataParallel(net)
optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
sparsifier = Sparsifier(parallel, sparsity=0.75, schedule="cubic", total_steps=8, update_every=2)
for step in range(8):
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(2 * step + rank))
    optimizer.zero_grad()
    nn.functional.cross_entropy(parallel(x), x[:, :5].argmax(1)).backward()
    optimizer.step()
    sparsifier.step()
sparsifier.finish()
own = torch.cat([value.detach().flatten() for value in net.parameters()])
other = own.clone()
dist.broadcast(other, src=0)
assert torch.equal(own, other), "the processes differ"
assert sparsifier.sparsity() == 0.75 and edits_of(net)[0].parameters == ("0.weight", "2.weight")
dist.destroy_process_group()
"""


def test_two_processes_draw_the_same_masks(tmp_path: Path) -> None:
    script, meeting = tmp_path / "ddp.py", tmp_path / "meeting"
    script.write_text(DDP)
    started = [
        subprocess.Popen([sys.executable, str(script), str(rank), str(meeting)], stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
