"""Edits: replayed on what the factory builds, refused where they do not fit, and the same after JSON."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from accel.compress.edits import (
    add_edit_,
    edits_of,
    from_json,
    keep_channels_,
    masks_of,
    remove_block_,
    replay_,
    to_json,
)
from accel.errors import ModelFault
from accel.model import KeepChannels, Masks, QuantizeAware, RemoveBlock, Signature

NOTHING = Signature((), ())
NARROW = KeepChannels(
    kept={
        "0.weight": {0: (0, 2, 5)},
        "0.bias": {0: (0, 2, 5)},
        "1.weight": {0: (0, 2, 5)},
        "1.bias": {0: (0, 2, 5)},
        "1.running_mean": {0: (0, 2, 5)},
        "1.running_var": {0: (0, 2, 5)},
        "3.weight": {1: (0, 2, 5)},
    },
    attributes={"0": {"out_channels": 3}, "1": {"num_features": 3}, "3": {"in_channels": 3}},
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), block).eval()


def test_kept_channels_compute_what_masked_ones_did() -> None:
    full, narrow = network(), network()
    with torch.no_grad():
        full.get_parameter("3.weight")[:, [1, 3, 4]] = 0
    keep_channels_(narrow, NARROW)
    x = torch.randn(2, 2, 9, 9)
    assert torch.allclose(full(x), narrow(x), atol=1e-6)
    assert narrow[0].weight.shape == (3, 2, 3, 3) and narrow[0].out_channels == 3
    assert narrow[1].running_var.shape == (3,) and narrow[3].in_channels == 3
    assert narrow[0].weight.requires_grad and isinstance(narrow[0].weight, nn.Parameter)


def test_tied_parameters_stay_tied() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    keep_channels_(net, KeepChannels({"0.weight": {0: (0, 1)}, "1.weight": {0: (0, 1)}}, {}))
    assert net[0].weight is net[1].weight and net[0].weight.shape == (2, 4)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (KeepChannels({"9.weight": {0: (0,)}}, {}), "no parameter or buffer '9.weight'"),
        (KeepChannels({"0.weight": {0: (0, 6)}}, {}), r"0.weight has shape \[6, 2, 3, 3\]; the edit keeps channel 6"),
        (KeepChannels({"0.weight": {7: (0,)}}, {}), "dimension 7"),
        (KeepChannels({}, {"0": {"width": 3}}), "no 0.width"),
        (RemoveBlock("4.9"), "no module '4.9'"),
        (Masks("2:4", ("8.weight",)), "no parameter '8.weight'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_changes_nothing(edit: KeepChannels | RemoveBlock | Masks, says: str) -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ModelFault, match=f"edit 2 of 2 .*{says}"):
        replay_(net, (RemoveBlock("4"), edit), NOTHING)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_replay_does_and_records_them_in_order() -> None:
    net = network()
    edits = (NARROW, RemoveBlock("4.2"), Masks("unstructured", ("3.weight",)))
    assert replay_(net, edits, NOTHING) is net
    assert edits_of(net) == edits and edits_of(copy.deepcopy(net)) == edits
    assert isinstance(net.get_submodule("4.2"), nn.Identity)
    assert net(torch.randn(1, 2, 9, 9)).shape == (1, 4, 5, 5)


def test_masks_are_the_zeros_of_what_is_still_there() -> None:
    net = network()
    with torch.no_grad():
        net.get_parameter("3.weight")[0] = 0
    add_edit_(net, Masks("unstructured", ("3.weight", "4.0.weight")))
    masks = masks_of(net)
    assert set(masks) == {"3.weight", "4.0.weight"}
    assert not masks["3.weight"][0].any() and masks["3.weight"][1:].all() and masks["4.0.weight"].all()
    remove_block_(net, "4")
    assert set(masks_of(net)) == {"3.weight"}


@pytest.mark.parametrize("training", [True, False])
def test_what_takes_a_blocks_place_is_in_its_mode(training: bool) -> None:
    """A backend refuses a module any part of which is in training mode."""
    net = network().train(training)
    remove_block_(net, "4")
    assert all(part.training == training for part in net.modules())


def test_json_gives_the_same_back() -> None:
    edits = (
        NARROW,
        RemoveBlock("4"),
        Masks("2:4", ("3.weight",)),
        QuantizeAware({"activation": "uint8"}, "2.13.0", "0.18.0"),
    )
    text = json.dumps(to_json(edits))
    assert '"0,2,5"' in text
    assert from_json(json.loads(text)) == edits


def test_runs_of_channels_are_short() -> None:
    edit = KeepChannels({"0.weight": {0: (*range(100), 103)}}, {})
    (record,) = to_json([edit])
    assert record["kept"]["0.weight"]["0"] == "0-99,103"
    assert from_json([record]) == (edit,)


@pytest.mark.parametrize(
    "records",
    [
        {},
        [1],
        [{"edit": "explode"}],
        [{"edit": "remove_block"}],
        [{"edit": "remove_block", "path": "4", "more": 1}],
        [{"edit": "keep_channels", "kept": {"0.weight": {"0": "5-2"}}, "attributes": {}}],
        [{"edit": "keep_channels", "kept": {"0.weight": {"0": "0-99999999999"}}, "attributes": {}}],
        [{"edit": "keep_channels", "kept": {"0.weight": {"0": "3,3"}}, "attributes": {}}],
        [{"edit": "keep_channels", "kept": {}, "attributes": {"0": {"out_channels": "3"}}}],
        [{"edit": "keep_channels", "kept": [], "attributes": {}}],
    ],
)
def test_damaged_records_are_refused(records: object) -> None:
    with pytest.raises(ModelFault, match=r"edit 1 is damaged|a list expected"):
        from_json(records)
