import copy

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_losses import CrossEntropy, Objective
from lightning_losses.callbacks import TestTimeAdaptation
from lightning_losses.modules import Classifier
from lightning_losses.test_time import EATA, Adaptation, RobustMeanTeacher, Tent

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = 2 * torch.randn(60, 6, generator=GENERATOR) + 1
TARGET = torch.randint(4, (60,), generator=GENERATOR)
LOADER = DataLoader(TensorDataset(INPUTS, TARGET), batch_size=20)


class Recorder(L.Callback):
    def __init__(self):
        self.logits, self.inference = [], []

    def on_test_batch_end(self, trainer, module, outputs, *rest):
        self.logits.append(outputs["logits"].clone())
        self.inference.append(torch.is_inference_mode_enabled())

    on_validation_batch_end = on_test_batch_end


class Whole(L.LightningModule):
    def __init__(self, broken=None):
        super().__init__()
        self.layers, self.broken = module().network, broken

    def forward(self, inputs):
        return self.layers(inputs)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        if batch_idx == self.broken:
            raise RuntimeError("broken")
        return {"logits": self(batch[0])}


def module():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    return Classifier(network, Objective({"ce": CrossEntropy()}), num_classes=4)


def trainer(*callbacks, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(callbacks=list(callbacks), enable_checkpointing=False, devices=1, **quiet, **options)


def expected_of(made, method, **settings):
    with Adaptation(made.network, method, **settings):
        return torch.cat([made.network(batch) for batch, _ in LOADER])


@pytest.mark.parametrize("method", [Tent(lr=0.1), EATA(0.9, 1.0, lr=0.1), RobustMeanTeacher(lr=0.1), None])
def test_a_trainer_tests_the_network_as_it_adapts_and_leaves_it_as_it_was(method):
    made = module()
    before = copy.deepcopy(made.state_dict())
    expected, recorder = expected_of(made.eval(), method), Recorder()
    (metrics,) = trainer(TestTimeAdaptation(method), recorder).test(made, LOADER, verbose=False)
    assert recorder.inference == [True] * 3
    torch.testing.assert_close(torch.cat(recorder.logits), expected)
    assert metrics["test/accuracy"] == pytest.approx((expected.argmax(dim=1) == TARGET).float().mean().item())
    assert before.keys() == made.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_stages_loaders_and_validation_within_a_fit():
    made, recorder = module(), Recorder()
    alone = made.eval().network(INPUTS).detach()
    trainer(TestTimeAdaptation(Tent(), stages=["validate"]), recorder).test(made, LOADER, verbose=False)
    torch.testing.assert_close(torch.cat(recorder.logits), alone)
    for each_loader in (True, False):
        recorder = Recorder()
        callback = TestTimeAdaptation(Tent(lr=0.1), network="layers", each_loader=each_loader)
        trainer(callback, recorder).test(Whole(), [LOADER, LOADER], verbose=False)
        first, second = torch.cat(recorder.logits).chunk(2)
        assert torch.equal(first, second) == each_loader
    # Training goes on as if nothing had been validated.
    weights = []
    for callbacks in ([], [TestTimeAdaptation(Tent(lr=0.1), stages=["validate"])]):
        made = module()
        fit = trainer(*callbacks, max_epochs=2, accumulate_grad_batches=2, val_check_interval=1)
        fit.fit(made, LOADER, LOADER)
        weights.append(made.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_module_is_its_own_network_and_an_error_leaves_it_as_it_was():
    made, recorder = Whole(broken=2), Recorder()
    before = copy.deepcopy(made.state_dict())
    with pytest.raises(RuntimeError, match="broken"):
        trainer(TestTimeAdaptation(Tent(lr=0.1), network=""), recorder).test(made, LOADER, verbose=False)
    assert not torch.equal(*recorder.logits) and "forward" not in vars(made)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    with pytest.raises(ValueError, match="Whole has no network named 'network'"):
        trainer(TestTimeAdaptation(Tent())).test(made, LOADER, verbose=False)
    with pytest.raises(ValueError, match=r"stages='test' came; give a list of test, validate, predict"):
        TestTimeAdaptation(Tent(), stages="test")


def test_a_stream_goes_on_from_a_callbacks_state():
    made, states = module(), []

    class Keeper(L.Callback):
        def on_test_batch_end(self, *rest):
            states.append(callback.state_dict())

    callback, whole = TestTimeAdaptation(Tent(lr=0.1)), Recorder()
    trainer(callback, Keeper(), whole).test(made, LOADER, verbose=False)
    again, rest = TestTimeAdaptation(Tent(lr=0.1)), Recorder()
    again.load_state_dict(states[1])
    trainer(again, rest).test(made, DataLoader(TensorDataset(INPUTS[40:], TARGET[40:]), batch_size=20), verbose=False)
    assert torch.equal(rest.logits[0], whole.logits[2])
    assert again.state_dict() == {}


def test_an_average_of_weights_knows_nothing_of_adaptation():
    states = []
    for adapts in (False, True):
        made, average = module(), EMAWeightAveraging(decay=0.5)
        callbacks = [TestTimeAdaptation(Tent(lr=0.5), stages=["validate"]), average] if adapts else [average]
        trainer(*callbacks, max_epochs=2).fit(made, LOADER, LOADER)
        states.append(made.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    behind = trainer(EMAWeightAveraging(), TestTimeAdaptation(Tent(), stages=["validate"]), max_epochs=1)
    with pytest.raises(ValueError, match="it came behind EMAWeightAveraging, which swaps weights"):
        behind.fit(module(), LOADER, LOADER)
