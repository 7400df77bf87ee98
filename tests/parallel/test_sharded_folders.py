"""Folders of shards are read without running anything, and found again after a kill between two names."""

import os
import pickle
import warnings

import pytest
import torch
from torch.distributed.checkpoint import save

from lightning_losses.checkpoints.atomic_checkpoints import read_checkpoint
from lightning_losses.parallel.sharded_folders import check_folder, find_again, previous_name

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
