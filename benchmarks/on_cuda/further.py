"""The heads that are not timed, but compared with float64."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.on_cuda.measurement import Case, Entry
from benchmarks.on_cuda.operands import Forward, Operands, Size
from lightning_losses import EMO, ArcFace, NoiseFiT, SphericalZLoss
from lightning_losses.kernels.linear_emo import linear_emo
from lightning_losses.kernels.linear_margin_loss import linear_margin_loss
from lightning_losses.kernels.linear_noisefit import linear_noisefit
from lightning_losses.kernels.linear_spherical_z_loss import linear_spherical_z_loss
from lightning_losses.kernels.token_record import token_record


def _margin(o: Operands) -> Tensor:
    return linear_margin_loss(ArcFace(), o.hidden, o.weight, o.target)


def _margin_of_cosines(o: Operands) -> Tensor:
    return ArcFace()(F.normalize(o.hidden) @ F.normalize(o.weight).T, o.target)


def _emo(o: Operands) -> Tensor:
    return linear_emo(EMO(), o.hidden, o.weight, o.target)


def _emo_of_logits(o: Operands) -> Tensor:
    return EMO()(o.hidden @ o.weight.T, o.target, o.weight.detach())


def _noisy(o: Operands) -> tuple[Tensor, Tensor]:
    # Other tokens' hidden states stand for noisy ones: to add noise would round.
    return o.hidden.roll(1, dims=0), o.hidden.roll(2, dims=0)


def _noisefit(o: Operands) -> Tensor:
    return linear_noisefit(NoiseFiT(), o.hidden, *_noisy(o), o.weight, o.target)


def _noisefit_of_logits(o: Operands) -> Tensor:
    return NoiseFiT()(*(hidden @ o.weight.T for hidden in (o.hidden, *_noisy(o))), o.target)


def _spherical(o: Operands) -> Tensor:
    return linear_spherical_z_loss(o.hidden, o.weight, o.target)


def _spherical_of_logits(o: Operands) -> Tensor:
    return SphericalZLoss()(o.hidden @ o.weight.T, o.target)


def _record(o: Operands) -> Tensor:
    record = token_record(o.hidden, o.weight, o.target, entropies=True)
    assert record.entropies is not None
    return ((record.logps + 0.1 * record.entropies) * o.upstream).sum()


def _record_of_logits(o: Operands) -> Tensor:
    log_p = (o.hidden @ o.weight.T).log_softmax(dim=1)
    kept = o.target != -100
    logps = log_p.gather(1, o.target.clamp(min=0).unsqueeze(1)).squeeze(1)
    return ((logps - 0.1 * (log_p.exp() * log_p).sum(dim=1)) * kept * o.upstream).sum()


HEADS: dict[str, tuple[str, Callable[[Operands], Tensor], Forward]] = {
    "margin": ("linear_margin_loss, ArcFace", _margin, _margin_of_cosines),
    "EMO": ("linear_emo", _emo, _emo_of_logits),
    "NoiseFiT": ("linear_noisefit", _noisefit, _noisefit_of_logits),
    "spherical z-loss": ("linear_spherical_z_loss", _spherical, _spherical_of_logits),
    "token record": ("token_record, entropies=True", _record, _record_of_logits),
}


def cases(size: Size) -> list[Case]:
    """Each in bfloat16."""
    return [
        Case(f"{name} accuracy", name, size, torch.bfloat16, (Entry(called, forward),), exact)
        for name, (called, forward, exact) in HEADS.items()
    ]
