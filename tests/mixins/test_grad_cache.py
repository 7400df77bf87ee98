"""Embedded a few samples at a time, a batch gives what it gives at once."""

import copy

import pytest
import torch
from torch import nn

from lightning_losses import ClipContrastive, NTXent
from lightning_losses.mixins import GradCache


class Encoder(GradCache, nn.Module):
    def __init__(self, dropout=0.0, norm=False):
        super().__init__()
        middle = [nn.BatchNorm1d(8)] if norm else []
        self.network = nn.Sequential(nn.Linear(5, 8), *middle, nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3)).double()


def gradients(encoder, inputs, micro_batch, loss):
    encoder.micro_batch = micro_batch
    a, b = (encoder.embedded(encoder.network, view) for view in inputs)
    value = loss(a, b)
    return value, torch.autograd.grad(value, list(encoder.parameters()))


@pytest.mark.parametrize("loss", [NTXent(), ClipContrastive(0.1)], ids=["nt_xent", "clip"])
def test_value_and_gradients_are_those_of_the_whole_batch(loss):
    encoder, inputs = Encoder(), torch.randn(2, 7, 5, dtype=torch.float64)
    whole = gradients(encoder, inputs, None, loss)
    for rows in (1, 3, 7, 50):
        torch.testing.assert_close(gradients(encoder, inputs, rows, loss), whole)


def test_the_second_pass_has_the_random_numbers_of_the_first():
    encoder, inputs = Encoder(dropout=0.5), torch.randn(2, 6, 5, dtype=torch.float64)
    seen = []
    encoder.network[2].register_forward_hook(lambda module, given, output: seen.append(output == 0))
    gradients(encoder, inputs, 3, NTXent())
    first, again = seen[:4], seen[4:]
    assert len(again) == 4 and all(any(torch.equal(one, other) for other in again) for one in first)
    assert not torch.equal(first[0], first[1])


def test_a_backward_pass_may_come_again():
    encoder, inputs = Encoder(norm=True), torch.randn(6, 5, dtype=torch.float64)
    encoder.micro_batch = 3
    value = encoder.embedded(encoder.network, inputs).square().sum()
    once, again = (torch.autograd.grad(value, list(encoder.parameters()), retain_graph=True) for _ in range(2))
    torch.testing.assert_close(again, once)


def test_running_statistics_move_once():
    encoder, inputs = Encoder(norm=True), torch.randn(2, 6, 5, dtype=torch.float64)
    before, through = copy.deepcopy(encoder), copy.deepcopy(encoder)
    gradients(encoder, inputs, 3, NTXent())
    through.micro_batch, network = 3, through.network
    NTXent()(*(through.embedded(lambda rows: network(rows), view) for view in inputs)).backward()
    torch.testing.assert_close(dict(through.named_buffers()), dict(encoder.named_buffers()))
    whole, parts = copy.deepcopy(before), copy.deepcopy(before)
    with torch.no_grad():
        for view in inputs:
            whole.network(view)
        parts.micro_batch = 3
        for view in inputs:
            parts.embedded(parts.network, view)
    torch.testing.assert_close(dict(parts.named_buffers()), dict(encoder.named_buffers()))
    norm, expected = encoder.network[1], whole.network[1]
    torch.testing.assert_close(norm.running_mean, expected.running_mean)
    assert norm.num_batches_tracked == expected.num_batches_tracked == 2
    variance = torch.ones(8, dtype=torch.float64)
    for view in inputs:
        inside = before.network[0](view).view(2, 3, 8).var(dim=1).mean(dim=0)
        variance = 0.9 * variance + 0.1 * inside.detach()
    torch.testing.assert_close(norm.running_var, variance)


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm], ids=["new", "old"])
def test_spectral_norm_moves_once_and_the_second_pass_has_its_weights(norm):
    encoders, inputs = [], torch.randn(2, 6, 5, dtype=torch.float64)
    for _ in range(2):
        torch.manual_seed(0)
        encoder = Encoder()
        norm(encoder.network[0])
        encoders.append(encoder)
    # The newer one begins where they hardly move any more.
    with torch.no_grad():
        for encoder in encoders:
            for buffer in encoder.network[0].buffers():
                buffer.copy_(torch.ones(len(buffer)) / len(buffer) ** 0.5)
    one, other = encoders
    torch.testing.assert_close(gradients(one, inputs, 2, NTXent()), gradients(other, inputs, None, NTXent()))
    torch.testing.assert_close(dict(one.named_buffers()), dict(other.named_buffers()))


class Counts(nn.Module):
    """Counts its calls, or the first alone, in a buffer."""

    def __init__(self, once):
        super().__init__()
        self.once = once
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs):
        if not self.once or self.calls == 0:
            self.calls = self.calls + 1
        return inputs


def test_other_state_that_moves_with_every_part_is_refused():
    encoder, inputs = Encoder(), torch.randn(2, 6, 5, dtype=torch.float64)
    encoder.network.append(Counts(once=True))
    gradients(encoder, inputs, 2, NTXent())
    encoder.network[-1].once = False
    gradients(encoder, inputs, None, NTXent())
    with pytest.raises(ValueError, match=r"^Encoder: micro_batch came with a network whose Counts.calls .module 5. ch"):
        gradients(encoder, inputs, 2, NTXent())
    gradients(encoder.eval(), inputs, 2, NTXent())


def test_a_single_sample_before_batch_norm_is_refused():
    encoder, inputs = Encoder(norm=True), torch.randn(2, 5, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^Encoder: a part of a single sample came to a batch norm.*at least 3"):
        gradients(encoder, inputs, 2, NTXent())
    gradients(encoder, inputs, 3, NTXent())


def test_no_activations_are_kept():
    encoder, inputs = Encoder(), torch.randn(2, 64, 5, dtype=torch.float64)
    kept = []
    for rows in (None, 8):
        encoder.micro_batch, sizes = rows, []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            encoder.embedded(encoder.network, inputs[0])
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]


def test_mappings_are_split_and_no_number_below_1_is_taken():
    encoder = Encoder()
    encoder.micro_batch = 2
    inputs = {"x": torch.randn(5, 5, dtype=torch.float64), "scale": 2.0}
    embeddings = encoder.embedded(lambda given: given["scale"] * encoder.network(given["x"]), inputs)
    torch.testing.assert_close(embeddings, 2 * encoder.network(inputs["x"]))
    with pytest.raises(ValueError, match="x of length 5, y of length 1; give a tensor"):
        encoder.embedded(encoder.network, {"x": inputs["x"], "y": inputs["x"][:1]})
    with pytest.raises(ValueError, match="returns a dict; give a function"):
        encoder.embedded(lambda given: {"embeddings": encoder.network(given)}, inputs["x"])
    encoder.micro_batch = 0
    with pytest.raises(ValueError, match="micro_batch"):
        encoder.embedded(encoder.network, inputs["x"])
