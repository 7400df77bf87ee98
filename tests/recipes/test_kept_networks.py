import json
import os

import pytest
import torch
from torch import nn

from lightning_losses.experiments.messages import message, refused
from lightning_losses.experiments.training.kept_networks import RECORD, WEIGHTS, KeptNetworks

IDENTITY = {"seed": 0, "module": {"width": 4}}


@pytest.fixture
def kept(tmp_path):
    kept = KeptNetworks(tmp_path / "networks")
    kept.save(IDENTITY, nn.Linear(3, 2), {"seconds": 1.0})
    return kept


def test_weights_and_values_come_back(tmp_path):
    kept, network, again = KeptNetworks(tmp_path), nn.Linear(3, 2), nn.Linear(3, 2)
    kept.save(IDENTITY, network, {"history": {"val/loss": [1.0]}})
    assert kept.load(dict(reversed(IDENTITY.items())), again) == {"history": {"val/loss": [1.0]}}
    assert torch.equal(network.weight, again.weight)
    assert [path.name for path in tmp_path.iterdir()] == [kept.place(IDENTITY).name]


@pytest.mark.parametrize("change", [{"seed": 1}, {"module": {"width": 5}}, {"more": None}])
def test_another_identity_is_another_network(kept, change):
    assert kept.load({**IDENTITY, **change}, nn.Linear(3, 2)) is None


def _truncate(place):
    (place / WEIGHTS).write_bytes((place / WEIGHTS).read_bytes()[:-4])


def _flip(place):
    content = bytearray((place / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (place / WEIGHTS).write_bytes(bytes(content))


def _other_values(place):
    record = (place / RECORD).read_text()
    (place / RECORD).write_text(record.replace('"seconds": 1.0', '"seconds": 1.5'))


def _other_identity(place):
    record = json.loads((place / RECORD).read_text())
    (place / RECORD).write_text(json.dumps({**record, "identity": {"seed": 7}}))


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip,
        _other_values,
        _other_identity,
        lambda place: (place / RECORD).write_text("{"),
        lambda place: (place / WEIGHTS).unlink(),
        lambda place: (place / RECORD).unlink(),
    ],
)
def test_a_damaged_network_is_not_used_and_can_be_replaced(kept, damage):
    damage(kept.place(IDENTITY))
    assert kept.load(IDENTITY, nn.Linear(3, 2)) is None
    kept.save(IDENTITY, nn.Linear(3, 2), {"seconds": 2.0})
    assert kept.load(IDENTITY, nn.Linear(3, 2)) == {"seconds": 2.0}
    assert len(list(kept.folder.iterdir())) == 1


def test_weights_of_another_shape_are_not_used(kept):
    assert kept.load(IDENTITY, nn.Linear(4, 2)) is None


def test_an_interruption_leaves_nothing_behind(kept, monkeypatch):
    from lightning_losses.experiments.training import kept_networks

    def torn(network, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(kept_networks, "save_model", torn)
    with pytest.raises(KeyboardInterrupt):
        kept.save({"seed": 5}, nn.Linear(3, 2), {})
    assert len(list(kept.folder.iterdir())) == 1


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o007, 0o660, 0o770), (0o077, 0o600, 0o700)]
)
def test_it_can_be_read_by_whom_the_umask_says(tmp_path, umask, file, folder):
    before = os.umask(umask)
    try:
        kept = KeptNetworks(tmp_path / "networks")
        kept.save(IDENTITY, nn.Linear(3, 2), {})
    finally:
        os.umask(before)
    place = kept.place(IDENTITY)
    assert {path.stat().st_mode & 0o777 for path in (place / WEIGHTS, place / RECORD)} == {file}
    assert place.stat().st_mode & 0o777 == folder


@pytest.mark.parametrize("goal", ["nowhere", "itself", "elsewhere"])
def test_a_link_or_a_file_in_a_networks_place_is_replaced_and_not_followed(tmp_path, goal):
    kept, elsewhere = KeptNetworks(tmp_path / "networks"), tmp_path / "elsewhere"
    kept.folder.mkdir()
    elsewhere.mkdir()
    place = kept.place(IDENTITY)
    place.symlink_to({"nowhere": "gone", "itself": place, "elsewhere": elsewhere}[goal])
    kept.check(IDENTITY)
    kept.save(IDENTITY, nn.Linear(3, 2), {"seconds": 1.0})
    assert kept.load(IDENTITY, nn.Linear(3, 2)) == {"seconds": 1.0} and not place.is_symlink()
    assert not list(elsewhere.iterdir()) and [path.name for path in kept.folder.iterdir()] == [place.name]


@pytest.mark.parametrize("in_the_way", ["a folder that leads to itself", "a file", "a lock that is a link"])
def test_what_would_keep_nothing_is_told_before_the_training(tmp_path, in_the_way):
    kept = KeptNetworks(tmp_path / "networks")
    if in_the_way == "a file":
        kept.folder.write_text("")
    elif in_the_way == "a folder that leads to itself":
        kept.folder.symlink_to(kept.folder)
    else:
        kept.folder.mkdir()
        kept.place(IDENTITY).with_name(f".{kept.place(IDENTITY).name}.lock").symlink_to("gone")
    with pytest.raises(OSError) as refusal:
        kept.check(IDENTITY)
    assert refused(refusal.value) and str(tmp_path / "networks") in message(refusal.value)
