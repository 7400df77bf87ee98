import math

import pytest
import torch

from lightning_losses import AMCL


def views(samples=5, dim=4):
    return torch.randn(2, samples, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()


def plain(**options):
    """One head that changes nothing, and the same temperature for every pair: the middle of the range."""
    loss = AMCL(heads=1, head_dim=4, feature_dim=4, **options).double()
    with torch.no_grad():
        loss.projections.weight.copy_(torch.eye(4))
        for parameter in (loss.projections.bias, loss.to_temperature.weight, loss.to_temperature.bias):
            parameter.zero_()
    return loss


def test_one_head_with_one_temperature_is_nt_xent():
    a, b = views()
    unit = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
    rows = []
    for i in range(10):
        others = [j for j in range(10) if j != i]
        scores = unit[i] @ unit[others].T / 0.5
        rows.append(-scores.log_softmax(dim=0)[others.index((i + 5) % 10)])
    loss = plain(regularization=0.0, least_temperature=0.25, most_temperature=0.75)
    torch.testing.assert_close(loss(a, b), torch.stack(rows).mean())


def test_the_regulariser_is_smallest_at_two_over_the_dimension():
    values = {
        middle: plain(regularization=1e6, least_temperature=middle - 0.1, most_temperature=middle + 0.1)(*views())
        for middle in (0.3, 0.4, 0.5, 0.6, 0.9)
    }
    assert min(values, key=values.get) == 0.5
    assert abs(values[0.5].item() / 1e6 - (2 * math.log(0.5) + 2)) < 1e-5


def test_temperatures_learn():
    loss = plain()
    loss(*views()).backward()
    assert loss.to_temperature.weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_module_of_half_precision_is_evaluated_in_single(dtype):
    loss = AMCL(feature_dim=4).to(dtype)
    a, b = (view.to(dtype) for view in views())
    value, expected = loss(a, b), loss.float()(a.float(), b.float())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=0.0)


def test_an_empty_range_is_refused():
    with pytest.raises(ValueError) as refusal:
        AMCL(least_temperature=2.0, most_temperature=1.0)
    assert str(refusal.value) == "amcl: most_temperature=1.0 came with least_temperature=2.0; give at least as much."


def test_views_of_unlike_sizes_are_refused():
    with pytest.raises(ValueError) as refusal:
        AMCL()(torch.zeros(3, 4), torch.zeros(2, 4))
    assert str(refusal.value) == (
        "amcl: embeddings_b of shape [2, 4] came with embeddings of shape [3, 4]; give vectors of the same samples and "
        "the same width."
    )
