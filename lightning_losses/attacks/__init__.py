"""Attacks on a network's inputs, for evaluation and for training."""

from lightning_losses.attacks.attack import Attack as Attack
from lightning_losses.attacks.attacking import attacking as attacking
from lightning_losses.attacks.cw_l2 import CWL2 as CWL2
from lightning_losses.attacks.fgsm import FGSM as FGSM
from lightning_losses.attacks.pgd import PGD as PGD
from lightning_losses.attacks.pma import PMA as PMA
from lightning_losses.numerics.row_generator import RowGenerator as RowGenerator
