"""The intervals that the report of a regression has beside its errors."""

import pytest
import torch

from lightning_losses.calibrators import CQR, SplitConformal
from lightning_losses.experiments.kinds.regression import ALPHA, conformal_intervals

GENERATOR = torch.Generator().manual_seed(0)
FIT, TEST = (torch.rand(60, generator=GENERATOR) + 0.5 for _ in range(2))
TARGET = torch.randn(60, generator=GENERATOR)


@pytest.mark.parametrize("spread", ["standard_deviation", "variance", "evidential", "ensemble", "quantiles", "none"])
def test_intervals_come_of_what_is_predicted(spread):
    def predicted(values):
        zeros = torch.zeros_like(values)
        return {
            "standard_deviation": {"mean": zeros, "standard_deviation": values, "variance": values.square()},
            "variance": {"mean": zeros, "variance": values.square()},
            # (β + β / ν) / (α - 1) with ν = 1 and α = 3 is β.
            "evidential": {"evidential": torch.stack([zeros, zeros + 1, zeros + 3, values.square()], dim=-1)},
            "ensemble": {"ensemble": torch.stack([-values, values], dim=-1) / 2**0.5},
            "quantiles": {"quantiles": torch.stack([values, zeros, -values], dim=-1)},
            "none": {"mean": zeros},
        }[spread]

    constant, own = conformal_intervals(predicted(FIT), TARGET, predicted(TEST))
    zeros = torch.zeros(60)
    torch.testing.assert_close(constant, SplitConformal(ALPHA).fit(zeros, TARGET)(zeros))
    if spread == "none":
        assert own is None
    elif spread == "quantiles":
        torch.testing.assert_close(own, CQR(ALPHA).fit(-FIT, FIT, TARGET)(-TEST, TEST))
    else:
        torch.testing.assert_close(own, SplitConformal(ALPHA, normalised=True).fit(zeros, TARGET, FIT)(zeros, TEST))
