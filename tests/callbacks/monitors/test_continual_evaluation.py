"""Continual evaluation in a trainer: its accuracies, its worst case, processes, and going on."""

import pytest
import torch

from lightning_losses.callbacks.monitors.continual_evaluation import ContinualEvaluation
from lightning_losses.diagnostics.continual_accuracy import stability_gap, windowed_forgetting, worst_case_accuracy
from tests.callbacks.training import PerProcess, Tiny, batches, network, train, trainer


class Called(Tiny):
    def forward(self, inputs):
        return self.network(inputs)


def tasks():
    return batches()[:2]


def current(trainer):
    return trainer.global_step // 3


def monitor(**options):
    return ContinualEvaluation(tasks(), current, window=3, every_n_steps=1, **options)


def test_it_evaluates_every_task_before_each_step(tmp_path):
    watching = monitor(folder=tmp_path)
    trainer(tmp_path, [watching]).fit(Called(), PerProcess(batches()))
    module = network()
    for number, (inputs, target) in enumerate(tasks()):
        accuracy = (module(inputs).argmax(-1) == target).double().mean().item()
        assert watching.values[f"accuracy/{number}"][0] == accuracy
    table = torch.tensor([watching.values["accuracy/0"], watching.values["accuracy/1"]], dtype=torch.float64).T
    minima, worst = worst_case_accuracy(table, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert watching.values["minimum"] == minima.tolist() and watching.values["worst_case"] == worst.tolist()
    assert watching.values["stability_gap"] == stability_gap(table, torch.tensor([0, 0, 0, 1, 1, 1])).tolist()
    assert watching.values["forgetting"][2] == windowed_forgetting(table[:3, 0], 3)
    both = [windowed_forgetting(table[:, number], 3) for number in (0, 1)]
    assert watching.values["forgetting"][-1] == sum(both) / 2
    assert (tmp_path / "continual.png").stat().st_size > 10_000


def test_it_disturbs_nothing_and_goes_on(tmp_path):
    def fit(callbacks, epochs=2, ckpt_path=None):
        module, fitter = Called(), trainer(tmp_path, callbacks, max_epochs=epochs)
        fitter.fit(module, PerProcess(batches()[:3]), ckpt_path=ckpt_path)
        return fitter, module

    whole, resumed = monitor(), monitor()
    (_, module), (_, alone) = fit([whole]), fit([])
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), alone.parameters(), strict=True))
    fitter, _ = fit([monitor()], epochs=1)
    fitter.save_checkpoint(tmp_path / "half.ckpt")
    fit([resumed], ckpt_path=tmp_path / "half.ckpt")
    assert resumed.state_dict() == whole.state_dict()


@pytest.mark.distributed
def test_processes_count_together(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.callbacks.training.Tiny", Called)

    def keep():
        class Keep(ContinualEvaluation):
            def on_fit_end(self, trainer, module):
                torch.save(self.values, tmp_path / f"values{trainer.global_rank}.pt")

        return [Keep(tasks(), current, every_n_steps=1)]

    train(tmp_path, keep)
    alone = torch.load(tmp_path / "values0.pt")
    train(tmp_path, keep, strategy="ddp")
    for rank in (0, 1):
        for name, values in torch.load(tmp_path / f"values{rank}.pt").items():
            assert values == pytest.approx(alone[name])


def test_a_task_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="current task is 2"):
        watching = ContinualEvaluation(tasks(), lambda trainer: 2)
        trainer(tmp_path, [watching]).fit(Called(), PerProcess(batches()))
    with pytest.raises(ValueError, match="no tasks"):
        ContinualEvaluation([], current)


def test_inputs_come_in_the_precision_of_the_run(tmp_path):
    watching = monitor()
    trainer(tmp_path, [watching], precision="64-true").fit(Called(), PerProcess(batches(1)))
    assert 0 <= watching.values["accuracy/0"][0] <= 1
