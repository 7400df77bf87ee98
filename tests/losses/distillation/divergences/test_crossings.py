"""Options of the divergences in pairs, against their formulas written out, also where unshifted softmaxes overflow."""

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from lightning_losses import losses as L
from tests.crossings import crossings
from tests.losses.strategies import gradient


def kl(log_p, log_q):
    """A class that both mask adds nothing."""
    return (log_p.exp() * torch.where(log_p == -torch.inf, 0.0, log_p - log_q)).sum(dim=-1)


def mixed(log_p, log_q, weight):
    log_p, log_q = (log.clamp(min=-1e9) for log in (log_p, log_q))
    return torch.logaddexp(log_p + math.log(weight), log_q + math.log1p(-weight))


def jsd(log_s, log_t, beta):
    if beta in (0, 1):
        return kl(log_s, log_t) if beta else kl(log_t, log_s)
    middle = mixed(log_t, log_s, beta)
    return beta * kl(log_t, middle) + (1 - beta) * kl(log_s, middle)


def entropy(log_p):
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(dim=-1)


def bdkd(log_s, log_t, boost, base):
    student, teacher = entropy(log_s.detach()), entropy(log_t)
    forward = torch.where(teacher > student, boost, base)
    reverse = torch.where(student > teacher, boost, base)
    return forward * kl(log_t, log_s) + reverse * kl(log_s, log_t)


# A class, its own options, and its formula from the log-probabilities at the temperature.
FORMULAS = {
    L.ForwardKL: ({}, lambda s, t: kl(t, s)),
    L.ReverseKL: ({}, lambda s, t: kl(s, t)),
    L.KD: ({}, lambda s, t: kl(t, s)),
    L.SymmetricKL: (
        {"reverse_weight": [0.2, 0.9]},
        lambda s, t, reverse_weight: (1 - reverse_weight) * kl(t, s) + reverse_weight * kl(s, t),
    ),
    L.SkewKL: ({"skew": [0.1, 0.7]}, lambda s, t, skew: kl(t, mixed(t, s, skew))),
    L.SkewRKL: ({"skew": [0.1, 0.7]}, lambda s, t, skew: kl(s, mixed(s, t, skew))),
    L.GeneralizedJSD: ({"beta": [0.0, 0.3, 1.0]}, jsd),
    L.TotalVariation: ({}, lambda s, t: (t.exp() - s.exp()).abs().sum(dim=-1) / 2),
    L.BDKD: ({"boost": [2.0, 5.0], "base": [1.0, 0.5]}, bdkd),
}  # fmt: skip
COMMON = {
    "temperature": [1.0, 0.3, 4.0],
    "reduction": ["mean", "sum", "none"],
    "ignore_index": [-100, 2],
    "scale": [1.0, 1e3],
    "masked": [False, True],
    "shape": [(8,), (2, 4)],
}
SQUARED = (L.KD, L.BDKD)
CASES = [
    (loss, setting)
    for loss, (own, _) in FORMULAS.items()
    for setting in crossings(COMMON | own | ({} if loss in SQUARED else {"tau_squared": [False, True]}))
]


def sample(scale, masked, shape, ignore_index, classes=5):
    generator = torch.Generator().manual_seed(6)
    student, teacher = (
        scale * torch.randn(*shape, classes, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    target = torch.randint(classes, shape, generator=generator)
    target.view(-1)[::3] = ignore_index
    if masked:
        student[..., 1], teacher[..., 1] = -torch.inf, -torch.inf
    return student, teacher, target


def reduced(rows, kept, reduction):
    rows = torch.where(kept, rows, 0.0)
    return {"none": rows, "sum": rows.sum(), "mean": rows.sum() / kept.sum()}[reduction]


def named(case):
    loss, setting = case
    return f"{loss.identifier()} {' '.join(map(str, setting.values()))}"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_divergence_in_every_pair_of_options(case):
    loss, setting = case
    setting, own = dict(setting), FORMULAS[loss][0]
    tau, reduction, ignore_index = setting["temperature"], setting["reduction"], setting["ignore_index"]
    student, teacher, target = sample(setting.pop("scale"), setting.pop("masked"), setting.pop("shape"), ignore_index)
    factor = tau**2 if loss in SQUARED or setting["tau_squared"] else 1.0

    def written_out(logits):
        log_s, log_t = (z.div(tau).log_softmax(dim=-1) for z in (logits, teacher))
        rows = FORMULAS[loss][1](log_s, log_t, **{name: setting[name] for name in own})
        return reduced(factor * rows, target != ignore_index, reduction)

    divergence = loss(**setting)
    found, wanted = divergence(student, teacher, target), written_out(student)
    assert bool(torch.isfinite(wanted).all())
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    slope = gradient(lambda logits: divergence(logits, teacher, target).sum(), student)
    expected = gradient(lambda logits: written_out(logits).sum(), student)
    torch.testing.assert_close(slope, expected, rtol=1e-7, atol=1e-9)


LOGITS = {
    "loss": [L.BinaryKL, L.BinaryKLNorm],
    "temperature": [1.0, 0.3, 4.0],
    "reduction": ["mean", "sum", "none"],
    "ignore_index": [-100, 2],
    "scale": [1.0, 1e3],
    "shape": [(8,), (2, 4)],
}


@pytest.mark.parametrize("setting", crossings(LOGITS), ids=lambda setting: " ".join(map(str, setting.values())))
def test_a_divergence_of_single_logits_in_every_pair_of_options(setting):
    setting = dict(setting)
    loss, tau, ignore_index = setting.pop("loss"), setting["temperature"], setting["ignore_index"]
    student, teacher, target = sample(setting.pop("scale"), False, setting.pop("shape"), ignore_index)
    s, t = student / tau, teacher / tau
    if loss is L.BinaryKL:
        yes = t.sigmoid()
        cross, own = (binary_cross_entropy_with_logits(x, yes, reduction="none") for x in (s, t))
        rows = tau**2 * (cross - own).sum(dim=-1)
    else:
        rows = tau**2 * (softplus(s - t) - (s - t) / 2 - torch.tensor(2.0).double().log()).sum(dim=-1)
    wanted = reduced(rows, target != ignore_index, setting["reduction"])
    torch.testing.assert_close(loss(**setting)(student, teacher, target), wanted, rtol=1e-9, atol=1e-9)


TOP = {
    "k": [2, 3, 9],
    "tail_bucket": [False, True],
    "temperature": [1.0, 0.3, 4.0],
    "reduction": ["mean", "sum", "none"],
    "scale": [1.0, 1e3],
    "shape": [(8,), (2, 4)],
}


@pytest.mark.parametrize("setting", crossings(TOP), ids=lambda setting: " ".join(map(str, setting.values())))
def test_the_divergence_of_the_top_classes_in_every_pair_of_options(setting):
    setting = dict(setting)
    student, teacher, target = sample(setting.pop("scale"), False, setting.pop("shape"), -100)
    k, tau = min(setting["k"], student.shape[-1]), setting["temperature"]
    top = teacher.topk(k, dim=-1).indices

    def chosen(logits):
        logits = logits / tau
        inside = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, top, True)
        rest = logits.masked_fill(inside, -torch.inf).logsumexp(dim=-1, keepdim=True)
        parts = [logits.gather(-1, top)] + ([rest] if setting["tail_bucket"] and k < logits.shape[-1] else [])
        return torch.cat(parts, dim=-1).log_softmax(dim=-1)

    wanted = reduced(kl(chosen(teacher), chosen(student)), target != -100, setting["reduction"])
    torch.testing.assert_close(L.KLTop(**setting)(student, teacher, target), wanted, rtol=1e-9, atol=1e-12)
