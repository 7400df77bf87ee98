"""Teachers from timm, from checkpoints, from caches; nothing is unpickled."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_losses.networks.weights import read_weights
from lightning_losses.teachers import CachedLogits, checkpoint_teacher, timm_teacher
from lightning_losses.teachers.mapped_logits import MappedLogits


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_cache_answers_by_index_and_survives_saving(tmp_path):
    cache = CachedLogits(torch.randn(5, 3))
    cache.save(tmp_path / "logits.safetensors")
    loaded = CachedLogits.load(tmp_path / "logits.safetensors")
    index = torch.tensor([4, 0, 4])
    assert torch.equal(loaded(index), cache.logits[index])
    with pytest.raises(ValueError, match="give floating-point"):
        CachedLogits(torch.zeros(3, dtype=torch.int64))


def test_a_changed_cache_is_found_wherever_the_byte_is(tmp_path):
    cache = CachedLogits(torch.randn(5, 3))
    cache.save(tmp_path / "logits.safetensors")
    content = (tmp_path / "logits.safetensors").read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        (tmp_path / "changed.safetensors").write_bytes(changed)
        try:
            loaded = CachedLogits.load(tmp_path / "changed.safetensors")
        except ValueError:
            continue
        # Where a change is harmless, nothing that matters was changed.
        assert torch.equal(loaded.logits, cache.logits), place
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_cache_of_something_else_is_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"holds \['weight'\]"):
        CachedLogits.load(tmp_path / "other.safetensors")


def test_timm_name_and_its_misspelling():
    assert timm_teacher("test_resnet", num_classes=4, in_chans=1)(torch.zeros(2, 1, 16, 16)).shape == (2, 4)
    with pytest.raises(ValueError, match="no model 'resnet181'; near it are .*resnet18"):
        timm_teacher("resnet181", num_classes=4)


@pytest.mark.parametrize("form", ["lightning", "state_dict", "safetensors"])
def test_weights_come_from_every_safe_form(tmp_path, form):
    trained, fresh = nn.Linear(3, 2), nn.Linear(3, 2)
    if form == "lightning":
        path = tmp_path / "last.ckpt"
        state = {f"network.{name}": tensor for name, tensor in trained.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": {"width": 4}}, path)
    elif form == "state_dict":
        path = tmp_path / "weights.pt"
        torch.save(trained.state_dict(), path)
    else:
        path = tmp_path / "weights.safetensors"
        save_file(trained.state_dict(), path)
    assert torch.equal(checkpoint_teacher(path, fresh).weight, trained.weight)


@pytest.mark.parametrize(
    "wrapped",
    [
        "network._orig_mod.0.weight",
        "_orig_mod.network.0.weight",
        "module.network.0._checkpoint_wrapped_module.weight",
        "_forward_module.network._fsdp_wrapped_module.0._fsdp_wrapped_module.weight",
        "network.module.0.weight",
        "module._orig_mod.0.weight",
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_what_wrappers_put_into_names_is_left_out(tmp_path, wrapped, compiled):
    trained, fresh = nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Linear(3, 2))
    names = {
        wrapped: trained[0].weight,
        wrapped.replace("weight", "bias"): trained[0].bias,
        "n_averaged": torch.ones(()),
    }
    save_file({name: tensor.detach() for name, tensor in names.items()}, tmp_path / "weights.safetensors")
    checkpoint_teacher(tmp_path / "weights.safetensors", torch.compile(fresh) if compiled else fresh)
    assert torch.equal(fresh[0].weight, trained[0].weight)


@pytest.mark.parametrize("others", [("head",), ()])
def test_a_network_with_a_layer_called_module_keeps_its_name(tmp_path, others):
    trained, fresh = (nn.ModuleDict({name: nn.Linear(3, 2) for name in ("module", *others)}) for _ in range(2))
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    assert torch.equal(checkpoint_teacher(tmp_path / "weights.pt", fresh)["module"].weight, trained["module"].weight)


def test_a_wrong_prefix_is_answered_with_those_that_there_are(tmp_path):
    trained = nn.ModuleDict({"student": nn.ModuleDict({"net": nn.Linear(3, 2)}), "head": nn.Linear(2, 2)})
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"its names are under student\.net\. and head\.: give prefix='student"):
        checkpoint_teacher(tmp_path / "weights.pt", nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"whose prefixes are student\., head\. ") as error:
        checkpoint_teacher(tmp_path / "weights.pt", nn.Sequential(nn.Linear(3, 2)), prefix="studen.")
    assert "\n" not in str(error.value)
    fresh = checkpoint_teacher(tmp_path / "weights.pt", nn.Linear(3, 2), prefix="student.net.")
    assert torch.equal(fresh.weight, trained["student"]["net"].weight)


def test_malicious_checkpoint_is_refused_and_not_run(tmp_path):
    path, trace = tmp_path / "evil.ckpt", tmp_path / "created"
    torch.save({"state_dict": {"network.weight": torch.zeros(1)}, "payload": Malicious(trace)}, path)
    with pytest.raises(ValueError, match="was refused, because it holds Python objects") as error:
        checkpoint_teacher(path, nn.Linear(3, 2))
    assert not trace.exists()
    assert "\n" not in str(error.value)


def test_unreadable_files_are_one_sentence(tmp_path):
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps({"a": Malicious(tmp_path / "created")}))
    for name, content, message in [
        ("empty.ckpt", b"", "no readable checkpoint"),
        ("text.ckpt", b"hello", "no readable checkpoint"),
        ("short.safetensors", b"hello", "no readable checkpoint"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_weights(tmp_path / name)
    with pytest.raises(ValueError, match="was refused|no readable checkpoint"):
        read_weights(tmp_path / "pickle.ckpt")
    assert not (tmp_path / "created").exists()
    with pytest.raises(ValueError, match="there is no file"):
        read_weights(tmp_path / "nowhere.ckpt")


def test_weights_that_do_not_fit_say_so(tmp_path):
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="don't fit Linear"):
        checkpoint_teacher(tmp_path / "weights.pt", nn.Linear(3, 2))


def test_cached_logits_are_their_own_and_count_from_the_front():
    logits = torch.eye(3)
    cached = CachedLogits(logits)
    logits.zero_()
    assert torch.equal(cached(torch.tensor([2])), torch.tensor([[0.0, 0.0, 1.0]]))
    mapped = MappedLogits({"logits": torch.eye(3)})
    for teacher in (cached, mapped):
        with pytest.raises(ValueError, match="Logits: index holds -1; give the samples' positions, from 0 on"):
            teacher(torch.tensor([0, -1]))
        with pytest.raises(ValueError) as raised:
            teacher(torch.tensor([0, 3]))
        assert str(raised.value) == (
            f"{type(teacher).__name__}: index holds 3, and the cache 3 samples; make it anew of this training set, or "
            "give positions in the set that it was made of."
        )
        for mask in (torch.bool, torch.uint8):
            with pytest.raises(ValueError, match=f"an index of dtype {mask} came; give the samples' positions"):
                teacher(torch.tensor([1, 0, 1], dtype=mask))
    features = MappedLogits({"logits": torch.eye(3), "features.inner": torch.eye(3)})
    with pytest.raises(ValueError, match="Logits: index holds -1; give the samples' positions, from 0 on"):
        features.features(torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="^MappedLogits: index holds 7, and the cache 3 samples; make it anew of this"):
        features.features(torch.tensor([0, 7]))
