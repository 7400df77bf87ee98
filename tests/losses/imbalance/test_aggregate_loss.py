import pytest
import torch

from lightning_losses.losses import AggregateLoss

GENERATOR = torch.Generator().manual_seed(0)
MEAN, RESPONSE = torch.randn(2, 9, dtype=torch.float64, generator=GENERATOR)
SPANS = torch.tensor([4, 0, 4, -1, 0, 7, 4, 0, -1])
BAGS = [(bag == SPANS).nonzero().flatten() for bag in (0, 4, 7)]


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_value_from_the_definition(rho):
    bag = sum((RESPONSE[b].mean() - MEAN[b].mean()) ** 2 for b in BAGS) / 3
    instance = sum(((RESPONSE[b].mean() - MEAN[b]) ** 2).mean() for b in BAGS) / 3
    torch.testing.assert_close(AggregateLoss(rho)(MEAN, RESPONSE, SPANS), (1 - rho) * bag + rho * instance)


def test_the_instance_loss_is_the_bag_loss_and_the_variance_within():
    within = sum(MEAN[b].var(correction=0) for b in BAGS) / 3
    bag, instance = (AggregateLoss(rho)(MEAN, RESPONSE, SPANS) for rho in (0.0, 1.0))
    torch.testing.assert_close(instance, bag + within)


def test_bags_of_one_are_the_squared_error_and_none_is_0():
    alone = torch.arange(9)
    for rho in (0.0, 0.4, 1.0):
        torch.testing.assert_close(AggregateLoss(rho)(MEAN, RESPONSE, alone), ((MEAN - RESPONSE) ** 2).mean())
    garbage = MEAN.masked_fill(SPANS < 0, torch.nan)
    assert torch.equal(AggregateLoss()(garbage, RESPONSE, SPANS), AggregateLoss()(MEAN, RESPONSE, SPANS))
    assert AggregateLoss()(MEAN, RESPONSE, torch.full((9,), -1)).item() == 0


def test_memory_grows_with_the_samples_alone():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        AggregateLoss()(torch.zeros(2048), torch.zeros(2048), torch.arange(2048) // 3)
    assert max(event.cpu_memory_usage for event in profile.events()) < 2048 * 64


def test_spans_that_do_not_fit_are_refused():
    with pytest.raises(ValueError) as raised:
        AggregateLoss()(MEAN, RESPONSE, SPANS[:3])
    assert str(raised.value) == (
        "aggregate_loss: spans (torch.int64 [3]) came with regression_target of shape [9]; give the int64 number of "
        "each sample's bag."
    )
