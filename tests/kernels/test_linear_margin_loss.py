"""The way by chunks gives what the cosines give."""

import pytest
import torch

from lightning_losses import linear_margin_loss
from lightning_losses.kernels.rows.by_hand import Chunk, margin_cross_entropy
from lightning_losses.losses import EBV, KD, LDAM, UNPG, ArcFace, CosFace, NormalizedSoftmax
from lightning_losses.networks.margin_head import MarginHead

LOSSES = {
    "arcface": ArcFace(),
    "arcface_wide": ArcFace(margin=2.0, scale=8.0),
    "cosface": CosFace(),
    "cosface_sum": CosFace(margin=0.1, reduction="sum"),
    "rows": ArcFace(reduction="none"),
    "normalized_softmax": NormalizedSoftmax(),
    "ebv": EBV(),
}


def batch(dtype=torch.float64, sub_centers=1):
    torch.manual_seed(0)
    head = MarginHead(6, 9, sub_centers).to(dtype)
    embeddings = torch.randn(2, 4, 6, dtype=torch.float64).to(dtype)
    target = torch.randint(9, (2, 4))
    with torch.no_grad():
        # A cosine of 1 with the target, and one of -1.
        embeddings[0, 0], embeddings[0, 1] = head.weight[0], -head.weight[sub_centers]
    target[0, :3] = torch.tensor([0, 1, -100])
    return head, embeddings.requires_grad_(), target


@pytest.mark.parametrize("sub_centers", [1, 3])
@pytest.mark.parametrize("impl", ["auto", "autograd"])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_are_those_of_the_cosines(name, impl, sub_centers):
    head, embeddings, target = batch(sub_centers=sub_centers)
    loss = LOSSES[name]
    dense = loss(head(embeddings), target)
    ours = linear_margin_loss(loss, embeddings, head.weight, target, sub_centers=sub_centers, impl=impl, chunk=3)
    torch.testing.assert_close(ours, dense)
    slopes = [
        torch.autograd.grad(value.square().sum(), (embeddings, head.weight), retain_graph=True)
        for value in (ours, dense)
    ]
    # Where the angle to the target is 0 the slope by the cosine is large, and what it multiplies is rounding.
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-6)


def test_second_derivatives_are_refused():
    head, embeddings, target = batch()
    value = linear_margin_loss(NormalizedSoftmax(0.5), embeddings, head.weight, target)
    with pytest.raises(
        RuntimeError, match=r"^linear_margin_loss: create_graph=True came, and it has first derivatives"
    ):
        torch.autograd.grad(value, head.weight, create_graph=True)


@pytest.mark.one_graph
def test_it_compiles_to_one_graph():
    torch._dynamo.reset()
    (head, embeddings, target), loss = batch(sub_centers=3), ArcFace()

    def evaluate(embeddings, weight, target):
        return linear_margin_loss(loss, embeddings, weight, target, sub_centers=3)

    compiled = torch.compile(evaluate, backend="aot_eager", fullgraph=True)
    values = [function(embeddings, head.weight, target) for function in (evaluate, compiled)]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, (embeddings, head.weight)) for value in values))


def test_confident_rows_keep_their_loss():
    """From a finished logsumexp nothing would be left: the target's own score is e^64 times the others' sum."""
    head = MarginHead(4, 3)
    with torch.no_grad():
        head.weight.copy_(torch.eye(3, 4))
    embeddings, target, loss = torch.eye(4)[:1], torch.tensor([0]), CosFace(margin=0.5)
    exact = loss(head.double()(embeddings.double()), target)
    assert 0 < exact < 1e-12
    ours = linear_margin_loss(loss, embeddings, head.float().weight, target)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-2, atol=0)


@pytest.mark.parametrize("others", [[0.3, -torch.inf], [-torch.inf, -torch.inf]], ids=["one", "all"])
def test_masked_classes_count_nothing_by_hand_either(others):
    """Where no device is waited for, nothing checks the values that were made by hand."""
    scores = torch.tensor([[0.5, *others]], dtype=torch.float64)
    loss, target = ArcFace(scale=4.0, reduction="none"), torch.tensor([0])
    leaf = scores.clone().requires_grad_()
    value = loss(leaf, target)
    outcome = margin_cross_entropy(loss, Chunk(iter([scores]), iter(()), target, [slice(0, 3)]))
    outcome.complete(0)
    torch.testing.assert_close(outcome.values, value.detach())
    torch.testing.assert_close(outcome.factor * outcome.tiles[0], torch.autograd.grad(value.sum(), leaf)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_cosines_in_single_precision(dtype):
    head, embeddings, target = batch(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_margin_loss(ArcFace(), embeddings, head.weight, target)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, ArcFace()(head(embeddings), target), rtol=1e-5, atol=1e-5)
    assert all(bool(slope.isfinite().all()) for slope in torch.autograd.grad(ours, (embeddings, head.weight)))


@pytest.mark.parametrize(
    ("loss", "sub_centers", "told"),
    [
        (UNPG(), 3, "linear_margin_loss: it couples the samples of a batch, so that it can't be evaluated by chunks; "
         "give a row-wise loss, or evaluate it on the logits."),
        (LDAM([1.0] * 9, beta=0.9), 3, "linear_margin_loss: its classes' weights make its mean more than a mean over "
         "tokens; use linear_cross_entropy(..., class_weight=...)."),
        (KD(), 3, "linear_margin_loss: KD takes logits, teacher_logits; give a loss of logits and target alone."),
        (CosFace(), 2, "linear_margin_loss: weight of shape [9, 6] came with sub_centers=2; give as many vectors for "
         "each class."),
    ],
    ids=["coupled", "weighted", "taught", "vectors"],
)  # fmt: skip
def test_what_has_no_rows_of_its_own_is_refused(loss, sub_centers, told):
    head, embeddings, target = batch()
    with pytest.raises(ValueError) as error:
        linear_margin_loss(loss, embeddings, head.weight, target, sub_centers=sub_centers)
    assert str(error.value) == told
