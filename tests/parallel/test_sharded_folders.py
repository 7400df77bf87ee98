"""Folders of shards are read without running anything, checked before a run goes on, and found again after a kill."""

import json
import os
import pickle
import shutil
import warnings

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import save

from lightning_losses.checkpoints.atomic_checkpoints import read_checkpoint
from lightning_losses.checkpoints.resumption import check_resumption
from lightning_losses.parallel.sharded_folders import (
    check_folder,
    digests_of,
    find_again,
    previous_name,
    write_digests,
)

# Of torch, when one process writes a folder of shards.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")

CONTENT = {
    "state_dict": {"weight": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)},
    "optimizer_0": {"state": {"weight": {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "foreach": None}]},
}


class Malicious:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def save_folder(content, folder):
    with warnings.catch_warnings():
        # That it is for one process; torch 2.6 has no way to say so before.
        warnings.simplefilter("ignore")
        save(content, checkpoint_id=folder)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "last.ckpt"
    save_folder(CONTENT, path)
    torch.save({"epoch": 3, "callbacks": {"History": {"seconds": 1.5}}}, path / "meta.pt")
    return path


def spoil_index(folder, trace):
    index = pickle.loads((folder / ".metadata").read_bytes())
    index.planner_data = Malicious(trace)
    (folder / ".metadata").write_bytes(pickle.dumps(index))


def spoil_an_index_of_one_process(folder, trace):
    (folder / "__1.metadata").write_bytes(pickle.dumps(Malicious(trace)))


def spoil_a_shard(folder, trace):
    (folder / ".metadata").unlink()
    save_folder({**CONTENT, "callback": Malicious(trace)}, folder)


def spoil_the_rest(folder, trace):
    torch.save({"epoch": Malicious(trace)}, folder / "meta.pt")


def point_elsewhere(folder, trace):
    index = pickle.loads((folder / ".metadata").read_bytes())
    for place in index.storage_data.values():
        place.relative_path = f"../{place.relative_path}"
    (folder / ".metadata").write_bytes(pickle.dumps(index))


def hide_behind_a_dotted_name(folder, trace):
    # What reads "torch" and "Size.__class__" by parts would find `type`.
    (folder / ".metadata").write_bytes(b"\x80\x04\x8c\x05torch\x8c\x0eSize.__class__\x93.")


SPOILERS = [
    spoil_index, spoil_an_index_of_one_process, spoil_a_shard, spoil_the_rest, point_elsewhere,
    hide_behind_a_dotted_name,
]  # fmt: skip


def test_a_folder_of_torchs_own_is_read(folder):
    check_folder(folder)
    found = read_checkpoint(folder)
    assert torch.equal(found["state_dict"]["weight"], CONTENT["state_dict"]["weight"])
    assert found["state_dict"]["half"].dtype == torch.bfloat16
    assert found["optimizer_0"]["param_groups"] == CONTENT["optimizer_0"]["param_groups"] and found["epoch"] == 3


@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize("read", [check_folder, read_checkpoint])
def test_a_folder_that_would_run_something_is_refused_in_a_sentence(folder, tmp_path, spoil, read):
    trace = tmp_path / "attacked"
    spoil(folder, trace)
    with pytest.raises(ValueError, match=r"was refused, because it holds Python objects") as found:
        read(folder)
    assert "\n" not in str(found.value) and not trace.exists()


def test_the_attack_works_where_folders_are_unpickled(folder, tmp_path):
    spoil_index(folder, tmp_path / "attacked")
    pickle.loads((folder / ".metadata").read_bytes())
    assert (tmp_path / "attacked").is_dir()


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "no shard"])
def test_a_damaged_folder_is_told_in_a_sentence(folder, damage):
    index = folder / ".metadata"
    if damage == "gone":
        index.unlink()
    elif damage == "empty":
        index.write_bytes(b"")
    elif damage == "cut":
        index.write_bytes(index.read_bytes()[:100])
    else:
        (folder / "__0_0.distcp").unlink()
    with pytest.raises(ValueError, match=r"checkpoint: ") as found:
        check_folder(folder)
    assert "\n" not in str(found.value)


class TestCheckedBeforeARunGoesOn:
    SHARD = "__0_0.distcp"

    def write(self, folder, features=3, best=None):
        """What a training leaves of a network with so many features."""
        network = nn.Linear(features, 2)
        moments = {f"{name}": {"exp_avg": torch.zeros_like(value)} for name, value in network.state_dict().items()}
        save_folder({"state_dict": network.state_dict(), "optimizer_0": {"state": moments, "param_groups": []}}, folder)
        rest = {"epoch": 1, "global_step": 2, "loops": {"fit_loop": {}}, "lr_schedulers": []}
        torch.save({**rest, "callbacks": {"LastCheckpoint": {"best": best}}}, folder / "meta.pt")
        write_digests(folder, digests_of(folder, 0))

    def told(self, last, network=None):
        last.with_name("identity.json").write_text(json.dumps({}))
        with pytest.raises(ValueError) as found:
            check_resumption(last.parent, {}, network or nn.Linear(3, 2))
        # As a user of this folder would read it.
        return str(found.value).replace(str(last.parent), "student").replace(last.parent.name, "student")

    def test_every_file_has_a_digest_that_sha256sum_reads(self, tmp_path):
        self.write(tmp_path / "last.ckpt")
        (tmp_path / "identity.json").write_text("{}")
        check_resumption(tmp_path, {}, nn.Linear(3, 2))
        lines = (tmp_path / "last.ckpt" / "digests.sha256").read_text().splitlines()
        assert [line.split("  ")[1] for line in lines] == [".metadata", self.SHARD, "meta.pt"]

    @pytest.mark.parametrize(("damage", "message"), [
        ("flip", "student/last.ckpt/__0_0.distcp was changed since it was written: digests.sha256 has another digest."),
        ("gone", "student/last.ckpt/__0_0.distcp is missing, and student/last.ckpt/digests.sha256 names it."),
        ("gone without digests", "student/last.ckpt is no whole checkpoint (No such file or directory)."),
        ("cut without digests", "student/last.ckpt is no whole checkpoint (__0_0.distcp ends after 100 bytes)."),
        ("an outer name", "student/last.ckpt/../x is missing, and student/last.ckpt/digests.sha256 names it."),
        ("no epoch", "student/last.ckpt is no checkpoint of a training: its epoch is None, and a whole number was "
                     "expected."),
    ])  # fmt: skip
    def test_damage_is_told_in_a_sentence(self, tmp_path, damage, message):
        last = tmp_path / "last.ckpt"
        self.write(last)
        shard = last / self.SHARD
        if damage.endswith("without digests"):
            (last / "digests.sha256").unlink()
        if damage == "flip":
            content = bytearray(shard.read_bytes())
            content[-1] ^= 1
            shard.write_bytes(content)
        elif damage == "an outer name":
            write_digests(last, {"../x": "0"})
        elif damage == "no epoch":
            torch.save({"loops": {"fit_loop": {}}, "lr_schedulers": []}, last / "meta.pt")
            write_digests(last, digests_of(last, 0))
        elif damage.startswith("cut"):
            os.truncate(shard, 100)
        else:
            shard.unlink()
        assert self.told(last) == (
            f"resume: checkpoint: {message} There is no other state of it; put it back from a copy, or remove "
            "last.ckpt to train the student anew."
        )

    def test_another_networks_names_and_shapes_are_told(self, tmp_path):
        last = tmp_path / "last.ckpt"
        self.write(last, features=4)
        told = "resume: checkpoint: student/last.ckpt holds another network: its"
        assert self.told(last).startswith(f"{told} weight is [2, 4], and here [2, 3]. There is no other state")
        assert self.told(last, nn.ModuleDict({"head": nn.Linear(4, 2)})).startswith(
            f"{told} bias is [2], and here missing. There is no other state"
        )
        other = nn.Linear(4, 2)
        index = pickle.loads((last / ".metadata").read_bytes())
        index.state_dict_metadata["optimizer_0.state.weight.exp_avg"].size = torch.Size([7])
        (last / ".metadata").write_bytes(pickle.dumps(index))
        write_digests(last, digests_of(last, 0))
        assert self.told(last, other).startswith(
            "resume: checkpoint: student/last.ckpt holds another optimizer's state: exp_avg of its parameter weight is "
            "[7], and no parameter here is. There is no other state"
        )

    def test_the_best_weights_are_looked_at_before_and_are_the_last_good_state_otherwise(self, tmp_path):
        last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
        self.write(last, best=0.5)
        remedy = (
            "The last good state is student/last.ckpt; put best.ckpt back from a copy, or remove both to train the "
            "student anew."
        )
        assert self.told(last) == (
            "resume: checkpoint: student/best.ckpt is missing, and student/last.ckpt tells that there was one. "
            + remedy
        )
        shutil.copytree(last, best)
        check_resumption(tmp_path, {}, nn.Linear(3, 2))
        (best / self.SHARD).unlink()
        assert self.told(last) == (
            "resume: checkpoint: student/best.ckpt/__0_0.distcp is missing, and student/best.ckpt/digests.sha256 names "
            "it. " + remedy
        )
        shutil.rmtree(best)
        shutil.copytree(last, best)
        (last / self.SHARD).unlink()
        assert "The last good state is student/best.ckpt; put last.ckpt back from a copy" in self.told(last)


def test_a_kill_between_two_names_leaves_a_checkpoint_that_is_found_again(folder):
    folder.rename(previous_name(folder))
    find_again(folder)
    assert read_checkpoint(folder)["epoch"] == 3
    # One that has its name is the newer one.
    previous_name(folder).mkdir()
    find_again(folder)
    assert read_checkpoint(folder)["epoch"] == 3 and previous_name(folder).is_dir()
    find_again(folder.with_name("best.ckpt"))
    assert not folder.with_name("best.ckpt").exists()
