import numpy as np
import pytest
import torch

from lightning_losses.data import CorruptedMNIST1D, CorruptedMNIST5k
from lightning_losses.data.corruptions import IMAGE_CORRUPTIONS, SIGNAL_CORRUPTIONS, Corruption, corrupted
from lightning_losses.data.corruptions.images import motion_blur
from lightning_losses.data.image_data import Images

IMAGES = torch.rand(6, 2, 12, 12, generator=torch.Generator().manual_seed(0))
SIGNALS = torch.randn(6, 1, 40, generator=torch.Generator().manual_seed(0))
EVERY = [(kind, IMAGES) for kind in IMAGE_CORRUPTIONS] + [(kind, SIGNALS) for kind in SIGNAL_CORRUPTIONS]


@pytest.mark.parametrize(("kind", "samples"), EVERY)
def test_a_sample_is_changed_by_its_seed_and_position_alone(kind, samples):
    whole = corrupted(samples, kind, 3, seed=1)
    torch.manual_seed(5)
    assert torch.equal(corrupted(samples[[4, 1]], kind, 3, seed=1, index=[4, 1]), whole[[4, 1]])
    assert whole.shape == samples.shape and whole.dtype == samples.dtype and whole.isfinite().all()
    if samples.ndim == 4:
        assert whole.min() >= 0 and whole.max() <= 1
    assert corrupted(samples.double(), kind, 3, seed=1).dtype == torch.float64
    assert corrupted(samples[:0], kind).shape == samples[:0].shape


@pytest.mark.parametrize(("kind", "samples"), EVERY)
def test_samples_on_another_device_stay_there(kind, samples):
    of_kind = (IMAGE_CORRUPTIONS if samples.ndim == 4 else SIGNAL_CORRUPTIONS)[kind]
    changed = of_kind.apply(samples[0].to("meta"), of_kind.strengths[0], torch.Generator())
    assert changed.is_meta and changed.shape == samples[0].shape


@pytest.mark.parametrize(("kind", "samples"), EVERY)
def test_higher_severities_change_more(kind, samples):
    # A blur of noise soon leaves nothing to blur: these are smooth as digits and shapes are.
    if samples.ndim == 4:
        samples = torch.nn.functional.avg_pool2d(samples, 5, 1, 2)
    else:
        samples = torch.linspace(0, 6, 40).sin().expand(6, 1, 40)
    moved = [(corrupted(samples, kind, severity) - samples).abs().mean().item() for severity in range(1, 6)]
    assert moved[0] > 0 and moved == sorted(moved)


def test_strengths_are_as_they_are_said():
    image = torch.full((1, 40, 40), 0.5)
    generator = torch.Generator().manual_seed(0)
    assert Corruption("gaussian_noise", 1)(image, generator).std().item() == pytest.approx(0.1, rel=0.1)
    share = (Corruption("impulse_noise", 5)(image, generator) != 0.5).float().mean().item()
    assert share == pytest.approx(0.4, abs=0.05)
    # What only averages leaves a constant image, and the sum of a dot, as they are.
    for kind in ("gaussian_blur", "motion_blur", "pixelation", "contrast"):
        torch.testing.assert_close(Corruption(kind, 5)(image, generator), image)
    dot = torch.zeros(1, 41, 41)
    dot[0, 20, 20] = 1.0
    streak = motion_blur(dot, 9, generator)
    assert streak.sum().item() == pytest.approx(1.0, abs=1e-6) and 6 < (streak > 0).sum() <= 9
    assert torch.equal(Corruption("shift", 5)(SIGNALS[0], generator).sort().values, SIGNALS[0].sort().values)


@pytest.mark.parametrize(
    ("kind", "sample", "message"),
    [
        ("fog", SIGNALS[0], "signals; give one of gaussian_noise"),
        ("shift", IMAGES[0], "images; give one of gaussian_noise"),
        ("fog", IMAGES[0] - 0.5, r"give values in \[0, 1\]"),
        ("fog", IMAGES[0] * torch.nan, r"give values in \[0, 1\]"),
        ("shift", SIGNALS[0] / 0, "give finite values"),
        ("fog", IMAGES, "give an image"),
        ("fog", (IMAGES[0] * 255).byte(), "floating-point"),
    ],
)
def test_what_can_not_be_corrupted_is_refused(kind, sample, message):
    with pytest.raises(ValueError, match=message):
        Corruption(kind)(sample, torch.Generator())


def test_unknown_kinds_and_severities_are_refused():
    for settings in ({"kind": "snow"}, {"kind": "fog", "severity": 6}):
        with pytest.raises(ValueError, match="corruption: .* came"):
            Corruption(**settings)
    with pytest.raises(ValueError, match="corrupted_mnist5k: corruptions=.* give a list of"):
        CorruptedMNIST5k(corruptions=["shift"])


def test_a_stream_is_the_test_split_under_one_corruption_after_another(tmp_path):
    from lightning_losses.data import MNIST5k

    clean = MNIST5k(folder=tmp_path, test_fraction=0.02)
    data = CorruptedMNIST5k(folder=tmp_path, test_fraction=0.02, corruptions=["contrast", "fog"], stream_batch_size=40)
    for each in (clean, data):
        each.prepare_data()
        each.setup()
    assert torch.equal(data.train.inputs, clean.train.inputs) and torch.equal(data.val.inputs, clean.val.inputs)
    batches = list(data.test_dataloader())
    domain = torch.cat([batch["domain"] for batch in batches])
    assert domain.tolist() == [0] * 100 + [1] * 100 and len(batches) == 5
    target = torch.cat([batch["target"] for batch in batches])
    for part in target.chunk(2):
        assert torch.equal(part.sort().values, clean.test.target.sort().values)
    # Severity 5 of contrast leaves a tenth of the distance from each image's mean.
    raw = data.test.inputs[:100] * data.input_deviation + data.input_mean
    before = clean.test.inputs * clean.input_deviation + clean.input_mean
    torch.testing.assert_close(raw.std(dim=(1, 2, 3)).sort().values, 0.1 * before.std(dim=(1, 2, 3)).sort().values)


def test_a_stream_of_signals(monkeypatch):
    random = np.random.RandomState(0)
    signals = Images(random.standard_normal((100, 1, 40)).astype(np.float32), np.arange(100) % 10)
    monkeypatch.setattr(CorruptedMNIST1D, "read", lambda self: signals)
    data = CorruptedMNIST1D(rows=40, val_rows=20, test_rows=40, severity=2)
    data.setup()
    assert data.corruptions == list(SIGNAL_CORRUPTIONS)
    assert torch.bincount(data.test.domain).tolist() == [40] * 8
    # What is only shifted has the values of some signal of the data.
    shifted = data.test.inputs[data.test.domain == data.corruptions.index("shift")]
    raw = (shifted * data.input_deviation + data.input_mean).float().sort().values
    known = torch.from_numpy(signals.pixels).sort().values
    apart = (raw.flatten(1).unsqueeze(1) - known.flatten(1)).abs().amax(dim=2)
    assert apart.min(dim=1).values.max() < 1e-5


def test_each_sample_has_a_position():
    with pytest.raises(ValueError, match="1 positions came with 2 samples"):
        corrupted(torch.rand(2, 1, 8, 8), "fog", index=[0])
