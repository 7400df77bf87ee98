"""The full-batch tasks: tables against Python's integers, splits, laws, and what a loader yields."""

import lightning as L
import pytest
import torch

from lightning_losses.data.lazy_rich_polynomial import LazyRichPolynomial
from lightning_losses.data.modular_arithmetic import ModularArithmetic, operation_table
from lightning_losses.data.resident import WholeBatch
from lightning_losses.data.sparse_parity import SparseParity
from lightning_losses.data.xor_cluster import XORCluster
from lightning_losses.networks.mlp import MLP
from lightning_losses.networks.polynomial_network import PolynomialNetwork
from lightning_losses.networks.two_layer_relu import TwoLayerReLU


def ready(data):
    data.setup()
    return data


@pytest.mark.parametrize("prime", [2, 5, 13])
@pytest.mark.parametrize("operation", ["add", "subtract", "multiply", "divide"])
def test_tables_are_arithmetic(prime, operation):
    pairs, target = operation_table(prime, operation)
    assert len(pairs) == (prime * (prime - 1) if operation == "divide" else prime**2)
    assert len(torch.unique(pairs, dim=0)) == len(pairs)
    for (a, b), result in zip(pairs.tolist(), target.tolist(), strict=True):
        # Division is checked by its definition: the result times b is a.
        want = {"add": a + b, "subtract": a - b, "multiply": a * b, "divide": result}[operation] % prime
        assert result == want
        assert operation != "divide" or result * b % prime == a


def test_the_splits_are_disjoint_and_complete():
    data = ready(ModularArithmetic(prime=11, train_fraction=0.4))
    rows = [tuple(row.nonzero().flatten().tolist()) for split in (data.train, data.test) for row in split["inputs"]]
    assert len(rows) == len(set(rows)) == 121
    assert len(data.train["target"]) == int(0.4 * 121)
    assert all(c == (a + b - 11) % 11 for (a, b), c in
               zip(rows, torch.cat([data.train["target"], data.test["target"]]).tolist(), strict=True))  # fmt: skip


def test_tokens_are_the_numbers():
    one_hot = ready(ModularArithmetic(prime=7))
    tokens = ready(ModularArithmetic(prime=7, encoding="tokens"))
    assert torch.equal(one_hot.train["inputs"].reshape(-1, 2, 7).argmax(-1), tokens.train["inputs"])


def test_a_seed_is_a_split():
    same = [ready(ModularArithmetic(prime=11, seed=seed)).train["target"] for seed in (1, 1, 2)]
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], same[2])


@pytest.mark.parametrize("sizes", [{}, {"parity_bits": 2, "noise_bits": 4, "train_samples": 30, "test_samples": 34}])
def test_parity_of_different_strings(sizes):
    data = ready(SparseParity(**sizes))
    inputs = torch.cat([data.train["inputs"], data.test["inputs"]])
    target = torch.cat([data.train["target"], data.test["target"]])
    bits = inputs.int().tolist()
    assert len({tuple(row) for row in bits}) == len(bits) == data.train_samples + data.test_samples
    assert [sum(row[: data.parity_bits]) % 2 for row in bits] == target.tolist()
    # Three standard deviations of a fair coin.
    assert abs(target.double().mean() - 0.5) <= 1.5 / len(target) ** 0.5


def test_xor_clusters_have_their_centres_and_their_noise():
    data = ready(XORCluster(dimension=30, signal=6.0, label_noise=0.2, train_samples=4000, test_samples=4000))
    for split, clean in ((data.train, False), (data.test, True)):
        inputs, target = split["inputs"], split["target"]
        nearer = (inputs[:, 0].abs() > inputs[:, 1].abs()).long()
        # At signal 6 a sample is nearer the wrong axis once in a hundred thousand.
        flipped = (nearer != target).double().mean()
        assert flipped <= 1e-3 if clean else abs(flipped - 0.2) <= 3 * (0.2 * 0.8 / 4000) ** 0.5
        assert abs(inputs[:, 2:].std() - 1) < 0.01
        for axis in (0, 1):
            chosen = inputs[nearer == 1 - axis, axis]
            for sign in (1, -1):
                centre = chosen[sign * chosen > 0]
                assert abs(centre.mean() - sign * 6) < 0.15 and 800 < len(centre) < 1200


def test_the_polynomial_has_unit_inputs():
    data = ready(LazyRichPolynomial(dimension=50, train_samples=2000))
    assert abs(data.train["inputs"].square().sum(1).mean() - 1) < 0.02
    assert (data.train["target"] >= 0).all()


def test_the_closed_form_error_is_the_monte_carlo_one():
    torch.manual_seed(0)
    network = PolynomialNetwork(6, hidden=11, alpha=1.5, epsilon=0.5).double()
    direction = torch.randn(6, dtype=torch.float64)
    inputs = torch.randn(400_000, 6, dtype=torch.float64) / 6**0.5
    errors = (network(inputs).squeeze(1) - (inputs @ direction).square() / 2).square()
    want = sum(network.expected_error(direction).values())
    # Four standard errors of the mean.
    assert abs(errors.mean() - want) < 4 * errors.std() / 400_000**0.5


def test_the_closed_form_kernel_is_that_of_the_gradients():
    network, inputs = PolynomialNetwork(4, hidden=5, alpha=2.0).double(), torch.randn(3, 4, dtype=torch.float64)
    rows = [
        torch.autograd.grad(output, network.weight, retain_graph=True)[0].flatten()
        for output in network(inputs).squeeze(1)
    ]
    jacobian = torch.stack(rows)
    torch.testing.assert_close(network.kernel(inputs, inputs).detach(), jacobian @ jacobian.T)


def test_two_logits_make_the_logistic_loss():
    network, inputs = TwoLayerReLU(5, hidden=4, init_scale=1.0), torch.randn(7, 5)
    target = torch.tensor([0, 1, 0, 1, 1, 0, 0])
    y = 2.0 * target - 1
    want = torch.nn.functional.softplus(-y * network.score(inputs)).mean()
    torch.testing.assert_close(torch.nn.functional.cross_entropy(network(inputs), target), want)
    assert [name for name, _ in network.named_parameters()] == ["weight"]


def test_a_network_without_biases_is_homogeneous():
    network, inputs = MLP(5, 3, hidden=[4, 4], bias=False), torch.randn(2, 5)
    before = network(inputs)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    torch.testing.assert_close(network(inputs), 8 * before)


def test_a_loader_yields_the_same_tensors_in_fresh_mappings():
    batch = {"inputs": torch.zeros(2)}
    first, second = WholeBatch(batch, 2)
    first["step"] = 1
    assert second.keys() == batch.keys() and second["inputs"] is batch["inputs"]


def test_an_epoch_is_a_number_of_whole_batches(tmp_path):
    class Count(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = MLP(10, 5)
            self.seen = []

        def training_step(self, batch, batch_idx):
            self.seen.append(len(batch["target"]))
            return torch.nn.functional.cross_entropy(self.network(batch["inputs"]), batch["target"])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Count()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    data = ready(ModularArithmetic(prime=5, steps_per_epoch=3))
    trainer.fit(module, train_dataloaders=data.train_dataloader())
    assert module.seen == [10] * 6


@pytest.mark.parametrize(
    "make",
    [
        lambda: ModularArithmetic(prime=12),
        lambda: ModularArithmetic(train_fraction=1.0),
        lambda: ModularArithmetic(operation="power"),
        lambda: SparseParity(parity_bits=2, noise_bits=1, train_samples=5, test_samples=4),
        lambda: SparseParity(noise_bits=60),
        lambda: XORCluster(label_noise=0.6),
        lambda: LazyRichPolynomial(train_samples=0),
        lambda: LazyRichPolynomial(steps_per_epoch=0),
        lambda: TwoLayerReLU(4, hidden=3),
        lambda: PolynomialNetwork(4, alpha=0),
        lambda: MLP(4, 2, hidden=[0]),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="came|were asked|leaves"):
        make()


def test_a_resident_batch_is_not_copied_and_another_is_moved():
    data = ModularArithmetic(prime=5)
    batch = {"inputs": torch.zeros(2, 10), "target": torch.zeros(2, dtype=torch.int64)}
    assert data.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert {tensor.device.type for tensor in moved.values()} == {"meta"}


def test_a_fixed_norm_scales_the_direction_and_changes_nothing_else():
    for seed in range(3):
        drawn, fixed = (
            ready(LazyRichPolynomial(dimension=7, test_samples=20_000, seed=seed, fixed_norm=fixed))
            for fixed in (False, True)
        )
        assert torch.equal(drawn.train["inputs"], fixed.train["inputs"])
        scale = fixed.train["target"].sum() / drawn.train["target"].sum()
        torch.testing.assert_close(fixed.train["target"], scale * drawn.train["target"])
        # E (β·x)² / 2 = |β|² / 2D, a half; its deviation over 20,000 samples is 0.005.
        assert fixed.test["target"].mean().item() == pytest.approx(0.5, abs=0.02)
