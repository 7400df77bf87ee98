import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_losses.callbacks import RestartOptimizer
from lightning_losses.objective import Switch


class Line(L.LightningModule):
    """One number, and at each step what Adam remembers of steps."""

    def __init__(self):
        super().__init__()
        self.number = torch.nn.Parameter(torch.ones(()))
        self.steps = []

    def training_step(self, batch, batch_idx):
        state = self.optimizers().optimizer.state
        self.steps.append(int(state[self.number]["step"]) if self.number in state else 0)
        return (self.number * batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.1)


def fit(*callbacks, checkpoint=None, **options):
    module, data = Line(), DataLoader(torch.ones(8), batch_size=1)
    options = {"max_epochs": 1, **options}
    L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, callbacks=list(callbacks), **options,
    ).fit(module, data, ckpt_path=checkpoint, weights_only=True)  # fmt: skip
    return module.steps


@pytest.mark.parametrize(
    ("at", "accumulated", "expected"),
    [
        (0.5, 1, [0, 1, 2, 3, 0, 1, 2, 3]),
        (0.3, 1, [0, 1, 2, 0, 1, 2, 3, 4]),
        (0.5, 2, [0, 0, 1, 1, 0, 0, 1, 1]),
    ],
)
def test_adam_begins_anew_where_the_weight_switches(at, accumulated, expected):
    assert fit(RestartOptimizer(at), accumulate_grad_batches=accumulated) == expected
    steps = 8 // accumulated
    weights = [Switch(1.0, 9.0, at)(step // accumulated / steps) for step in range(8)]
    assert [weight == 9.0 for weight in weights] == [place >= len(expected) - weights.count(9.0) for place in range(8)]
    # The first step with the larger weight is the first without a past.
    assert expected[weights.index(9.0)] == 0 and expected[weights.index(9.0) - 1] > 0


@pytest.mark.parametrize("at", [0.2, 0.8])
def test_a_resumed_training_restarts_once(tmp_path, at):
    class Saved(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    whole = fit(RestartOptimizer(at), Saved(), max_epochs=2)
    resumed = fit(RestartOptimizer(at), max_epochs=2, checkpoint=tmp_path / "half.ckpt")
    assert resumed == whole[8:] and (0 in resumed) == (at > 0.5)


def test_each_training_by_the_same_callback_restarts_and_so_does_one_that_becomes_longer(tmp_path):
    class Saved(L.Callback):
        def on_train_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "whole.ckpt")

    restart = RestartOptimizer(0.5)
    whole = fit(restart, Saved())
    assert fit(restart) == whole == [0, 1, 2, 3, 0, 1, 2, 3]
    # At a quarter of the longer training, the switch is before `at` again.
    longer = fit(RestartOptimizer(0.5), max_epochs=4, checkpoint=tmp_path / "whole.ckpt")
    assert [step for step, past in enumerate(longer, start=8) if past == 0] == [16]


def test_a_training_without_an_end_is_refused():
    with pytest.raises(ValueError, match="^restart_optimizer: the number of steps is not known"):
        fit(RestartOptimizer(), max_epochs=-1)
    with pytest.raises(ValueError, match="^Switch: at=1.5 came"):
        Switch(0.0, 1.0, at=1.5)
