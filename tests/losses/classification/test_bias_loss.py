import lightning as L
import torch
import torch.nn.functional as F
from torch import nn

from lightning_losses import BiasLoss, Objective, ObjectiveMixin

LOGITS = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4).cos()
TARGET = torch.tensor([0, 3, 1])
MAPS = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_weights_grow_with_the_variance_of_the_features():
    loss = BiasLoss(alpha=0.7, beta=0.2, normalization="local", reduction="none")
    weight = loss(LOGITS, TARGET, MAPS) / F.cross_entropy(LOGITS, TARGET, reduction="none")
    variance = MAPS.flatten(1).var(dim=1)
    share = (variance - variance.min()) / (variance.max() - variance.min())
    torch.testing.assert_close(weight, (0.7 * share).exp() - 0.2)


def test_without_alpha_and_beta_or_differences_it_is_cross_entropy():
    for loss, maps in ((BiasLoss(alpha=0.0, beta=0.0), MAPS), (BiasLoss(beta=0.0), MAPS[:1].expand(3, -1, -1))):
        torch.testing.assert_close(loss(LOGITS, TARGET, maps), F.cross_entropy(LOGITS, TARGET))


def test_ignored_samples_are_as_if_absent():
    maps, target = MAPS.clone(), TARGET.clone()
    maps[1], target[1] = torch.nan, -100
    kept = [0, 2]
    torch.testing.assert_close(BiasLoss()(LOGITS, target, maps), BiasLoss()(LOGITS[kept], TARGET[kept], MAPS[kept]))


class Plain(ObjectiveMixin, L.LightningModule):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.objective = Objective({"bias": BiasLoss()})

    def objective_tensors(self, tensors):
        return {**super().objective_tensors(tensors), "feature_maps": tensors["inputs"]}


def test_the_smallest_variance_is_remembered_after_each_step_of_a_module():
    module = Plain().double()
    loss = module.objective.terms["bias"].loss
    small = MAPS * 0.1
    for maps in (small, MAPS):
        module.apply_objective(inputs=maps, logits=LOGITS.requires_grad_(), target=TARGET)
    torch.testing.assert_close(loss.smallest, small.flatten(1).var(dim=1).min())
    assert loss(LOGITS, TARGET, MAPS) > BiasLoss()(LOGITS, TARGET, MAPS)
    again = BiasLoss()
    again.load_state_dict(loss.state_dict())
    torch.testing.assert_close(again(LOGITS, TARGET, MAPS), loss(LOGITS, TARGET, MAPS), rtol=1e-6, atol=0)


def test_features_that_are_not_finite_are_not_remembered():
    loss, maps = BiasLoss(), MAPS.clone()
    maps[0] = torch.nan
    loss.after_step(target=TARGET, feature_maps=maps)
    torch.testing.assert_close(loss.smallest, MAPS[1:].flatten(1).var(dim=1).min().float())
