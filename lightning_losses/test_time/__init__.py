"""Adaptation at test time: a network goes on learning from the unlabelled batches that it is tested on.

`Adaptation` is the engine, for any network; `lightning_losses.callbacks.TestTimeAdaptation` puts it into a Trainer.
"""

from lightning_losses.test_time.adaptation import Adaptation, TestTimeMethod
from lightning_losses.test_time.deyo import DeYO
from lightning_losses.test_time.eata import EATA
from lightning_losses.test_time.plpd import occluded, permuted_pixels, plpd, shuffled_patches
from lightning_losses.test_time.robust_mean_teacher import RobustMeanTeacher
from lightning_losses.test_time.sar import SAR
from lightning_losses.test_time.tent import Tent

__all__ = [
    "EATA",
    "SAR",
    "Adaptation",
    "DeYO",
    "RobustMeanTeacher",
    "Tent",
    "TestTimeMethod",
    "occluded",
    "permuted_pixels",
    "plpd",
    "shuffled_patches",
]
