"""Policies that balance the terms of an objective, one file for each."""

from lightning_losses.balancing.aligned_mtl import AlignedMTL as AlignedMTL
from lightning_losses.balancing.base import Balancing as Balancing
from lightning_losses.balancing.base import GradientBalancing as GradientBalancing
from lightning_losses.balancing.cagrad import CAGrad as CAGrad
from lightning_losses.balancing.dwa import DWA as DWA
from lightning_losses.balancing.gradnorm import GradNorm as GradNorm
from lightning_losses.balancing.imtl_g import IMTLG as IMTLG
from lightning_losses.balancing.imtl_l import IMTLL as IMTLL
from lightning_losses.balancing.mgda import MGDA as MGDA
from lightning_losses.balancing.nash_mtl import NashMTL as NashMTL
from lightning_losses.balancing.pcgrad import PCGrad as PCGrad
from lightning_losses.balancing.relobralo import ReLoBRaLo as ReLoBRaLo
from lightning_losses.balancing.rlw import RLW as RLW
from lightning_losses.balancing.torchjd_weighting import TorchJDWeighting as TorchJDWeighting
from lightning_losses.balancing.uncertainty_weighting import UncertaintyWeighting as UncertaintyWeighting
from lightning_losses.balancing.upgrad import UPGrad as UPGrad
