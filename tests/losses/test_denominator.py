"""What a mean divides by, which weighs processes of unequal size: known for every loss that averages over samples."""

import pytest

from lightning_losses.losses import loss_classes
from lightning_losses.losses.policy_gradient.completion_loss import CompletionLoss
from lightning_losses.objective import Term
from tests.losses.examples import BATCH, build, tensors

# A mean over pairs of tokens, one that is weighted by classes, and those over completions have tests of their own.
OTHERS = ("span_correlation", "class_balanced", "completion_nll", "gradient_ascent", "retain_nll", "satimp", "wga")
ROW_WISE = [
    loss
    for loss in loss_classes()
    if not loss.batch_coupled and loss.identifier() not in OTHERS and not issubclass(loss, CompletionLoss)
]


@pytest.mark.parametrize("loss", ROW_WISE, ids=lambda loss: loss.identifier())
def test_a_mean_divides_by_the_samples(loss):
    count = Term(build(loss)).count(tensors(loss))
    # None: the loss says of itself that it is no mean over samples.
    assert count is None or int(count.samples) == BATCH
