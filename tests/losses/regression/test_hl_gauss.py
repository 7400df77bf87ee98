import itertools
import math

import pytest
import torch

from lightning_losses.losses import HLGauss

VALUES = torch.tensor([-1.9, -0.3, 0.0, 1.25], dtype=torch.float64)


def test_value_from_the_definition():
    logits = torch.linspace(-2, 2, 20, dtype=torch.float64).reshape(4, 5).sin()
    gaussian = torch.distributions.Normal(VALUES.unsqueeze(-1), 0.5 * 0.8)
    mass = gaussian.cdf(torch.tensor([-2.0, -1.2, -0.4, 0.4, 1.2, 2.0], dtype=torch.float64)).diff(dim=-1)
    expected = torch.nn.functional.cross_entropy(logits, mass / mass.sum(dim=-1, keepdim=True), reduction="sum")
    torch.testing.assert_close(HLGauss(-2.0, 2.0, 0.5, reduction="sum")(logits, VALUES), expected)


def test_a_narrow_target_is_one_bin_and_a_wider_one_has_more_entropy():
    entropies = []
    for ratio in (1e-6, 0.3, 0.75, 2.0):
        target = HLGauss(-2.0, 2.0, ratio).encode(VALUES, 7)
        torch.testing.assert_close(target.sum(dim=-1), torch.ones_like(VALUES))
        entropies.append(torch.special.entr(target).sum(dim=-1))
    assert bool((HLGauss(-2.0, 2.0, 1e-6).encode(VALUES, 7) == torch.eye(7)[[0, 2, 3, 5]]).all())
    assert all(bool((wider > narrower).all()) for narrower, wider in itertools.pairwise(entropies))


def test_more_bins_decode_what_was_encoded():
    loss, inner = HLGauss(-2.0, 2.0), VALUES[1:]
    errors = [(loss.decode(loss.encode(inner, bins).log()) - inner).abs().max().item() for bins in (5, 51, 501)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-6


def test_numbers_outside_are_clamped_or_refused():
    outside, ends = torch.tensor([-50.0, 9.0]), torch.tensor([-2.0, 2.0])
    assert torch.equal(HLGauss(-2.0, 2.0).encode(outside, 5), HLGauss(-2.0, 2.0).encode(ends, 5))
    assert HLGauss(-2.0, 2.0).encode(torch.tensor([math.inf]), 5).isnan().all()
    with pytest.raises(ValueError) as error:
        HLGauss(-2.0, 2.0, outside="raise")(torch.zeros(2, 5), outside)
    told = 'regression_target holds -50; give numbers from -2 to 2, or outside="clamp".'
    assert str(error.value) == f"hl_gauss: {told}"
    with pytest.raises(ValueError, match=r"^hl_gauss: max_value=-2\.0 came; give a number above -2\.$"):
        HLGauss(-2.0, -2.0)


def test_one_bin_is_refused():
    with pytest.raises(ValueError) as error:
        HLGauss(-2.0, 2.0)(torch.zeros(4, 1), VALUES)
    assert str(error.value) == "hl_gauss: logits of shape [4, 1] came; give at least 2 bins."
