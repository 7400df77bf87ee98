import math

import pytest
import torch

from lightning_losses.losses import DPO, FDPO
from tests.losses.preference.pairs import direct, examples, mean, numbers, sigmoid

# f' of the ratio u, up to a constant.
DERIVATIVES = {
    "reverse_kl": math.log,
    "forward_kl": lambda u: -1 / u,
    "js": lambda u: math.log(2 * u / (1 + u)),
    "alpha": lambda u: -(u**-0.3) / 0.3,
}


@pytest.mark.parametrize("divergence", DERIVATIVES)
def test_value_from_the_definition(divergence):
    values, slope = examples(), DERIVATIVES[divergence]
    expected = [
        -math.log(sigmoid(0.3 * (slope(math.exp(pair.chosen)) - slope(math.exp(pair.rejected)))))
        for pair in numbers(values)
    ]
    torch.testing.assert_close(FDPO(0.3, divergence, 0.3)(**values), mean(expected))


def test_the_reverse_one_is_dpo_and_alpha_lies_between_both():
    values = examples()
    torch.testing.assert_close(FDPO(0.3, "reverse_kl")(**values), DPO(0.3)(**values), rtol=0, atol=0)
    near_0, near_1 = FDPO(0.3, "alpha", 1e-9)(**values), FDPO(0.3, "alpha", 1 - 1e-9)(**values)
    torch.testing.assert_close(near_0, FDPO(0.3, "reverse_kl")(**values))
    torch.testing.assert_close(near_1, FDPO(0.3, "forward_kl")(**values))


@pytest.mark.parametrize("divergence", DERIVATIVES)
def test_equal_ratios_are_log_2_and_rewards_are_0_at_the_reference(divergence):
    loss = FDPO(0.3, divergence)
    torch.testing.assert_close(loss(**direct(1.5, 1.5)).item(), math.log(2))
    assert loss.rewards(torch.zeros(())).item() == 0


@pytest.mark.parametrize("divergence", DERIVATIVES)
@pytest.mark.parametrize("ratio", [-1e4, 1e4])
def test_extreme_ratios_are_finite(divergence, ratio):
    values = {name: value.float() for name, value in direct(ratio, -ratio).items()}
    leaf = values["chosen_logps"].requires_grad_()
    value = FDPO(0.3, divergence)(**values)
    assert bool(torch.isfinite(value)) and bool(torch.isfinite(torch.autograd.grad(value, leaf)[0]).all())


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_ends_of_alpha_have_their_own_names(alpha):
    with pytest.raises(ValueError, match=rf"^f_dpo: alpha={alpha} came; give a number above 0 and below 1"):
        FDPO(alpha=alpha)
