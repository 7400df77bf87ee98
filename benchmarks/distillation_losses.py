"""The distillation objectives' cost, forward and backward, over that of their formula in plain torch operations.

    python benchmarks/distillation_losses.py
    python benchmarks/distillation_losses.py --rows 256 --rounds 5

CPU time on one thread, the two interleaved in one process; each pair is checked to give the same value first. The
second table is SinKD's transport over the log-domain unrolled form: time, peak memory in a fresh process, and the
largest differences of value and gradient. The third is a sweep of five students with their teacher cached, or live.

Not measured are uskd, adaptive_kl, adaptive_alpha_divergence, fitnet_hint, mtard_balance and tgeo_kd.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from measure import conditions, console, interleave, memory_in_fresh_process, peak_extra_bytes, ratios, show
from torch import Tensor

from lightning_losses import losses
from lightning_losses.cache_teacher import cache_teacher, load_cached_teacher
from lightning_losses.data.image_data import ImageDataset
from lightning_losses.networks import SmallCNN
from lightning_losses.transport import row_column_normalization

CLASSES, DIM, TEACHER_DIM = 100, 128, 256
REPEATS = 5
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
    hot = F.one_hot(y, CLASSES)
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


def plain_class_relation(z: Tensor, t: Tensor) -> Tensor:
    gate = torch.logsumexp(log_softmax(z, 0.4)[:, : CLASSES // 2], dim=1).exp()
    known = t[:, : CLASSES // 2]
    each = -((known / 0.4).softmax(dim=1) * log_softmax(z[:, : CLASSES // 2], 0.4)).sum(dim=1)
    return 16 * (gate / gate.mean() * each).mean()


def pairs(rows: int) -> dict[str, tuple[Step, Step]]:
    """Each objective and its formula, as steps on the same tensors."""
    torch.manual_seed(0)
    z, t = 2 * torch.randn(rows, CLASSES), 2 * torch.randn(rows, CLASSES)
    y, aux = torch.randint(0, CLASSES, (rows,)), 2 * torch.randn(rows, CLASSES)
    few = min(rows, 64)
    f, g = torch.randn(few, DIM), torch.randn(few, DIM)
    maps, teacher_maps = torch.randn(few, 32, 8, 8), torch.randn(few, 64, 8, 8)
    answers = torch.rand(rows, CLASSES)
    means = torch.randn(CLASSES, DIM)
    nd = losses.NDLoss(CLASSES).set_class_means(means)
    crd = losses.CRD(feature_dim=DIM, teacher_dim=DIM)
    mi = losses.MIAlpha(alpha=0.5, feature_dim=DIM, teacher_dim=DIM)

    def plain_nd(f: Tensor) -> Tensor:
        e = F.normalize(means, dim=1)[y[:few]]
        return (1 - (f * e).sum(dim=1) / torch.maximum(f.norm(dim=1), g.norm(dim=1))).mean()

    def plain_crd(f: Tensor) -> Tensor:
        a, b = F.normalize(crd.student_embedding(f), dim=1), F.normalize(crd.teacher_embedding(g), dim=1)
        scores, own = a @ b.mT / 0.07, torch.arange(few)
        return F.cross_entropy(scores, own) + F.cross_entropy(scores.mT, own)

    def plain_mi(f: Tensor) -> Tensor:
        teacher = mi.teacher_embedding(g)
        scores = mi.student_embedding(f) @ teacher[:, :-1].mT / mi.embedding_dim**0.5
        log_mean = torch.logsumexp(scores, dim=0) - torch.tensor(few).log()
        log_n = mixture(log_mean, teacher[:, -1], 0.5)
        return (scores - log_n).exp().mean() - (scores.diagonal() - log_n).mean() - 1

    def plain_jeffreys(z: Tensor) -> Tensor:
        log_s, log_t = log_softmax(z), log_softmax(t)
        return 0.1 * kl(log_t, log_s) + 0.9 * kl(log_s, log_t)

    def plain_mcmi(z: Tensor) -> Tensor:
        log_p = log_softmax(z)
        centroid = torch.full((CLASSES, CLASSES), 1 / CLASSES).log()[y]
        return -(log_p.exp() * (log_p - centroid)).sum(dim=1).mean()

    def plain_pskd(z: Tensor) -> Tensor:
        hot = F.one_hot(y, CLASSES)
        return -((0.6 * hot + 0.4 * past) * log_softmax(z)).sum(dim=1).mean()

    past = aux.softmax(dim=1)
    formulas: dict[str, tuple[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
        "kd": (z, lambda z: losses.kd_loss(z, t), lambda z: 16 * kl(log_softmax(t, 4), log_softmax(z, 4))),
        "dkd": (z, lambda z: losses.dkd_loss(z, t, y), lambda z: plain_dkd(z, t, y)),
        "nkd": (z, lambda z: losses.nkd_loss(z, t, y), lambda z: plain_nkd(z, t, y)),
        "logit_std_kd": (
            z,
            lambda z: losses.logit_std_kd_loss(z, t, temperature=2.0),
            lambda z: plain_standardized(z, t),
        ),
        "forward_kl": (z, lambda z: losses.forward_kl_loss(z, t), lambda z: kl(log_softmax(t), log_softmax(z))),
        "reverse_kl": (z, lambda z: losses.reverse_kl_loss(z, t), lambda z: kl(log_softmax(z), log_softmax(t))),
        "symmetric_kl": (z, lambda z: losses.symmetric_kl_loss(z, t, reverse_weight=0.9), plain_jeffreys),
        "generalized_jsd": (
            z,
            lambda z: losses.generalized_jsd_loss(z, t, beta=0.5, temperature=0.9),
            lambda z: plain_jsd(z, t),
        ),
        "skew_kl": (
            z,
            lambda z: losses.skew_kl_loss(z, t, skew=0.1),
            lambda z: kl(log_softmax(t), mixture(log_softmax(t), log_softmax(z), 0.1)),
        ),
        "skew_rkl": (
            z,
            lambda z: losses.skew_rkl_loss(z, t, skew=0.1),
            lambda z: kl(log_softmax(z), mixture(log_softmax(z), log_softmax(t), 0.1)),
        ),
        "total_variation": (
            z,
            lambda z: losses.total_variation_loss(z, t),
            lambda z: 0.5 * (z.softmax(dim=1) - t.softmax(dim=1)).abs().sum(dim=1).mean(),
        ),
        "ofa_kd": (z, lambda z: losses.ofa_kd_loss(z, t, y, gamma=1.5), lambda z: plain_ofa(z, t, y)),
        "binary_kl": (
            z,
            lambda z: losses.binary_kl_loss(z, t, temperature=2.0),
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
            lambda z: losses.binary_kl_norm_loss(z, t, temperature=2.0),
            lambda z: 4 * (F.softplus((z - t) / 2) - (z - t) / 4 - torch.tensor(2.0).log()).sum() / rows,
        ),
        "kl_top": (z, lambda z: losses.kl_top_loss(z, t, k=10, temperature=1.0), lambda z: plain_top(z, t)),
        "deit_distill": (
            z,
            lambda z: losses.deit_distill_loss(z, t, y, kind="soft", alpha=0.5, temperature=1.0),
            lambda z: (
                0.5 * F.cross_entropy(z, y)
                + 0.5 * F.kl_div(log_softmax(z), log_softmax(t), reduction="sum", log_target=True) / z.numel()
            ),
        ),
        "gpg": (
            z,
            lambda z: losses.gpg_loss(z, t, y),
            lambda z: 0.5 * kl(log_softmax(t), log_softmax(z)) + 0.5 * F.cross_entropy(z, y),
        ),
        "mcmi": (
            z,
            lambda z: losses.mcmi_loss(z, y, torch.full((CLASSES, CLASSES), 1 / CLASSES)),
            plain_mcmi,
        ),
        "pskd": (z, lambda z: losses.pskd_loss(z, y, past, 0.5, alpha=0.8), plain_pskd),
        "bdkd": (z, lambda z: losses.bdkd_loss(z, t), lambda z: plain_bdkd(z, t)),
        "ab_divergence": (z, lambda z: losses.ab_divergence_loss(z, t), lambda z: plain_ab(z, t)),
        "self_distill_gt": (
            z,
            lambda z: losses.self_distill_gt_loss(z, t, y),
            lambda z: (
                0.5 * F.mse_loss(z.softmax(dim=1), F.one_hot(y, CLASSES).float())
                + 0.5 * F.mse_loss(z.softmax(dim=1), t.softmax(dim=1))
            ),
        ),
        "multi_aspect_kd": (
            z,
            lambda z: losses.multi_aspect_kd_loss(z, answers),
            lambda z: F.binary_cross_entropy_with_logits(z, answers),
        ),
        "class_relation_kd": (
            z,
            lambda z: losses.class_relation_kd_loss(z, t[:, : CLASSES // 2]),
            lambda z: plain_class_relation(z, t),
        ),
        "sinkd": (z[:256], lambda z: losses.sinkd_loss(z, t[:256]), lambda z: plain_sinkd(z, t[:256])),
        "attention_transfer": (
            maps,
            lambda m: losses.attention_transfer_loss(m, teacher_maps),
            lambda m: plain_attention(m, teacher_maps),
        ),
        "rkd": (f, lambda f: losses.rkd_loss(f, g), lambda f: plain_rkd(f, g)),
        "cka": (f, lambda f: losses.cka_loss(f, g), lambda f: plain_cka(f, g)),
        "similarity_preserving": (
            f,
            lambda f: losses.similarity_preserving_loss(f, g),
            lambda f: plain_similarity(f, g),
        ),
        "nd_loss": (f, lambda f: nd(f, g, y[:few]), plain_nd),
        "crd": (f, lambda f: crd(f, g), plain_crd),
        "mi_alpha": (f, lambda f: mi(f, g), plain_mi),
    }
    found = {}
    for name, (tensor, ours, formula) in formulas.items():
        value, expected = ours(tensor).item(), formula(tensor).item()
        if abs(value - expected) > 1e-3 * abs(expected) + 1e-5:
            raise AssertionError(f"{name} is {value}, its formula {expected}")
        found[name] = step(ours, tensor), step(formula, tensor)
    return found


def step(loss: Callable[[Tensor], Tensor], tensor: Tensor) -> Step:
    leaf = tensor.clone().requires_grad_()

    def run() -> Tensor:
        for _ in range(REPEATS):
            (slope,) = torch.autograd.grad(loss(leaf), leaf)
        return slope

    return run


def transport(kind: str, rows: int) -> tuple[Tensor, Tensor]:
    """SinKD's transport, forward and backward: its value and its gradient by the cost."""
    torch.manual_seed(0)
    first, second = ((3 * torch.randn(rows, CLASSES)).softmax(dim=1) for _ in range(2))
    cost = torch.cdist(first, second, p=1.0).requires_grad_()
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
                    losses.kd_loss(student(batch["inputs"]), teacher_logits).backward()
                    optimizer.step()


def memory(kind: str, rows: int) -> float:
    transport(kind, 8)
    kept: list[Tensor] = []
    extra = peak_extra_bytes(lambda: kept.append(transport(kind, rows)[1]), [])
    return extra / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024, help="samples of the losses on logits")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", nargs=2, metavar=("KIND", "ROWS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print(json.dumps(memory(options.memory[0], int(options.memory[1]))))
        return
    console.print(conditions())
    rows = []
    for name, (ours, formula) in pairs(options.rows).items():
        times = interleave({"ours": ours, "formula": formula}, options.rounds, 1, name)
        milliseconds = 1000 * sorted(times["formula"])[len(times["formula"]) // 2] / REPEATS
        rows.append([name, f"{milliseconds:.3f}", str(ratios(times, "formula")["ours"])])
    show(
        f"CPU time over the formula's, {options.rows} x {CLASSES} logits, or 64 features",
        ["objective", "formula, ms", "ratio: median [least..most]"],
        rows,
    )
    rows = []
    for size in (256, 1024):
        times = interleave(
            {kind: partial(transport, kind, size) for kind in ("ours", "unrolled")},
            options.rounds,
            1,
            f"transport of {size}",
        )
        used = [
            memory_in_fresh_process(__file__, "--memory", kind, size) or float("nan") for kind in ("ours", "unrolled")
        ]
        (value, slope), (other, other_slope) = transport("ours", size), transport("unrolled", size)
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
    compare_sweeps(min(options.rounds, 3))


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
