import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import SAEAuxK
from lightning_losses.networks.sparse_autoencoder import SparseAutoencoder
from lightning_losses.networks.sparse_choices import feature_choice, mutual_choice, token_choice
from tests.distributed.processes import in_group, run_on_processes

GENERATOR = torch.Generator().manual_seed(0)
VALUES = torch.rand(12, 8, dtype=torch.float64, generator=GENERATOR) + 0.1
CHOICES = [token_choice, feature_choice, mutual_choice]


def test_a_budget_is_spent_on_samples_latents_or_the_batch():
    of_tokens, of_features, of_batch = (choose(VALUES, 2).codes > 0 for choose in CHOICES)
    assert of_tokens.sum(dim=1).tolist() == [2] * 12
    assert of_features.sum(dim=0).tolist() == [3] * 8
    assert of_batch.sum() == 24
    for kept, dim in ((of_tokens, 1), (of_features, 0)):
        low = VALUES.masked_fill(~kept, torch.inf).amin(dim=dim)
        assert bool((low > VALUES.masked_fill(kept, -torch.inf).amax(dim=dim)).all())
    assert VALUES[of_batch].min() > VALUES[~of_batch].max()


@pytest.mark.parametrize("choose", CHOICES, ids=lambda choose: choose.__name__)
def test_all_kept_is_relu_order_does_not_matter_and_what_is_kept_has_the_gradient(choose):
    values = (VALUES - 0.6).requires_grad_()
    assert torch.equal(choose(values, 8).codes, values.relu())
    order = torch.randperm(12, generator=GENERATOR)
    codes = choose(values, 2).codes
    assert torch.equal(choose(values[order], 2).codes, codes[order])
    assert torch.equal(torch.autograd.grad(codes.sum(), values)[0], (codes > 0).double())


def test_training_keeps_unit_rows_and_gradients_across_them():
    torch.manual_seed(0)
    network = SparseAutoencoder(4, 16, k=2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    handles = network.constrain(optimizer)
    x = torch.randn(32, 4)
    F.mse_loss(network(x)["reconstruction"], x).backward()
    rows, slope = network.decoder.detach().clone(), network.decoder.grad.clone()
    optimizer.step()
    across = slope - (slope * rows).sum(dim=1, keepdim=True) * rows
    torch.testing.assert_close(network.decoder.grad, across)
    torch.testing.assert_close(network.decoder.detach(), F.normalize(rows - 0.5 * across, dim=1))
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert not torch.allclose(network.decoder.norm(dim=1), torch.ones(16))


@pytest.mark.parametrize("choice", ["feature", "mutual"])
def test_evaluation_keeps_what_reaches_the_running_threshold(choice):
    torch.manual_seed(0)
    network = SparseAutoencoder(4, 16, k=3, choice=choice, momentum=0.5)
    choose = feature_choice if choice == "feature" else mutual_choice
    wanted = None
    for _ in range(3):
        x = torch.randn(32, 4)
        smallest = choose(F.linear(x - network.decoder_bias, network.encoder, network.encoder_bias), 3).threshold
        wanted = smallest.clamp(min=0) if wanted is None else 0.5 * wanted + 0.5 * smallest.clamp(min=0)
        network(x)
    torch.testing.assert_close(network.threshold, wanted.detach())
    state = network.eval().state_dict()
    fresh = SparseAutoencoder(4, 16, k=3, choice=choice).eval()
    fresh.load_state_dict(state)
    codes = fresh(x)["codes"]
    # A sample has the codes that it has alone, about as many as in training, and changes no buffer.
    torch.testing.assert_close(torch.cat([fresh(row)["codes"] for row in x.split(1)]), codes)
    assert 0.5 * 3 < (codes > 0).sum() / 32 < 2 * 3
    assert all(torch.equal(value, state[name]) for name, value in fresh.state_dict().items())


def test_dead_latents_learn_what_is_left():
    torch.manual_seed(0)
    network = SparseAutoencoder(4, 16, k=2, choice="token", dead_after=64, auxiliary=3)
    with torch.no_grad():
        # Never among the two largest.
        network.encoder_bias[10:] = -5.0
    x = torch.randn(32, 4)
    first, second = network(x), network(x)
    assert not first["dead"].any() and not first["dead_reconstruction"].any()
    assert second["dead"].tolist() == (network.unused >= 64).tolist() and second["dead"][10:].all()
    assert not second["dead"].all()
    with torch.no_grad():
        network.encoder_bias[10:] = 0.0
        network.encoder_bias[:10] = 5.0
    third = network(x)
    values = F.linear(x - network.decoder_bias, network.encoder, network.encoder_bias)
    largest = values.masked_fill(~third["dead"], -9.0).topk(3, dim=1)
    wanted = sum(largest.values[:, i : i + 1].relu() * network.decoder[largest.indices[:, i]] for i in range(3))
    torch.testing.assert_close(third["dead_reconstruction"], wanted)
    loss = SAEAuxK()(**{name: third[name] for name in SAEAuxK.inputs()})
    slope = torch.autograd.grad(loss, network.encoder)[0]
    assert slope[third["dead"]].any() and not slope[~third["dead"]].any()


def several(folder):
    """What each process keeps of its part, and what the network remembers."""
    rank = torch.distributed.get_rank()
    own = slice(0, 7) if rank == 0 else slice(7, 12)
    codes = [choose(VALUES[own], 2).codes for choose in CHOICES]
    states = []
    for choice in ("feature", "mutual"):
        torch.manual_seed(0)
        network = SparseAutoencoder(8, 16, k=3, choice=choice)
        network(VALUES[own].float())
        states.append(dict(network.named_buffers()))
    torch.save((codes, states), folder / f"{rank}.pt")


def test_the_budget_of_two_processes_is_that_of_one(tmp_path):
    run_on_processes(in_group, 2, several, tmp_path)
    (first, states), (second, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for choose, a, b in zip(CHOICES, first, second, strict=True):
        assert torch.equal(torch.cat([a, b]), choose(VALUES, 2).codes), choose.__name__
    torch.testing.assert_close(states, others, rtol=0, atol=0)
    for choice, state in zip(("feature", "mutual"), states, strict=True):
        torch.manual_seed(0)
        network = SparseAutoencoder(8, 16, k=3, choice=choice)
        network(VALUES.float())
        torch.testing.assert_close(state, dict(network.named_buffers()))


def test_weights_in_half_precision_choose_in_single_precision():
    """As under precision="bf16-true"."""
    network = SparseAutoencoder(8, 16, k=3).bfloat16()
    output = network(VALUES[:, :8].bfloat16())
    assert output["codes"].dtype == torch.float32 and int((output["codes"] > 0).sum()) == 3 * len(VALUES)
    output["reconstruction"].sum().backward()
    assert network.encoder.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("choice", ["feature", "mutual"])
def test_running_thresholds_stay_out_of_half_precision(choice):
    network = SparseAutoencoder(8, 8, k=3, choice=choice).bfloat16()
    network.threshold.fill_(1.0)
    network.batches.fill_(1)
    network._remember(torch.ones(2, 8), torch.full_like(network.threshold, 1.1))
    torch.testing.assert_close(network.threshold, torch.full(network.threshold.shape, 1.001))
    assert network.unused.dtype == torch.int64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: SparseAutoencoder(4, 0),
            "sparse_autoencoder: num_latents=0 came; give a whole number of at least 1.",
        ),
        (
            lambda: SparseAutoencoder(4, 8, choice="all"),
            "sparse_autoencoder: choice='all' came; choose one of 'token', 'feature', 'mutual'.",
        ),
        (
            lambda: mutual_choice(VALUES[0], 2),
            "mutual_choice: values of shape [8] came; give [batch, latents].",
        ),
    ],
    ids=["latents", "choice", "values"],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message
