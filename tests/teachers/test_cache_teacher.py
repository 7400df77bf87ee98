import json
import os

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

from lightning_losses import KD, RKD, CrossEntropy, FitNetHint, Objective
from lightning_losses.data.image_data import ImageDataset
from lightning_losses.kernels.rows.teachers import TopKLogits
from lightning_losses.modules import Distiller
from lightning_losses.teachers import CachedLogits, load_cached_teacher
from lightning_losses.teachers.cache_teacher import cache_teacher

CLASSES = 6
DATA = ImageDataset(torch.randn(11, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(11) % CLASSES)
POSITIONS = [7, 0, 3, 10]


class Teacher(nn.Sequential):
    """Counts the samples it is asked for, and may be interrupted."""

    def __init__(self, dropout=0.5):
        torch.manual_seed(1)
        super().__init__(nn.Flatten(), nn.Linear(4, 9), nn.Tanh(), nn.Dropout(dropout), nn.Linear(9, CLASSES))
        self.asked = 0

    def forward(self, inputs):
        self.asked += len(inputs)
        # From outside, and by Python's own code: what this code names would make it another teacher.
        if os.path.expandvars("$ROWS_UNTIL_INTERRUPTED") == "8" and self.asked > 8:
            raise KeyboardInterrupt
        return super().forward(inputs)


def student(teacher):
    torch.manual_seed(2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES))
    objective = Objective({"ce": CrossEntropy(), "kd": KD(temperature=2.0)})
    return Distiller(teacher, network=network, objective=objective, num_classes=CLASSES)


def step_gradients(teacher, positions=POSITIONS):
    module = student(teacher)
    module.training_step(DATA.__getitems__(positions), 0)["loss"].backward()
    return [parameter.grad for parameter in module.parameters()]


def test_the_gradients_are_those_of_the_live_teacher(tmp_path):
    path = cache_teacher(Teacher(), DATA, tmp_path, batch_size=11)
    # The same batch, so the network's sums run in the same order: not a bit differs.
    for live, cached in zip(
        step_gradients(Teacher(), list(range(11))),
        step_gradients(load_cached_teacher(path), list(range(11))),
        strict=True,
    ):
        assert torch.equal(live, cached)
    for live, cached in zip(step_gradients(Teacher()), step_gradients(load_cached_teacher(path)), strict=True):
        torch.testing.assert_close(cached, live, rtol=1e-5, atol=1e-7)  # rounding of another batch size


def test_a_cache_that_is_there_is_not_made_again(tmp_path):
    path = cache_teacher(Teacher(), DATA, tmp_path, batch_size=4)
    again = Teacher().train()
    assert cache_teacher(again, DATA, tmp_path, batch_size=5) == path
    assert again.asked == 0 and again.training
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_runs_random_numbers_do_not_depend_on_a_cache(tmp_path):
    teacher, before = Teacher(), torch.get_rng_state()
    for _ in range(2):
        cache_teacher(teacher, DATA, tmp_path)
        assert torch.equal(torch.get_rng_state(), before)


def test_its_name_follows_from_what_it_holds(tmp_path):
    other_weights, other_layers = Teacher(), Teacher(dropout=0.1)
    with torch.no_grad():
        other_weights[4].bias += 1
    changed = ImageDataset(DATA.inputs + 1e-3, DATA.target)
    paths = [
        cache_teacher(Teacher(), DATA, tmp_path),
        cache_teacher(other_weights, DATA, tmp_path),
        cache_teacher(other_layers, DATA, tmp_path),
        cache_teacher(Teacher(), changed, tmp_path),
        cache_teacher(Teacher(), DATA, tmp_path, top_k=2),
        cache_teacher(Teacher(), DATA, tmp_path, top_k=2, temperature=2.0),
        cache_teacher(Teacher(), DATA, tmp_path, top_k=3),
    ]
    assert len(set(paths)) == 7


@pytest.mark.parametrize("top_k", [None, 2])
def test_an_interrupted_cache_goes_on(tmp_path, top_k):
    teacher = Teacher()
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROWS_UNTIL_INTERRUPTED", "8")
        cache_teacher(teacher, DATA, tmp_path / "cut", top_k=top_k, batch_size=4)
    (partial,) = (tmp_path / "cut").iterdir()
    with pytest.raises(ValueError, match="^load_cached_teacher: .* holds no complete cache"):
        load_cached_teacher(partial)
    assert json.loads((partial / "progress.json").read_text())["done"] == 8
    teacher = Teacher()
    path = cache_teacher(teacher, DATA, tmp_path / "cut", top_k=top_k, batch_size=4)
    assert teacher.asked == 3
    whole = cache_teacher(Teacher(), DATA, tmp_path / "whole", top_k=top_k, batch_size=4)
    assert path.name == whole.name and not partial.exists()
    everything = torch.arange(11)
    assert torch.equal(load_cached_teacher(path)(everything), load_cached_teacher(whole)(everything))


def test_a_changed_file_is_found(tmp_path):
    path = cache_teacher(Teacher(), DATA, tmp_path)
    file = path / "logits.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="logits.npy was changed since it was written"):
        load_cached_teacher(path)
    assert len(load_cached_teacher(path, verify=False)) == 11


def test_the_files_stay_as_they_are_and_out_of_checkpoints(tmp_path):
    path = cache_teacher(Teacher(), DATA, tmp_path)
    cached = load_cached_teacher(path)
    cached(torch.tensor([1])).zero_()
    assert cached.state_dict() == {}
    assert not any("teacher" in name for name in student(cached).state_dict())
    load_cached_teacher(path)


@given(st.integers(0, 2**31), st.integers(1, 5), st.floats(0.5, 8))
def test_the_largest_are_exact_and_the_error_is_bounded(seed, k, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(3, CLASSES, dtype=torch.float64, generator=generator)
    other = torch.randn(3, CLASSES, dtype=torch.float64, generator=generator)
    top = TopKLogits.of(logits, k, temperature)
    restored = top.rest.unsqueeze(-1).expand(-1, CLASSES).scatter(-1, top.classes, top.values)
    exact, found = ((z / temperature).softmax(dim=-1) for z in (logits, restored))
    torch.testing.assert_close(found.gather(1, top.classes), exact.gather(1, top.classes))
    mass = 1 - exact.gather(1, top.classes).sum(dim=-1)
    slopes = []
    for teacher in (logits, restored):
        leaf = other.clone().requires_grad_()
        slopes.append(torch.autograd.grad(KD(temperature, reduction="sum")(leaf, teacher), leaf)[0])
    error = (slopes[0] - slopes[1]).abs().sum(dim=-1)
    bound = 2 * mass * (1 - 1 / (CLASSES - k)) * temperature
    assert bool((error <= bound + 1e-9).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_of_half_precision_the_others_keep_their_probability(dtype):
    logits = (8 + 3 * torch.randn(4, 50, generator=torch.Generator().manual_seed(0))).to(dtype)
    top, exact = TopKLogits.of(logits, 3, 4.0), TopKLogits.of(logits.double(), 3, 4.0)
    assert torch.equal(top.values.double(), exact.values)
    torch.testing.assert_close(top.rest.double(), exact.rest, rtol=1e-6, atol=0)


def test_all_classes_kept_are_the_logits(tmp_path):
    whole, top = (load_cached_teacher(cache_teacher(Teacher(), DATA, tmp_path, top_k=k)) for k in (None, CLASSES))
    assert torch.equal(top(torch.tensor(POSITIONS)), whole(torch.tensor(POSITIONS)))


def test_bad_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="^cache_teacher: top_k=0"):
        cache_teacher(Teacher(), DATA, tmp_path, top_k=0)
    with pytest.raises(ValueError, match="^cache_teacher: top_k=7 came for a teacher of 6 classes"):
        cache_teacher(Teacher(), DATA, tmp_path, top_k=7)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the data set is empty"),
        ([{"image": torch.zeros(4), "label": 0}], r"gave \['image', 'label'\]; give mappings that have 'inputs'"),
        ([(torch.zeros(4), 0)], "gave a list; give mappings"),
    ],
)
def test_data_without_inputs_are_told_what_they_have(tmp_path, data, message):
    with pytest.raises(ValueError, match=f"^cache_teacher: .*{message}"):
        cache_teacher(Teacher(), data, tmp_path)
    assert not any(tmp_path.iterdir())


def test_what_a_cache_lacks_is_told_beside_what_it_has(tmp_path):
    (tmp_path / "logits.npy").touch()
    with pytest.raises(ValueError, match="holds no complete cache: there is logits.npy, and no cache.json"):
        load_cached_teacher(tmp_path)
    with pytest.raises(ValueError, match="nowhere holds no complete cache: there is no such folder"):
        load_cached_teacher(tmp_path / "nowhere")
    cached = load_cached_teacher(cache_teacher(Teacher(), DATA, tmp_path, layers=["1"]))
    with pytest.raises(ValueError, match="no layer '2'; it has 1: give the layer to cache_teacher"):
        cached.feature(torch.tensor([0]), "2")


@pytest.mark.parametrize("top_k", [None, 2])
def test_features_are_those_of_the_live_teacher(tmp_path, top_k):
    teacher = Teacher()
    path = cache_teacher(teacher, DATA, tmp_path, top_k=top_k, layers=["1", "2"], batch_size=11)
    cached = load_cached_teacher(path)
    hidden = nn.Sequential(*list(teacher)[:3])(DATA.inputs)
    assert torch.equal(cached.feature(torch.tensor(POSITIONS), "2"), hidden[POSITIONS])
    assert not any(layer._forward_hooks for layer in teacher.modules())
    assert path != cache_teacher(Teacher(), DATA, tmp_path, top_k=top_k)
    assert list(cached.features(torch.tensor([0]))) == ["1", "2"]
    with pytest.raises(ValueError, match=r"^MappedLogits: the features of \['9'\] .* holds those of \['1', '2'\]"):
        cached.features(torch.tensor([0]), "9")


def test_an_interrupted_cache_of_features_goes_on(tmp_path):
    teacher = Teacher()
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROWS_UNTIL_INTERRUPTED", "8")
        cache_teacher(teacher, DATA, tmp_path / "cut", layers=["2"], batch_size=4)
    cut = load_cached_teacher(cache_teacher(Teacher(), DATA, tmp_path / "cut", layers=["2"], batch_size=4))
    whole = load_cached_teacher(cache_teacher(Teacher(), DATA, tmp_path / "whole", layers=["2"], batch_size=4))
    assert torch.equal(cut.feature(torch.arange(11), "2"), whole.feature(torch.arange(11), "2"))


def test_losses_of_features_learn_the_same_from_the_cache(tmp_path):
    def gradients(taught_by):
        torch.manual_seed(2)
        network = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES))
        module = Distiller(
            taught_by, "2", network=network, objective=Objective({"kd": KD(), "rkd": RKD(), "hint": FitNetHint()}),
            num_classes=CLASSES, feature_layer="2", example_inputs=DATA.inputs[:2],
        )  # fmt: skip
        module.training_step(DATA.__getitems__(list(range(11))), 0)["loss"].backward()
        return {name: parameter.grad for name, parameter in module.named_parameters()}

    live = gradients(Teacher())
    cached = gradients(load_cached_teacher(cache_teacher(Teacher(), DATA, tmp_path, layers=["2"], batch_size=11)))
    assert live.keys() == cached.keys() and len(live) == 6
    for name, gradient in live.items():
        assert torch.equal(cached[name], gradient), name
    with pytest.raises(ValueError, match=r"^CachedLogits: the features of \['2'\] are asked for"):
        gradients(CachedLogits(torch.zeros(11, CLASSES)))


def _flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["logits.npy", "cache.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_cache_is_made_anew(tmp_path, name, damage):
    path = cache_teacher(Teacher(), DATA, tmp_path)
    expected = load_cached_teacher(path)(torch.arange(11)).clone()
    file = path / name
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        _flip(file, file.stat().st_size // 2)
    with pytest.raises(
        ValueError, match="^load_cached_teacher: .*(was changed since it was written|holds no complete cache)"
    ):
        load_cached_teacher(path)
    teacher = Teacher()
    assert cache_teacher(teacher, DATA, tmp_path) == path
    assert teacher.asked == 11
    assert torch.equal(load_cached_teacher(path)(torch.arange(11)), expected)


@pytest.mark.parametrize("name", ["value.npy", "classes.npy", "rest.npy", "num_classes.npy", "progress.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_to_an_interrupted_cache_is_found(tmp_path, name, damage):
    teacher = Teacher()
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROWS_UNTIL_INTERRUPTED", "8")
        cache_teacher(teacher, DATA, tmp_path / "cut", top_k=2, batch_size=4)
    (partial,) = (tmp_path / "cut").iterdir()
    file = partial / name
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        # Of the arrays a byte of what was written: the header has 128.
        _flip(file, 130 if file.suffix == ".npy" else -2)
    path = cache_teacher(Teacher(), DATA, tmp_path / "cut", top_k=2, batch_size=4)
    whole = cache_teacher(Teacher(), DATA, tmp_path / "whole", top_k=2, batch_size=4)
    assert torch.equal(load_cached_teacher(path)(torch.arange(11)), load_cached_teacher(whole)(torch.arange(11)))


@pytest.mark.parametrize("place", ["partial", "file"])
def test_no_link_is_followed_to_another_file(tmp_path, place):
    """What another user has laid into a shared folder, under the name that a cache is going to have."""
    teacher, data = nn.Linear(4, 3), [{"inputs": torch.randn(4)} for _ in range(5)]
    name = cache_teacher(teacher, data, tmp_path / "before").name
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "logits.npy").write_bytes(b"mine")
    partial = tmp_path / "shared" / f"{name}.partial"
    partial.parent.mkdir()
    if place == "partial":
        partial.symlink_to(victim)
    else:
        partial.mkdir()
        (partial / "logits.npy").symlink_to(victim / "logits.npy")
        (partial / "progress.json").write_text('{"done": 0, "sums": {"logits": 0}}')
    path = cache_teacher(teacher, data, tmp_path / "shared")
    assert (victim / "logits.npy").read_bytes() == b"mine" and [file.name for file in victim.iterdir()] == [
        "logits.npy"
    ]
    assert load_cached_teacher(path)(torch.tensor([0])).shape == (1, 3)


@pytest.mark.parametrize(("bad", "where"), [(torch.nan, "logits"), (torch.inf, "logits"), (torch.nan, "2")])
def test_a_teacher_whose_output_is_not_finite_is_refused(tmp_path, bad, where):
    teacher = Teacher(dropout=0.0)
    with torch.no_grad():
        (teacher[4].bias if where == "logits" else teacher[1].bias).fill_(bad)
        if where != "logits":
            # The logits don't show it.
            teacher[4] = nn.Identity()
            teacher[3] = Masked()
    with pytest.raises(ValueError) as raised:
        cache_teacher(teacher, DATA, tmp_path, layers=[] if where == "logits" else [where])
    assert str(raised.value) == (
        f"cache_teacher: the teacher's {where} of sample 0 hold NaN or inf, which no student can learn from; mend the "
        "teacher or the sample."
    )


class Masked(nn.Module):
    def forward(self, inputs):
        return torch.zeros(len(inputs), CLASSES)


@pytest.mark.parametrize("kept", [slice(0, 10), slice(0, 1)], ids=["one dropped", "one for all"])
def test_a_batch_without_a_row_for_each_sample_is_refused(tmp_path, kept):
    with pytest.raises(ValueError) as raised:
        cache_teacher(Teacher(), DATA, tmp_path, collate_fn=lambda batch: {"inputs": batch["inputs"][kept]})
    assert str(raised.value) == (
        f"cache_teacher: logits of shape [{kept.stop}, 6] came for the 11 samples from 0 on; give each one row of "
        "shape [6], by a collate_fn that neither drops nor repeats samples."
    )


def test_every_part_of_the_teacher_has_its_mode_again(tmp_path):
    teacher = Teacher().train()
    teacher[2].eval()
    modes = [part.training for part in teacher.modules()]
    cache_teacher(teacher, DATA, tmp_path)
    with pytest.raises(ValueError):
        cache_teacher(teacher, DATA, tmp_path, top_k=7)
    assert [part.training for part in teacher.modules()] == modes


def test_a_layer_in_place_does_not_change_the_kept_features(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 9), nn.ReLU(inplace=True), nn.Linear(9, CLASSES))
    cached = load_cached_teacher(cache_teacher(network, DATA, tmp_path, layers=["1"]))
    torch.testing.assert_close(cached.feature(torch.arange(11), "1"), network[:2](DATA.inputs).detach())
