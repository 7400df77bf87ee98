import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lightning_losses.callbacks.calibration.calibration_monitor import CalibrationMonitor
from lightning_losses.callbacks.calibration.evaluation_logits import EvaluationLogits
from lightning_losses.metrics import calibration_summary
from tests.callbacks.calibrated import Data, Overconfident, data, on_processes, trainer

# Lightning's advice on loaders and samplers, and its own use of a name that torch has renamed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*it is recommended to use `devices=1`.*"),
    pytest.mark.filterwarnings("ignore:.*DistributedSampler.*"),
]


def expected(module):
    inputs, target = data("val")
    with torch.no_grad():
        return calibration_summary(module.eval().network(inputs), target, inputs="logits")


def test_the_metrics_are_those_of_all_validation_samples(tmp_path):
    module, fitter = Overconfident(), trainer(tmp_path, CalibrationMonitor())
    fitter.fit(module, Data())
    for name, value in expected(module).items():
        # Logged in float32.
        assert float(fitter.callback_metrics[f"val/calibration/{name}"]) == pytest.approx(float(value), rel=1e-6)


def test_there_is_no_extra_forward_pass(tmp_path):
    counts = []
    for callbacks in ([], [CalibrationMonitor()]):
        module = Overconfident()
        trainer(tmp_path, *callbacks).fit(module, Data())
        counts.append(module.forwards)
    assert counts[0] == counts[1]


def test_diagrams_go_beside_the_loggers_files_or_into_a_folder(tmp_path):
    logger = CSVLogger(tmp_path, name="logs", version=0)
    trainer(tmp_path, CalibrationMonitor(), logger=logger).fit(Overconfident(), Data())
    drawn = sorted((tmp_path / "logs" / "version_0" / "figures" / "val" / "calibration").glob("*.png"))
    assert [path.name for path in drawn] == ["epoch_0.png", "epoch_1.png"]
    assert "val/calibration/ece" in (tmp_path / "logs" / "version_0" / "metrics.csv").read_text()
    trainer(tmp_path, CalibrationMonitor(every_n_epochs=2, folder=tmp_path / "own")).fit(Overconfident(), Data())
    assert [path.name for path in (tmp_path / "own").rglob("*.png")] == ["epoch_0.png"]
    trainer(tmp_path, CalibrationMonitor(every_n_epochs=0, folder=tmp_path / "none")).fit(Overconfident(), Data())
    assert not (tmp_path / "none").exists()


ONES = torch.ones(16, dtype=torch.long)


@pytest.mark.parametrize(
    ("outputs", "options", "message"),
    [
        (
            None,
            {},
            "validation_step returned no 'logits' and 'target'; return {\"logits\": logits, \"target\": target}.",
        ),
        ({"logits": torch.zeros(16), "target": ONES}, {}, r"logits of shape \[16\]"),
        ({"logits": torch.zeros(16, 2, 2), "target": ONES}, {}, r"logits of shape \[16, 2, 2\]"),
        ({"logits": ONES, "target": ONES}, {}, "types torch.int64 and torch.int64"),
        ({}, {"limit_val_batches": 0}, "the trainer has no validation data"),
    ],
)
def test_what_it_can_not_measure_is_refused_before_the_first_step(tmp_path, outputs, options, message):
    class Returning(Overconfident):
        def validation_step(self, batch, batch_idx):
            return outputs

    fitter = trainer(tmp_path, CalibrationMonitor(), **options)
    with pytest.raises(ValueError, match=f"CalibrationMonitor: .*{message}"):
        fitter.fit(Returning(), Data())
    assert fitter.global_step == 0


def test_what_a_step_writes_over_is_kept():
    collected, module, written = EvaluationLogits("demo"), Overconfident(), torch.empty(2, 3)
    for number in range(3):
        collected.add(module, {"logits": written.fill_(number), "target": torch.tensor([0, 1])})
    assert collected.gather(None, None)[0].logits[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("options", [{"num_bins": 0}, {"every_n_epochs": -1}, {"every_n_epochs": 1.5}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=f"CalibrationMonitor: {next(iter(options))}"):
        CalibrationMonitor(**options)


class Tokens(Overconfident):
    """Two tokens a sample, the second of which may count for nothing."""

    ignore_index = 7

    def validation_step(self, batch, batch_idx):
        logits, target = self(batch[0]), batch[1]
        second = target.masked_fill(batch[0][:, 0] > 0, 7)
        return {"logits": torch.stack([logits, 0.5 * logits], 1), "target": torch.stack([target, second], 1)}


@pytest.mark.distributed
@pytest.mark.parametrize("shared_out", [True, False], ids=["sampler", "whole on each"])
def test_two_processes_log_what_one_does(tmp_path, shared_out):
    def run(strategy):
        fitter = trainer(tmp_path, CalibrationMonitor(), use_distributed_sampler=shared_out, **strategy)
        module = Overconfident()
        fitter.validate(module, Data(), verbose=False)
        metrics = {name: float(value) for name, value in fitter.callback_metrics.items()}
        fitter.validate(Tokens(), Data(), verbose=False)
        metrics |= {f"tokens/{name}": float(value) for name, value in fitter.callback_metrics.items()}
        if fitter.global_rank == 0:
            torch.save(metrics, tmp_path / "metrics.pt")

    values = []
    for processes in (1, 2):
        on_processes(run, processes)
        values.append(torch.load(tmp_path / "metrics.pt"))
    assert values[1] == pytest.approx(values[0], rel=1e-6)
    # 101 samples on two processes: one is repeated by the sampler, and counts once.
    summary = expected(Overconfident())
    assert values[1]["val/calibration/nll"] == pytest.approx(float(summary["nll"]), rel=1e-6)
