"""What a calibrator is fitted to and evaluated on are the samples that have a target, and so is what is told."""

import pytest
import torch

from lightning_losses.calibrators import TemperatureScaling
from lightning_losses.experiments.kinds.calibration import calibrate
from lightning_losses.experiments.kinds.logits_file import Labelled
from lightning_losses.experiments.kinds.logits_source import Split

GENERATOR = torch.Generator().manual_seed(0)
LOGITS, TARGET = 3 * torch.randn(60, 3, generator=GENERATOR), torch.randint(3, (60,), generator=GENERATOR)


@pytest.mark.parametrize("ignored", [-100, 255])
def test_rows_without_a_target_are_neither_fitted_nor_counted(ignored):
    target = TARGET.clone()
    target[::3] = ignored
    kept = target != ignored
    whole = Split(Labelled(LOGITS[:30], target[:30]), Labelled(LOGITS[30:], target[30:]), "rows")
    fewer = Split(*(Labelled(part.logits[part.target != ignored], part.target[part.target != ignored]) for part in
                    whole[:2]), "rows")  # fmt: skip
    options = {"num_bins": 3, "resamples": 3}
    found, wanted = (calibrate(TemperatureScaling(ignore_index=ignored), split, **options) for split in (whole, fewer))
    assert found.note == wanted.note and found.note.startswith("Fitted on 20 samples, evaluated on 20;")
    assert found.page("").numbers == wanted.page("").numbers and int(kept.sum()) == 40
    nothing = whole._replace(test=Labelled(LOGITS[:2], torch.tensor([ignored, ignored])))
    with pytest.raises(ValueError, match="^calibrate: 2 rows came, none with a target but"):
        calibrate(TemperatureScaling(ignore_index=ignored), nothing)
