import pytest
import torch
from torch import nn

from lightning_losses.losses import OFAKD, OFAStages

TARGET = torch.tensor([0, 1, 2, 0])


def maps(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "early": torch.randn(4, 3, 8, 8, generator=generator),
        "late": torch.randn(4, 5, 4, 4, generator=generator),
    }


def teacher():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(9))


def test_it_is_ofa_kd_of_every_branch():
    loss = OFAStages(num_classes=3, stages=2, width=6, gamma=1.3, temperature=2.0)
    value = loss(maps(), teacher(), TARGET)
    logits = {name: branch(stage) for branch, (name, stage) in zip(loss.branches, maps().items(), strict=True)}
    each = [OFAKD(gamma=1.3, temperature=2.0)(z, teacher(), TARGET) for z in logits.values()]
    torch.testing.assert_close(value, each[0] + each[1])


def test_a_branch_halves_once_for_each_stage_that_follows():
    loss = OFAStages(num_classes=3, stages=2, width=6)
    loss(maps(), teacher(), TARGET)
    sizes = []
    for branch in loss.branches:
        for layer in branch:
            if isinstance(layer, nn.ReLU):
                layer.register_forward_hook(lambda _, __, output: sizes.append(output.shape[-1]))
    loss(maps(), teacher(), TARGET)
    assert sizes == [4, 2, 2]


@pytest.mark.parametrize("kind, shape", [("maps", (3, 8, 8)), ("tokens", (7, 5)), ("vectors", (5,))])
def test_every_kind_learns_saves_and_loads(kind, shape):
    stage = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    loss, other = (OFAStages(num_classes=3, kind=kind, width=6) for _ in range(2))
    value = loss(stage, teacher(), TARGET)
    value.backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in loss.branches[0][-1].parameters())
    # Before it has seen anything: the shapes come with what was saved.
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other(stage, teacher(), TARGET), value)


def test_samples_do_not_depend_on_each_other():
    loss = OFAStages(num_classes=3, stages=2, width=6, reduction="none")
    whole = loss(maps(), teacher(), TARGET)
    alone = [
        loss({k: v[i : i + 1] for k, v in maps().items()}, teacher()[i : i + 1], TARGET[i : i + 1]) for i in range(4)
    ]
    torch.testing.assert_close(whole, torch.cat(alone))


def test_what_does_not_fit_is_refused():
    loss = OFAStages(num_classes=3, stages=2)
    with pytest.raises(ValueError, match="^ofa_stages: 1 feature_maps came for stages=2"):
        loss(maps()["late"], teacher(), TARGET)
    with pytest.raises(ValueError, match=r"^ofa_stages: feature_maps of shape \[4, 7\] came for kind='maps'"):
        OFAStages(num_classes=3)(torch.zeros(4, 7), teacher(), TARGET)
    with pytest.raises(ValueError, match="^ofa_stages: kind='images'"):
        OFAStages(num_classes=3, kind="images")
