"""AdaFocal, its exponents and the callback that renews them."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_losses import chunked_head
from lightning_losses.callbacks.calibration.evaluation_logits import EvaluationLogits
from lightning_losses.callbacks.companions.adafocal_bins import AdaFocalBins
from lightning_losses.data.image_data import ImageDataset
from lightning_losses.losses import AdaFocal, CrossEntropy, Focal
from lightning_losses.losses.confidence.adafocal import next_gammas
from lightning_losses.modules import Classifier
from lightning_losses.objective import Objective
from tests.losses.confidence.cases import sample


def test_exponents_stay_in_their_range():
    gammas = torch.tensor([19.0, -1.9], dtype=torch.float64)
    assert next_gammas(gammas, torch.tensor([1.0, -1.0], dtype=torch.float64)).tolist() == [20.0, -2.0]


def test_before_any_validation_it_is_focal_loss():
    logits, target = sample()
    torch.testing.assert_close(AdaFocal(gamma=2.0).double()(logits, target), Focal(gamma=2.0)(logits, target))


@pytest.mark.parametrize("impl", ["auto", "chunked", "autograd"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_fused_head_has_each_row_s_own_exponent_at_the_price_of_cross_entropy(impl, reduction, monkeypatch):
    loss = AdaFocal(num_bins=4, reduction=reduction).double()
    loss.renew(torch.rand(100, dtype=torch.float64), torch.randint(2, (100,)).double())
    # As after some epochs: also an inverse focal loss.
    loss.gammas.copy_(torch.tensor([-1.5, 0.5, 2.0, 7.0]))
    hidden, weight = (torch.randn(rows, 5, dtype=torch.float64).requires_grad_() for rows in (40, 6))
    target = torch.randint(6, (40,))
    dense = loss(hidden @ weight.t(), target)
    if impl != "autograd":
        # Which other losses are evaluated by.
        monkeypatch.setattr("lightning_losses.kernels.chunked_head.head_loss", None)
    found = chunked_head(loss, hidden, weight, target, impl=impl)
    torch.testing.assert_close(found, dense)
    slopes = [torch.autograd.grad(value.square().sum(), (hidden, weight)) for value in (found, dense)]
    torch.testing.assert_close(*slopes)


def test_bins_have_equal_mass_and_each_moves_by_its_own_gap():
    loss = AdaFocal(num_bins=4).double()
    confidence = torch.rand(100, dtype=torch.float64)
    correct = (torch.rand(100, dtype=torch.float64) < 0.5).double()
    loss.renew(confidence, correct)
    order = confidence.argsort().reshape(4, 25)
    gap = (confidence - correct)[order].mean(dim=1)
    torch.testing.assert_close(loss.gammas, gap.exp())
    torch.testing.assert_close(loss.edges, confidence[order[:-1, -1]])


@pytest.mark.parametrize("module", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("validation", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [torch.float32, torch.float64])
def test_what_closes_a_bin_is_in_it_in_every_precision(module, validation, training):
    logits = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(training)
    log_p = logits.log_softmax(-1).amax(dim=-1)
    loss = AdaFocal(num_bins=40, reduction="none").to(module)
    # A bin for each sample, and an exponent.
    loss.renew(log_p.exp().to(validation), torch.zeros(40))
    loss.gammas.copy_(torch.linspace(0.5, 4.0, 40))
    gamma = loss.gammas.to(training)[log_p.argsort().argsort()]
    expected = -((-torch.expm1(log_p)) ** gamma) * log_p
    torch.testing.assert_close(loss(logits, logits.argmax(dim=-1)), expected)


def test_a_module_of_half_precision_does_not_narrow_bins():
    loss = AdaFocal(num_bins=3)
    loss.renew(torch.tensor([0.4001, 0.6001, 0.8001]), torch.ones(3))
    narrowed = AdaFocal(num_bins=3).bfloat16()
    narrowed.load_state_dict(loss.bfloat16().state_dict())
    assert narrowed.edges.tolist() == pytest.approx([0.4001, 0.6001], abs=1e-7)
    torch.testing.assert_close(narrowed.gammas, loss.gammas, rtol=0, atol=0)


def test_validation_is_gathered_in_its_own_precision():
    collected = EvaluationLogits("AdaFocalBins")
    for dtype, wide in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        outputs = {"logits": torch.zeros(2, 3, dtype=dtype), "target": torch.zeros(2, dtype=torch.int64)}
        collected.add(L.LightningModule(), outputs)
        assert collected.gather(None, None)[0].logits.dtype == wide


def test_order_of_samples_does_not_matter():
    confidence, correct = torch.rand(37, dtype=torch.float64), (torch.rand(37) < 0.5).double()
    losses = AdaFocal(num_bins=5).double(), AdaFocal(num_bins=5).double()
    losses[0].renew(confidence, correct)
    order = torch.randperm(37)
    losses[1].renew(confidence[order], correct[order])
    torch.testing.assert_close(losses[0].gammas, losses[1].gammas)


@pytest.mark.parametrize("samples", [1, 3])
def test_fewer_samples_than_bins_and_ties_leave_empty_bins_as_they_are(samples):
    loss = AdaFocal(num_bins=6)
    loss.renew(torch.full((samples,), 0.75), torch.ones(samples))
    # One bin has everything, the others nothing.
    assert sorted(loss.gammas.tolist())[1:] == [1.0] * 5
    assert loss.gammas.min().item() == pytest.approx(torch.tensor(-0.25).exp().item())
    assert bool(torch.isfinite(loss(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))))


def test_underconfident_bins_end_in_inverse_focal_loss_which_raises_confidence_more():
    loss = AdaFocal(num_bins=1)
    for _ in range(10):
        loss.renew(torch.tensor([0.5, 0.6]), torch.ones(2))
    assert loss.gammas.item() < 0
    logits = torch.tensor([[0.5, 0.0]], requires_grad=True)
    pull = [torch.autograd.grad(f(logits, torch.tensor([0])), logits)[0][0, 0] for f in (loss, CrossEntropy())]
    assert pull[0] < pull[1] < 0


def test_edges_renewed_in_inference_mode_can_be_loaded_into():
    loss, fresh = AdaFocal(num_bins=3), AdaFocal(num_bins=3)
    with torch.inference_mode():
        loss.renew(torch.rand(10), torch.ones(10))
    loss.load_state_dict(fresh.state_dict())
    assert torch.equal(loss.edges, fresh.edges) and torch.equal(loss.gammas, fresh.gammas)


@pytest.mark.parametrize(
    "options", [{"gamma": 0}, {"num_bins": 0}, {"rate": 0}, {"switch": 0}, {"least": 1.0}, {"most": 0.1}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"adafocal: {next(iter(options))}="):
        AdaFocal(**options)


@pytest.mark.parametrize(("confidence", "correct"), [((0,), (0,)), ((3,), (2,)), ((2, 2), (2, 2))])
def test_validation_data_that_do_not_fit_are_refused(confidence, correct):
    with pytest.raises(ValueError, match="adafocal: confidence of shape"):
        AdaFocal().renew(torch.rand(confidence), torch.ones(correct))


@pytest.mark.parametrize(("confidence", "correct"), [(torch.nan, 1.0), (7.0, 1.0), (-0.5, 0.0), (0.5, torch.nan)])
def test_numbers_that_are_no_probabilities_are_refused(confidence, correct):
    loss = AdaFocal()
    with pytest.raises(ValueError, match=r"adafocal: (confidence|correct) holds .*; give numbers in \[0, 1\]"):
        loss.renew(torch.tensor([0.5, confidence]), torch.tensor([1.0, correct]))
    assert bool((loss.gammas == 1).all())


# ---- the callback


class Plain(L.LightningDataModule):
    def _loader(self):
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(40, 4, generator=generator)
        return DataLoader(ImageDataset(inputs, (inputs[:, 0] > 0).long()), batch_size=16, collate_fn=dict)

    train_dataloader = val_dataloader = _loader


def module(loss):
    return Classifier(nn.Linear(4, 2), Objective({"loss": loss}), num_classes=2)


def trainer(folder, *callbacks, epochs=2, **options):
    return L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        **{"num_sanity_val_steps": 1, **options},
    )


def test_the_callback_renews_from_all_of_the_validation_data(tmp_path):
    classifier = module(AdaFocal(num_bins=3))
    fit = trainer(tmp_path, AdaFocalBins(), epochs=1)
    fit.fit(classifier, Plain())
    expected = AdaFocal(num_bins=3)
    data = Plain().train_dataloader().dataset.__getitems__(list(range(40)))
    confidence, prediction = classifier(data["inputs"]).detach().softmax(-1).max(-1)
    expected.renew(confidence, (prediction == data["target"]).float())
    found = next(child for child in classifier.modules() if isinstance(child, AdaFocal))
    # Batches of another size may round otherwise.
    torch.testing.assert_close(found.gammas, expected.gammas, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.edges, expected.edges, rtol=1e-5, atol=1e-6)
    assert float(fit.callback_metrics["val/adafocal/gamma_max"]) == pytest.approx(found.gammas.max().item())
    before = found.gammas.clone()
    fit.validate(classifier, Plain(), verbose=False)
    assert torch.equal(found.gammas, before)


def test_a_resumed_run_has_the_exponents_of_an_uninterrupted_one(tmp_path):
    torch.manual_seed(1)
    whole = module(AdaFocal(num_bins=3))
    start = {name: value.clone() for name, value in whole.state_dict().items()}
    trainer(tmp_path / "whole", AdaFocalBins(), epochs=3).fit(whole, Plain())
    half = module(AdaFocal(num_bins=3))
    half.load_state_dict(start)
    first = trainer(tmp_path / "half", AdaFocalBins(), epochs=1)
    first.fit(half, Plain())
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed = module(AdaFocal(num_bins=3))
    trainer(tmp_path / "half", AdaFocalBins(), epochs=3).fit(resumed, Plain(), ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)


def test_a_module_without_the_loss_and_a_fit_without_validation_are_refused(tmp_path):
    with pytest.raises(ValueError, match="AdaFocalBins: Classifier has no AdaFocal"):
        trainer(tmp_path, AdaFocalBins()).fit(module(CrossEntropy()), Plain())
    with pytest.raises(ValueError, match="AdaFocalBins: the trainer has no validation data"):
        trainer(tmp_path, AdaFocalBins(), limit_val_batches=0).fit(module(AdaFocal()), Plain())
