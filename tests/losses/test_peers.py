"""Focal losses beside kornia's: values of kornia 0.9.0 in float64, of the inputs below."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lightning_losses.losses import Asymmetric, Focal
from tests.losses.strategies import gradient

LOGITS = 3 * torch.linspace(-4, 4, 12, dtype=torch.float64).reshape(4, 3).sin()
TARGET = torch.tensor([0, 2, 1, 2])
LABELS = torch.tensor([[1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]], dtype=torch.float64)
EXACT = {"rtol": 1e-13, "atol": 0}


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("gamma", "values", "slopes"),
    [
        (0.5, (0.06081941325470267, 0.15908771272049926, 0.7032439179765446, 4.055358409858928),
         (0.11032327782629622, 0.23978850614744615, 0.801238632218088, 1.3544016033365707)),
        (2.0, (0.0034203404922805844, 0.021775309614915972, 0.32472758022807063, 3.9539342207302224),
         (0.012080572920489521, 0.062274494593390316, 0.6304048641858482, 1.453834352485779)),
    ],
)  # fmt: skip
def test_focal_is_focal_loss(gamma, values, slopes):
    each, total = (Focal(gamma=gamma, reduction=reduction) for reduction in ("none", "sum"))
    torch.testing.assert_close(each(LOGITS, TARGET), numbers(*values), **EXACT)
    torch.testing.assert_close(gradient(total, LOGITS, TARGET).norm(dim=1), numbers(*slopes), **EXACT)


@pytest.mark.parametrize(
    ("gamma", "values"),
    [
        (0.5, (0.7991931390838276, 3.8255788092343153, 0.1789293058003459, 2.061043018861851)),
        (2.0, (0.3286092525505834, 3.138425168762913, 0.01980268489030163, 1.4042052985223352)),
    ],
)
def test_asymmetric_of_equal_exponents_is_binary_focal_loss_with_logits(gamma, values):
    loss = Asymmetric(gamma_pos=gamma, gamma_neg=gamma, clip=0.0, reduction="none")
    torch.testing.assert_close(loss(LOGITS, LABELS), numbers(*values), **EXACT)


def test_torchvisions_loss_as_the_objective_has_it_is_binary_focal_loss_with_logits_and_its_alpha():
    loss = compose("sigmoid_focal").terms["sigmoid_focal"].loss
    values = [loss(logits=logits[None], target=target[None]) for logits, target in zip(LOGITS, TARGET, strict=True)]
    expected = numbers(0.24602639862750564, 0.1889138725246248, 2.5633197842815223, 1.5390092604269403)
    # Its mean is over samples and classes.
    torch.testing.assert_close(torch.stack(values), expected / 3, **EXACT)


def compose(objective):
    """An objective of the recipes."""
    return instantiate(OmegaConf.load(Path(__file__).parents[2] / "conf" / "objective" / f"{objective}.yaml"))
