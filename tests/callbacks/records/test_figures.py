import pytest
from lightning.pytorch.loggers import WandbLogger

from lightning_losses.callbacks.calibration.calibration_monitor import CalibrationMonitor
from lightning_losses.callbacks.calibration.post_hoc_calibration import PostHocCalibration
from tests.callbacks.calibrated import Data, Overconfident, trainer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.* is deprecated")
def test_weights_and_biases_gets_pictures_and_tables(tmp_path):
    logger = WandbLogger(save_dir=tmp_path, project="tests", offline=True)
    fitter, module = trainer(tmp_path, CalibrationMonitor(), PostHocCalibration(), logger=logger), Overconfident()
    fitter.fit(module, Data())
    fitter.test(module, Data(), verbose=False)
    summary = dict(logger.experiment.summary)
    logger.experiment.finish()
    assert {
        "val/calibration/reliability",
        "val/calibration/bins",
        "val/calibration/ece",
        "test/calibration/reliability",
        "test/calibration/table",
        "test/calibration/after/ece",
    } <= set(summary)
    pictures = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")]
    assert sum("val/calibration/reliability" in picture for picture in pictures) == 2
