"""The distillation objectives' cost, forward and backward, over that of their formula in plain torch operations.

    python benchmarks/distillation_losses.py
    python benchmarks/distillation_losses.py --rounds 5 --only kd dkd

CPU time on one thread, with loss and formula interleaved in one process; first each pair is checked to have the same
value and gradient. The second table compares SinKD's transport with its unrolled log-domain form, forward from a
given cost to the plan, and backward from ``<plan, cost>``: time, peak memory in a fresh process, and the largest
differences of value and gradient. The third table is a sweep of five students, with their teacher cached or live.

The formulas have no masks and no checks; the ratios include those of the losses. With ignored rows or masked classes a
loss costs more, as a formula that handles them would.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Collection
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from measure import conditions, console, interleave, memory_in_fresh_process, peak_extra_bytes, ratios, show
from torch import Tensor, nn

from lightning_losses import losses
from lightning_losses.data.image_data import ImageDataset
from lightning_losses.losses.base import Loss
from lightning_losses.losses.distillation.logits.tgeo_kd import TGeoKD
from lightning_losses.networks import SmallCNN
from lightning_losses.teachers import load_cached_teacher
from lightning_losses.teachers.cache_teacher import cache_teacher
from lightning_losses.transport import row_column_normalization

# Rows and classes of the losses on logits: CIFAR-100's, and ImageNet's.
SIZES = ((1024, 100), (256, 1000))
FEATURES, DIM, TEACHER_DIM = 256, 512, 1024
# The formula's milliseconds in one measurement, from which follows how often a step is repeated.
MEASURED = 20.0
Step = Callable[[], Tensor]


def log_softmax(z: Tensor, temperature: float = 1.0) -> Tensor:
    return F.log_softmax(z / temperature, dim=-1)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def mixture(log_p: Tensor, log_q: Tensor, weight: float) -> Tensor:
    weights = torch.tensor([weight, 1 - weight]).log()
    return torch.logaddexp(log_p + weights[0], log_q + weights[1])


def others(z: Tensor, y: Tensor) -> Tensor:
    return z.scatter(-1, y.unsqueeze(-1), -torch.inf)


def plain_dkd(z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    log_s, log_t = log_softmax(z, 4), log_softmax(t, 4)
    s_y, t_y = (x.gather(1, y.unsqueeze(1)) for x in (log_s, log_t))
    rest = [torch.logsumexp(others(x, y), dim=1, keepdim=True) for x in (log_s, log_t)]
    target = kl(torch.cat([t_y, rest[1]], dim=1), torch.cat([s_y, rest[0]], dim=1))
    hat_s, hat_t = log_softmax(others(z, y), 4), log_softmax(others(t, y), 4)
    ratio = (hat_t - hat_s).scatter(1, y.unsqueeze(1), 0.0)
    return 16 * (target + 8 * (hat_t.exp() * ratio).sum(dim=1).mean())


def plain_nkd(z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    s_y = log_softmax(z).gather(1, y.unsqueeze(1))
    t_y = t.softmax(dim=1).gather(1, y.unsqueeze(1))
    hat_s, hat_t = log_softmax(others(z, y)), log_softmax(others(t, y))
    return -(t_y * s_y).mean() - 1.5 * (hat_t.exp() * hat_s.scatter(1, y.unsqueeze(1), 0.0)).sum(dim=1).mean()


def plain_jsd(z: Tensor, t: Tensor) -> Tensor:
    log_s, log_t = log_softmax(z, 0.9), log_softmax(t, 0.9)
    log_m = mixture(log_t, log_s, 0.5)
    return 0.5 * kl(log_t, log_m) + 0.5 * kl(log_s, log_m)


def plain_standardized(z: Tensor, t: Tensor) -> Tensor:
    z, t = ((x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, keepdim=True) + 1e-7) for x in (z, t))
    return 4 * kl(log_softmax(t, 2), log_softmax(z, 2))


def plain_ofa(z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    hot = F.one_hot(y, z.shape[1])
    return -(((t.softmax(dim=1) + hot) ** 1.5 - hot) * log_softmax(z)).sum(dim=1).mean()


def plain_top(z: Tensor, t: Tensor) -> Tensor:
    value, index = t.topk(10, dim=1)
    return kl(log_softmax(value), log_softmax(z.gather(1, index)))


def plain_rkd(f: Tensor, g: Tensor) -> Tensor:
    distances = [torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") for x in (f, g)]
    d, e = (x / (x.sum() / (x > 0).sum()) for x in distances)
    a, b = (F.normalize(x.unsqueeze(0) - x.unsqueeze(1), dim=-1) for x in (f, g))
    return 25 * F.smooth_l1_loss(d, e) + 50 * F.smooth_l1_loss(a @ a.mT, b @ b.mT)


def plain_cka(f: Tensor, g: Tensor) -> Tensor:
    x, y = f - f.mean(dim=0), g - g.mean(dim=0)
    first, second = x @ x.mT, y @ y.mT
    return 1 - (first * second).sum() / (first.norm() * second.norm())


def plain_similarity(f: Tensor, g: Tensor) -> Tensor:
    return F.mse_loss(F.normalize(f @ f.mT, dim=1), F.normalize(g @ g.mT, dim=1))


def plain_attention(f: Tensor, g: Tensor) -> Tensor:
    return F.mse_loss(*(F.normalize(x.square().mean(dim=1).flatten(1), dim=1) for x in (f, g)))


def plain_sinkd(z: Tensor, t: Tensor) -> Tensor:
    cost = torch.cdist((z / 2).softmax(dim=1), (t / 2).softmax(dim=1), p=1.0)
    return 0.001 * (unrolled(cost) * cost).sum()


def unrolled(cost: Tensor) -> Tensor:
    """Twenty normalisations of rows, then columns, in the log domain, for autograd to go back through."""
    scores = -cost / 0.1
    for _ in range(20):
        scores = scores - torch.logsumexp(scores, dim=1, keepdim=True)
        scores = scores - torch.logsumexp(scores, dim=0, keepdim=True)
    return scores.exp()


def plain_bdkd(z: Tensor, t: Tensor) -> Tensor:
    log_s, log_t = log_softmax(z, 4), log_softmax(t, 4)
    s, p = log_s.exp(), log_t.exp()
    with torch.no_grad():
        sure = (s * log_s).sum(dim=1) > (p * log_t).sum(dim=1)
        forward, reverse = torch.where(sure, 2.0, 1.0), torch.where(sure, 1.0, 2.0)
    difference = log_t - log_s
    return 16 * (forward * (p * difference).sum(dim=1) - reverse * (s * difference).sum(dim=1)).mean()


def plain_ab(z: Tensor, t: Tensor) -> Tensor:
    log_s, log_t, total = log_softmax(z), log_softmax(t), 0.2 + 0.7
    product = (0.2 * log_t + 0.7 * log_s).exp()
    either = 0.2 / total * (total * log_t).exp() + 0.7 / total * (total * log_s).exp()
    return -(product - either).sum(dim=1).mean() / (0.2 * 0.7)


def plain_class_relation(z: Tensor, known: Tensor) -> Tensor:
    gate = torch.logsumexp(log_softmax(z, 0.4)[:, : known.shape[1]], dim=1).exp()
    each = -((known / 0.4).softmax(dim=1) * log_softmax(z[:, : known.shape[1]], 0.4)).sum(dim=1)
    return 16 * (gate / gate.mean() * each).mean()


def plain_adaptive(z: Tensor, t: Tensor) -> Tensor:
    log_s, log_t = log_softmax(z), log_softmax(t)
    s, p = log_s.exp(), log_t.exp()
    with torch.no_grad():
        ordered, order = p.sort(dim=1, descending=True)
        head = (ordered.cumsum(dim=1) <= 0.5).index_fill(1, torch.tensor([0]), True)
        gap = (ordered - s.gather(1, order)).abs()
        weight = (gap * head).sum(dim=1) / gap.sum(dim=1)
    difference = log_t - log_s
    return (weight * (p * difference).sum(dim=1) - (1 - weight) * (s * difference).sum(dim=1)).mean()


def plain_alpha(z: Tensor, t: Tensor) -> Tensor:
    """The values of the two divergences, and beside them what has their gradients."""
    log_s, log_t = log_softmax(z), log_softmax(t)
    with torch.no_grad():
        s, p, log_ratio = log_s.exp(), log_t.exp(), log_t - log_s
        power = (-log_ratio).exp().clamp(max=5.0)
        low, high = s * (power - 1) / 2, p * log_ratio
        low_weight, larger = s * (0.5 - power), low.sum(dim=1) > high.sum(dim=1)
    surrogates = -(low_weight * log_s).sum(dim=1), -(p * log_s).sum(dim=1)
    surrogate = torch.where(larger, *surrogates)
    return (torch.where(larger, low.sum(dim=1), high.sum(dim=1)) + surrogate - surrogate.detach()).mean()


def fed(loss: Loss, *others: Any) -> Callable[[Tensor], Tensor]:
    """A loss, built once, as a function of the tensor that is trained."""
    return lambda trained: loss(trained, *others)


def plain_uskd(z: Tensor, weak: Tensor, y: Tensor) -> Tensor:
    log_s, log_w = log_softmax(z), log_softmax(weak)
    column, hot = y.unsqueeze(1), F.one_hot(y, z.shape[1])
    s_y = log_s.gather(1, column)
    with torch.no_grad():
        square = s_y.exp().square()
        weight, w = square + 1 - square.mean(), log_w.exp()
        score = w / (1 - w.gather(1, column) + 1e-6) + log_s / (1 - s_y + 1e-6)
        ranks = torch.arange(1, z.shape[1] + 1).expand_as(z)
        zipf = torch.zeros_like(z).scatter(1, score.argsort(dim=1, descending=True), 1 / ranks).scatter(1, column, 0.0)
        zipf = zipf / zipf.sum(dim=1, keepdim=True)
    own = -(zipf * log_softmax(others(z, y)).scatter(1, column, 0.0)).sum(dim=1)
    weak_term = -((0.9 * hot + 0.1 / z.shape[1]) * log_w).sum(dim=1)
    return (-(weight * s_y).squeeze(1) + 0.1 * own + 0.005 * weak_term).mean()


def plain_mtard(z: Tensor, t: Tensor) -> Tensor:
    p = t.softmax(dim=1)
    return (p * ((p + 1e-5).log() - log_softmax(z))).mean() + 0 * (p * (p + 1e-5).log()).mean()


def plain_clipped(z: Tensor, t: Tensor) -> Tensor:
    """The upper half of the teacher's classes."""
    places = t.argsort(dim=1).argsort(dim=1) / (t.shape[1] - 1)
    outside = places < 0.5
    z, t = (x.masked_fill(outside, -torch.inf) for x in (z, t))
    log_s, log_t = log_softmax(z), log_softmax(t)
    return (log_t.exp() * (log_t - log_s).masked_fill(outside, 0.0)).sum(dim=1).mean()


def plain_span(z: Tensor, t: Tensor) -> Tensor:
    s, p = log_softmax(z).exp(), log_softmax(t).exp()
    return (s[:-1] * s[1:] - p[:-1] * p[1:]).square().mean()


def pairs(rows: int, classes: int, only: Collection[str] = ()) -> dict[str, tuple[Step, Step]]:
    """Each objective and its formula, as steps on the same tensors."""
    torch.manual_seed(0)
    z, t = 2 * torch.randn(rows, classes), 2 * torch.randn(rows, classes)
    y, aux = torch.randint(0, classes, (rows,)), 2 * torch.randn(rows, classes)
    few = min(rows, FEATURES)
    f, g = torch.randn(few, DIM), torch.randn(few, DIM)
    wide = torch.randn(few, TEACHER_DIM)
    maps, teacher_maps = torch.randn(few, 32, 8, 8), torch.randn(few, 64, 8, 8)
    answers, ratio = torch.rand(rows, classes), torch.rand(rows)
    centroids = torch.rand(classes, classes).softmax(dim=1)
    halves = [list(range(classes // 2)), list(range(classes // 2, classes))]
    means = torch.randn(classes, DIM)
    nd = losses.NDLoss(classes).set_class_means(means)
    uskd = losses.USKD(classes)
    crd = losses.CRD(feature_dim=DIM, teacher_dim=TEACHER_DIM)
    mcmi, mtard = losses.MCMI(classes), losses.MTARDBalance(num_teachers=1).eval()
    mcmi.centroids.copy_(centroids)
    mi = losses.MIAlpha(alpha=0.5, feature_dim=DIM, teacher_dim=TEACHER_DIM)

    def plain_nd(f: Tensor) -> Tensor:
        e = F.normalize(means, dim=1)[y[:few]]
        return (1 - (f * e).sum(dim=1) / torch.maximum(f.norm(dim=1), g.norm(dim=1))).mean()

    def plain_crd(f: Tensor) -> Tensor:
        a, b = F.normalize(crd.student_embedding(f), dim=1), F.normalize(crd.teacher_embedding(wide), dim=1)
        scores, own = a @ b.mT / 0.07, torch.arange(few)
        return F.cross_entropy(scores, own) + F.cross_entropy(scores.mT, own)

    def plain_mi(f: Tensor) -> Tensor:
        teacher = mi.teacher_embedding(wide)
        scores = mi.student_embedding(f) @ teacher[:, :-1].mT / mi.embedding_dim**0.5
        log_mean = torch.logsumexp(scores, dim=0) - torch.tensor(few).log()
        log_n = mixture(log_mean, teacher[:, -1], 0.5)
        return (scores - log_n).exp().mean() - (scores.diagonal() - log_n).mean() - 1

    def plain_jeffreys(z: Tensor) -> Tensor:
        log_s, log_t = log_softmax(z), log_softmax(t)
        return 0.1 * kl(log_t, log_s) + 0.9 * kl(log_s, log_t)

    def plain_mcmi(z: Tensor) -> Tensor:
        log_p = log_softmax(z)
        centroid = centroids[y].log()
        return -(log_p.exp() * (log_p - centroid)).sum(dim=1).mean()

    def plain_pskd(z: Tensor) -> Tensor:
        hot = F.one_hot(y, classes)
        return -((0.6 * hot + 0.4 * past) * log_softmax(z)).sum(dim=1).mean()

    past = aux.softmax(dim=1)
    formulas: dict[str, tuple[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
        "kd": (z, fed(losses.KD(), t), lambda z: 16 * kl(log_softmax(t, 4), log_softmax(z, 4))),
        "dkd": (z, fed(losses.DKD(), t, y), lambda z: plain_dkd(z, t, y)),
        "nkd": (z, fed(losses.NKD(), t, y), lambda z: plain_nkd(z, t, y)),
        "logit_std_kd": (
            z,
            fed(losses.LogitStdKD(temperature=2.0), t),
            lambda z: plain_standardized(z, t),
        ),
        "forward_kl": (z, fed(losses.ForwardKL(), t), lambda z: kl(log_softmax(t), log_softmax(z))),
        "reverse_kl": (z, fed(losses.ReverseKL(), t), lambda z: kl(log_softmax(z), log_softmax(t))),
        "symmetric_kl": (z, fed(losses.SymmetricKL(reverse_weight=0.9), t), plain_jeffreys),
        "generalized_jsd": (
            z,
            fed(losses.GeneralizedJSD(beta=0.5, temperature=0.9), t),
            lambda z: plain_jsd(z, t),
        ),
        "skew_kl": (
            z,
            fed(losses.SkewKL(skew=0.1), t),
            lambda z: kl(log_softmax(t), mixture(log_softmax(t), log_softmax(z), 0.1)),
        ),
        "skew_rkl": (
            z,
            fed(losses.SkewRKL(skew=0.1), t),
            lambda z: kl(log_softmax(z), mixture(log_softmax(z), log_softmax(t), 0.1)),
        ),
        "total_variation": (
            z,
            fed(losses.TotalVariation(), t),
            lambda z: 0.5 * (z.softmax(dim=1) - t.softmax(dim=1)).abs().sum(dim=1).mean(),
        ),
        "ofa_kd": (z, fed(losses.OFAKD(gamma=1.5), t, y), lambda z: plain_ofa(z, t, y)),
        "binary_kl": (
            z,
            fed(losses.BinaryKL(temperature=2.0), t),
            lambda z: (
                4
                * (
                    F.binary_cross_entropy_with_logits(z / 2, (t / 2).sigmoid(), reduction="sum")
                    - F.binary_cross_entropy_with_logits(t / 2, (t / 2).sigmoid(), reduction="sum")
                )
                / rows
            ),
        ),
        "binary_kl_norm": (
            z,
            fed(losses.BinaryKLNorm(temperature=2.0), t),
            lambda z: 4 * (F.softplus((z - t) / 2) - (z - t) / 4 - torch.tensor(2.0).log()).sum() / rows,
        ),
        "kl_top": (z, fed(losses.KLTop(k=10, temperature=1.0), t), lambda z: plain_top(z, t)),
        "deit_distill": (
            z,
            fed(losses.DeiTDistill(kind="soft", alpha=0.5, temperature=1.0), t, y),
            lambda z: (
                0.5 * F.cross_entropy(z, y)
                + 0.5 * F.kl_div(log_softmax(z), log_softmax(t), reduction="sum", log_target=True) / z.numel()
            ),
        ),
        "gpg": (
            z,
            fed(losses.GPG(), t, y),
            lambda z: 0.5 * kl(log_softmax(t), log_softmax(z)) + 0.5 * F.cross_entropy(z, y),
        ),
        "mcmi": (
            z,
            lambda z: mcmi(z, y),
            plain_mcmi,
        ),
        "pskd": (z, fed(losses.PSKD(alpha=0.8), y, past, 0.5), plain_pskd),
        "bdkd": (z, fed(losses.BDKD(), t), lambda z: plain_bdkd(z, t)),
        "ab_divergence": (z, fed(losses.ABDivergence(), t), lambda z: plain_ab(z, t)),
        "self_distill_gt": (
            z,
            fed(losses.SelfDistillGT(), t, y),
            lambda z: (
                0.5 * F.mse_loss(z.softmax(dim=1), F.one_hot(y, classes).float())
                + 0.5 * F.mse_loss(z.softmax(dim=1), t.softmax(dim=1))
            ),
        ),
        "multi_aspect_kd": (
            z,
            fed(losses.MultiAspectKD(), answers),
            lambda z: F.binary_cross_entropy_with_logits(z, answers),
        ),
        "class_relation_kd": (
            z,
            fed(losses.ClassRelationKD(), t[:, : classes // 2]),
            lambda z: plain_class_relation(z, t[:, : classes // 2]),
        ),
        "sinkd": (z[:256], fed(losses.SinKD(), t[:256]), lambda z: plain_sinkd(z, t[:256])),
        "attention_transfer": (
            maps,
            fed(losses.AttentionTransfer(), teacher_maps),
            lambda m: plain_attention(m, teacher_maps),
        ),
        # Its formula makes a [rows, rows, dimensions] tensor.
        "rkd": (f[:64, :128], fed(losses.RKD(), g[:64, :128]), lambda f: plain_rkd(f, g[:64, :128])),
        "cka": (f, fed(losses.CKA(), g), lambda f: plain_cka(f, g)),
        "similarity_preserving": (
            f,
            fed(losses.SimilarityPreserving(), g),
            lambda f: plain_similarity(f, g),
        ),
        "nd_loss": (f, lambda f: nd(f, g, y[:few]), plain_nd),
        "crd": (f, lambda f: crd(f, wide), plain_crd),
        "fitnet_hint": (
            maps,
            fed(losses.FitNetHint(nn.Identity()), teacher_maps[:, :32]),
            lambda m: F.mse_loss(m, teacher_maps[:, :32]),
        ),
        "adaptive_kl": (z, fed(losses.AdaptiveKL(), t), lambda z: plain_adaptive(z, t)),
        "adaptive_alpha_divergence": (
            z,
            fed(losses.AdaptiveAlphaDivergence(), t),
            lambda z: plain_alpha(z, t),
        ),
        "uskd": (z, lambda z: uskd.with_weak_logits(z, aux, y), lambda z: plain_uskd(z, aux, y)),
        "mtard_balance": (z, lambda z: mtard(z, t), lambda z: plain_mtard(z, t)),
        "tgeo_kd": (
            z,
            lambda z: TGeoKD()(z, t, y, ratio),
            lambda z: (
                ratio
                * 2.25
                * F.kl_div(log_softmax(z, 1.5), log_softmax(t, 1.5), reduction="none", log_target=True).sum(dim=1)
                + (1 - ratio) * F.cross_entropy(z, y, reduction="none")
            ).mean(),
        ),
        "dac_kl": (
            z,
            fed(losses.DACKL(classes, bounds=(0.5, 1.0)), t),
            lambda z: plain_clipped(z, t),
        ),
        "group_kd": (
            z,
            fed(losses.GroupKD(groups=halves), t),
            lambda z: sum((0.5 * kl(log_softmax(t[:, h]), log_softmax(z[:, h])) for h in halves), torch.zeros(())),
        ),
        "span_correlation": (z, fed(losses.SpanCorrelation(), t), lambda z: plain_span(z, t)),
        "mi_alpha": (f, lambda f: mi(f, wide), plain_mi),
    }
    found = {}
    for name, (tensor, ours, formula) in formulas.items():
        if only and name not in only:
            continue
        value, expected = ours(tensor).item(), formula(tensor).item()
        if abs(value - expected) > 1e-3 * abs(expected) + 1e-5:
            raise AssertionError(f"{name} is {value}, its formula {expected}")
        found[name] = step(ours, tensor), step(formula, tensor)
        slope, expected_slope = (run() for run in found[name])
        if (slope - expected_slope).norm() > 1e-3 * expected_slope.norm():
            raise AssertionError(f"the gradient of {name} is not its formula's")
    return found


def step(loss: Callable[[Tensor], Tensor], tensor: Tensor) -> Step:
    leaf = tensor.clone().requires_grad_()
    return lambda: torch.autograd.grad(loss(leaf), leaf)[0]


def repeated(step: Step, repeats: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(repeats):
            step()

    return run


def repeats_of(step: Step) -> int:
    step()
    start = time.process_time()
    step()
    return max(math.ceil(MEASURED / 1000 / (time.process_time() - start)), 1)


def transport_cost(rows: int) -> Tensor:
    """SinKD's distances of student's and teacher's rows."""
    torch.manual_seed(0)
    first, second = ((3 * torch.randn(rows, 100)).softmax(dim=1) for _ in range(2))
    return torch.cdist(first, second, p=1.0)


def transport(kind: str, cost: Tensor) -> tuple[Tensor, Tensor]:
    """SinKD's transport, forward and backward: its value and its gradient by the cost."""
    cost = cost.detach().requires_grad_()
    ours = kind == "ours"
    plan = row_column_normalization(cost, epsilon=0.1, n_iters=20, cost_bound=2.0) if ours else unrolled(cost)
    value = (plan * cost).sum()
    return value.detach(), torch.autograd.grad(value, cost)[0]


def sweep(cached: bool, samples: int = 512, epochs: int = 3, students: int = 5) -> None:
    """Distil into several students, with the teacher live or evaluated once into a cache, which is then made anew."""
    torch.manual_seed(0)
    inputs, target = torch.randn(samples, 1, 16, 16), torch.randint(0, 10, (samples,))
    teacher = SmallCNN(num_classes=10, width=32, depth=2).eval()
    data = ImageDataset(inputs, target)
    with TemporaryDirectory() as folder:
        kept = load_cached_teacher(cache_teacher(teacher, data, folder)) if cached else None
        for _ in range(students):
            student = SmallCNN(num_classes=10, width=8)
            optimizer = torch.optim.SGD(student.parameters(), 0.1)
            for _ in range(epochs):
                for rows in torch.randperm(samples).split(64):
                    batch = data.__getitems__(rows.tolist())
                    with torch.no_grad():
                        teacher_logits = teacher(batch["inputs"]) if kept is None else kept(batch["index"])
                    optimizer.zero_grad()
                    losses.KD()(student(batch["inputs"]), teacher_logits).backward()
                    optimizer.step()


def memory(kind: str, rows: int) -> float:
    transport(kind, transport_cost(8))
    kept: list[Tensor] = []
    cost = transport_cost(rows)
    extra = peak_extra_bytes(lambda: kept.append(transport(kind, cost)[1]), [])
    return extra / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", default=(), metavar="OBJECTIVE", help="measure these alone")
    parser.add_argument("--memory", nargs=2, metavar=("KIND", "ROWS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print(json.dumps(memory(options.memory[0], int(options.memory[1]))))
        return
    console.print(conditions())
    compare_objectives(options.rounds, options.only)
    if not options.only:
        compare_transports(options.rounds)
        compare_sweeps(min(options.rounds, 3))


def compare_objectives(rounds: int, only: Collection[str]) -> None:
    cells: dict[str, list[str]] = {}
    above = set()
    for rows, classes in SIZES:
        for name, (ours, formula) in pairs(rows, classes, only).items():
            repeats = repeats_of(formula)
            steps = {"ours": repeated(ours, repeats), "formula": repeated(formula, repeats)}
            times = interleave(steps, rounds, 1, name)
            milliseconds = 1000 * sorted(times["formula"])[len(times["formula"]) // 2] / repeats
            ratio = ratios(times, "formula")["ours"]
            cells.setdefault(name, []).extend([f"{milliseconds:.3f}", str(ratio)])
            if ratio.median > 1.5:
                above.add(name)
    headings = [f"{rows} x {classes}: {what}" for rows, classes in SIZES for what in ("formula, ms", "ratio")]
    show(
        f"CPU time over the formula's, forward and backward; of {FEATURES} features of {DIM} where these come in",
        ["objective", *headings],
        [[name, *row] for name, row in cells.items()],
    )
    console.print(f"above 1.5: {', '.join(sorted(above)) or 'none'} of {len(cells)}")


def compare_transports(rounds: int) -> None:
    rows = []
    for size in (256, 1024):
        cost = transport_cost(size)
        times = interleave(
            {kind: partial(transport, kind, cost) for kind in ("ours", "unrolled")}, rounds, 1, f"transport of {size}"
        )
        used = [
            memory_in_fresh_process(__file__, "--memory", kind, size) or float("nan") for kind in ("ours", "unrolled")
        ]
        (value, slope), (other, other_slope) = transport("ours", cost), transport("unrolled", cost)
        rows.append(
            [
                str(size),
                str(ratios(times, "unrolled")["ours"]),
                f"{used[0]:.1f} / {used[1]:.1f} MB = {used[0] / used[1]:.2f}",
                f"{abs(value / other - 1).item():.0e}",
                f"{((slope - other_slope).abs().max() / other_slope.abs().max()).item():.0e}",
            ]
        )
    show(
        "SinKD's transport over the unrolled log-domain form",
        ["rows", "time", "memory", "value differs by", "gradient differs by"],
        rows,
    )


def compare_sweeps(rounds: int) -> None:
    times = interleave({"cached": lambda: sweep(True), "live": lambda: sweep(False)}, rounds, 1, "five students")
    seconds = {kind: sorted(values)[len(values) // 2] for kind, values in times.items()}
    show(
        "Five students of one teacher, 3 epochs of 512 images each; making the cache is counted",
        ["live, s", "cached, s", "cached over live"],
        [[f"{seconds['live']:.2f}", f"{seconds['cached']:.2f}", str(ratios(times, "live")["cached"])]],
    )


if __name__ == "__main__":
    main()
