import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

from lightning_losses import CrossEntropy, Objective
from lightning_losses.mixins import ObjectiveMixin
from lightning_losses.mixins.epoch_means import EpochMeans


class Module(ObjectiveMixin, L.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Linear(4, 3)
        self.objective = Objective({"ce": CrossEntropy(), "smooth": CrossEntropy(label_smoothing=0.5)})
        self.seen = []

    def training_step(self, batch, batch_idx):
        output = self.apply_objective(logits=self.network(batch["inputs"]), target=batch["target"])
        self.seen.append((output["loss"].item(), len(batch["target"])))
        return output

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Seen(Callback):
    """What other callbacks find logged when the epoch ends."""

    def __init__(self, stop_at=None):
        self.metrics, self.stop_at = [], stop_at

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == self.stop_at:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer, pl_module):
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def fit(seen, module=None, **options):
    generator = torch.Generator().manual_seed(0)
    batches = [
        {"inputs": torch.randn(n, 4, generator=generator), "target": torch.randint(3, (n,), generator=generator)}
        for n in (5, 5, 5, 2)
    ]
    module = module or Module()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, callbacks=[seen], **{"max_epochs": 2, **options},
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return module, trainer


def mean(seen):
    return sum(value * weight for value, weight in seen) / sum(weight for _, weight in seen)


def test_every_epoch_logs_the_mean_over_its_samples_in_time_for_other_callbacks():
    seen = Seen()
    module, _ = fit(seen)
    assert [set(metrics) for metrics in seen.metrics] == [
        {"train/objective", "train/objective/ce", "train/objective/smooth"}
    ] * 2
    for epoch, metrics in enumerate(seen.metrics):
        # Added up in double precision, returned in single.
        assert metrics["train/objective"] == pytest.approx(mean(module.seen[4 * epoch : 4 * epoch + 4]), rel=1e-6)
        assert metrics["train/objective"] == pytest.approx(
            metrics["train/objective/ce"] + metrics["train/objective/smooth"], rel=1e-6
        )


@pytest.mark.parametrize(("accumulate", "batches"), [(1, 2), (2, 4)])
def test_an_epoch_that_ends_with_the_last_step_logs_what_it_had(accumulate, batches):
    seen = Seen()
    module, _ = fit(seen, max_epochs=-1, max_steps=2, accumulate_grad_batches=accumulate)
    assert len(module.seen) == batches
    assert seen.metrics[-1]["train/objective"] == pytest.approx(mean(module.seen), rel=1e-6)


def test_an_epoch_that_is_cut_short_logs_what_it_had_at_its_end():
    module, trainer = fit(Seen(stop_at=1))
    assert len(module.seen) == 2
    assert float(trainer.callback_metrics["train/objective"]) == pytest.approx(mean(module.seen), rel=1e-6)


class Alternating(Module):
    """Two objectives that take turns, the second of them beside a loss of the module's own."""

    def __init__(self):
        super().__init__()
        self.other = Objective({"other": CrossEntropy(label_smoothing=0.1)})

    def training_step(self, batch, batch_idx):
        if batch_idx % 2 == 0:
            return super().training_step(batch, batch_idx)
        logits, samples = self.network(batch["inputs"]), len(batch["target"])
        own = logits.square().mean()
        self.add_to_means(self.log_name(), {"own": own}, {"own": 1.0}, {"own": torch.tensor(samples)})
        loss = own + self.evaluate_objective(self.other, self.log_name(), {"logits": logits, "target": batch["target"]})
        self.seen.append((loss.item(), samples))
        return loss


def test_objectives_that_take_turns_are_logged_as_the_means_of_what_they_had():
    seen = Seen()
    module, _ = fit(seen, Alternating(), max_epochs=1)
    logged = seen.metrics[0]
    assert logged["train/objective"] == pytest.approx(mean(module.seen), rel=1e-6)
    first, second = mean(module.seen[::2]), mean(module.seen[1::2])
    assert logged["train/objective/ce"] + logged["train/objective/smooth"] == pytest.approx(first, rel=1e-6)
    assert logged["train/objective/own"] + logged["train/objective/other"] == pytest.approx(second, rel=1e-6)


def test_values_of_several_precisions_add_up():
    means, ones = EpochMeans(), {"a": 1.0, "b": 1.0}
    for a, b, samples in ((1.0, 2.0, 1), (3.0, 2.0, 3)):
        parts = {"a": torch.tensor(a), "b": torch.tensor(b, dtype=torch.float64)}
        means.add(parts, ones, dict.fromkeys(parts, torch.tensor(samples)))
    assert means.take() == (4.5, {"a": 2.5, "b": 2.0}, {"a": 4.0, "b": 4.0})


def test_parts_have_samples_and_weights_of_their_own():
    means = EpochMeans()
    for a, b, weight, samples in ((1.0, 10.0, 2.0, 3), (5.0, 20.0, 4.0, 0)):
        counts = {"a": torch.tensor(samples), "b": torch.tensor(1)}
        means.add({"a": torch.tensor(a), "b": torch.tensor(b)}, {"a": weight, "b": weight}, counts)
    # Of a, the second batch has no sample; of b, each has one, at its own weight.
    assert means.take() == (2.0 + (20.0 + 80.0) / 2, {"a": 1.0, "b": 15.0}, {"a": 3.0, "b": 2.0})


def test_what_has_no_samples_adds_nothing_whatever_it_is():
    means = EpochMeans()
    for value, samples in ((torch.nan, 0), (3.0, 2)):
        means.add({"a": torch.tensor(value)}, {"a": 1.0}, {"a": torch.tensor(samples)})
    assert means.take().parts == {"a": 3.0}
    parts = {"a": torch.tensor(3.0), "b": torch.tensor(torch.nan)}
    means.add(parts, {"a": 1.0, "b": 1.0}, {"a": torch.tensor(2), "b": torch.tensor(0)})
    assert means.take() == (3.0, {"a": 3.0, "b": 0.0}, {"a": 2.0, "b": 0.0})


def added(means, value, samples, batch, *names, step=None):
    parts = {name: torch.tensor(float(value)) for name in names}
    ones, counts = dict.fromkeys(names, 1.0), {name: torch.tensor(samples) for name in names}
    means.add(parts, ones, counts, batch=batch, step=step)


@pytest.mark.parametrize("steps", [2, 80], ids=["at once", "added up in between"])
def test_parts_that_change_between_steps_keep_what_each_had(steps):
    means, again = EpochMeans(), EpochMeans()
    for number in range(0, steps, 2):
        # Two objectives that take turns: their samples add up.
        added(means, 1, 3, number, "a")
        added(means, 5, 1, number + 1, "b")
    again.load_state_dict(means.state_dict(), torch.device("cpu"))
    half = steps / 2
    assert again.take() == (2.0, {"a": 1.0, "b": 5.0}, {"a": 3 * half, "b": half})


def test_what_one_batch_adds_in_two_calls_is_added_up():
    means = EpochMeans()
    for number in range(3):
        added(means, 1, 4, number, "")
        added(means, 2, 2, number, "ce", "kd")
    assert means.take() == (5.0, {"": 1.0, "ce": 2.0, "kd": 2.0}, {"": 12.0, "ce": 6.0, "kd": 6.0})


def test_a_step_that_is_left_out_is_in_no_mean():
    means = EpochMeans()
    for number in range(140):
        added(means, torch.nan if number // 70 else 2, 1, number, "a", step=number // 70)
    means.leave_out(1)
    assert means.take() == (2.0, {"a": 2.0}, {"a": 70.0})


def test_a_weight_may_be_on_the_device():
    numbers, tensors = EpochMeans(), EpochMeans()
    for value, weight in ((1.0, 2.0), (3.0, 0.5)):
        part, samples = {"a": torch.tensor(value)}, {"a": torch.tensor(2)}
        numbers.add(part, {"a": weight}, samples)
        tensors.add(part, {"a": torch.tensor(weight)}, samples)
    assert tensors.take() == numbers.take() == (1.75, {"a": 2.0}, {"a": 4.0})


def test_a_state_owns_its_sums():
    means = EpochMeans()
    means.add({"a": torch.tensor(1.0)}, {"a": 1.0}, {"a": torch.tensor(2)})
    state = means.state_dict()
    means.add({"a": torch.tensor(1.0)}, {"a": 1.0}, {"a": torch.tensor(2)})
    again = EpochMeans()
    again.load_state_dict(state, torch.device("cpu"))
    again.add({"a": torch.tensor(3.0)}, {"a": 1.0}, {"a": torch.tensor(2)})
    assert state["steps"][0]["sums"].tolist() == [[2.0], [2.0], [2.0]] and again.take().parts == {"a": 2.0}
