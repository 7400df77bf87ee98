"""Values and gradients of TRL's own trainers, where TRL is installed: their losses are run on drawn numbers."""

import warnings
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from lightning_losses.losses import KTO, BradleyTerry

DRAW = torch.Generator().manual_seed(0)
LOGPS, REF, OTHERS, REF_OTHERS = (-torch.rand(6, 5, dtype=torch.float64, generator=DRAW) for _ in range(4))
GOOD = torch.tensor([True, False, False, True, True, False])
# The first token is predicted by none.
IDS = torch.randint(9, (6, 6), generator=DRAW)
MASK = torch.rand(6, 6, generator=DRAW) < 0.7
MASK[:, 1] = True


@pytest.fixture
def trl():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("trl")
        # Its trainers are loaded when they are asked for.
        return SimpleNamespace(KTO=module.KTOTrainer, Reward=module.RewardTrainer)


def trainer(**options):
    """What the loss of a trainer asks of it, on one process."""
    stub = MagicMock(aux_loss_enabled=False, precompute_ref_logps=True, **options)
    stub.accelerator.device = torch.device("cpu")
    stub.accelerator.gather = stub.accelerator.gather_for_metrics = lambda value: value
    return stub


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["kto", "apo_zero_unpaired"])
def test_kto(trl, form):
    # After the reference they are likelier, so that the reference point is above 0.
    others = OTHERS + 0.5
    settings = {"beta": 0.3, "desirable_weight": 1.3, "undesirable_weight": 0.6}
    stub = trainer(loss_type=form, calculate_KL=form == "kto", **settings)
    stub._compute_kl_logps = lambda model, batch: trl.KTO._compute_kl_logps(stub, model, batch)
    leaf = LOGPS.clone().requires_grad_()
    kept = MASK[:, 1:]

    def model(labels, input_ids, **_):
        logps = others if torch.equal(input_ids, IDS.flip(0)) else leaf
        return SimpleNamespace(log_probs=logps * (labels[:, 1:] != -100), entropy=logps.abs(), mean_logits=logps)

    batch = {
        "input_ids": IDS,
        "attention_mask": torch.ones_like(IDS),
        "completion_mask": MASK.long(),
        "label": GOOD,
        "ref_logps": (REF * kept).sum(dim=1),
        "KL_input_ids": IDS.flip(0),
        "KL_attention_mask": torch.ones_like(IDS),
        "KL_completion_mask": MASK.long(),
        "ref_KL_logps": (REF_OTHERS * kept).sum(dim=1),
    }
    theirs = trl.KTO._compute_loss(stub, model, batch, False)
    ours = KTO(form=form, **settings)(leaf, REF, GOOD, kept, others, REF_OTHERS, kept)
    slopes = [torch.autograd.grad(value, leaf)[0] for value in (ours, theirs)]
    torch.testing.assert_close([ours, slopes[0]], [theirs, slopes[1]])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("coefficient", [None, 0.01])
@pytest.mark.parametrize("with_margin", [False, True])
def test_bradley_terry(trl, coefficient, with_margin):
    rewards = 3 * torch.randn(12, 1, dtype=torch.float64, generator=DRAW)
    margin = {"margin": torch.rand(6, dtype=torch.float64, generator=DRAW)} if with_margin else {}
    stub = trainer()
    stub.args.center_rewards_coefficient = coefficient
    leaf = rewards.clone().requires_grad_()
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), **margin}
    theirs = trl.Reward.compute_loss(stub, MagicMock(side_effect=lambda **_: SimpleNamespace(logits=leaf)), batch)
    chosen, rejected = leaf.squeeze(1).chunk(2)
    ours = BradleyTerry(coefficient or 0.0)(chosen, rejected, margin.get("margin"))
    slopes = [torch.autograd.grad(value, leaf)[0] for value in (ours, theirs)]
    torch.testing.assert_close([ours, slopes[0]], [theirs, slopes[1]])
