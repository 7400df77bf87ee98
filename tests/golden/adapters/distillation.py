"""Distillation losses."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_losses.losses import (
    BDKD,
    DKD,
    GPG,
    KD,
    MCMI,
    NKD,
    OFAKD,
    PSKD,
    USKD,
    WDR,
    ABDivergence,
    AdaptiveAlphaDivergence,
    AdaptiveKL,
    AttentionTransfer,
    BinaryKL,
    BinaryKLNorm,
    ClassRelationKD,
    CrossEntropy,
    DeiTDistill,
    ForwardKL,
    GeneralizedJSD,
    KLTop,
    LogitStdKD,
    MTARDBalance,
    MultiAspectKD,
    NDLoss,
    ReverseKL,
    SinKD,
    SkewKL,
    SkewRKL,
    SymmetricKL,
    TotalVariation,
)
from lightning_losses.losses.base import Loss
from lightning_losses.losses.distillation.divergences.adaptive_alpha_divergence import alpha_divergence
from lightning_losses.losses.distillation.divergences.bdkd import bdkd_weights
from lightning_losses.losses.distillation.logits.dkd import dkd_parts
from lightning_losses.losses.distillation.logits.mcmi import class_centroids, class_sums
from lightning_losses.losses.distillation.logits.sinkd import sinkd_transport
from lightning_losses.losses.distillation.logits.tgeo_kd import tgeo_state
from lightning_losses.losses.distillation.self_taught.pskd import pskd_target
from lightning_losses.numerics.divergences import entropy
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.rows import class_indices
from tests.golden.adapter import Adapter, Params, gradients, leaf

# What a converged case is iterated to; further iterations change nothing at its tolerance.
CONVERGED = 5000

TOKEN_MEAN = ("mean", "mean over non-ignored tokens", "sum / number of non-ignored tokens")


def label(inputs: dict[str, Tensor]) -> Tensor:
    return inputs["target_probs"] if "target_probs" in inputs else inputs["target"]


def kd(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        temperature = given.take("temperature")
        ce_weight, kd_weight = given.take("ce_weight", 0.0), given.take("kd_weight", 1.0)
    student = leaf(inputs["student_logits"])
    loss = kd_weight * KD(temperature=temperature)(student, inputs["teacher_logits"])
    if ce_weight:
        loss = loss + ce_weight * F.cross_entropy(student, inputs["target"])
    return {"loss": loss, **gradients(loss, student=student)}


def dkd(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        temperature, factor = given.take("temperature"), given.take("warmup_factor", 1.0)
        alpha, beta = given.take("alpha"), given.take("beta")
    student = leaf(inputs["student_logits"])
    target = label(inputs)
    loss = factor * DKD(alpha=alpha, beta=beta, temperature=temperature)(student, inputs["teacher_logits"], target)
    parts = dkd_parts(student, inputs["teacher_logits"], class_indices(target), temperature)
    return {
        "loss": loss,
        "tckd": temperature**2 * parts.target_class.mean(),
        "nckd": temperature**2 * parts.non_target_class.mean(),
        **gradients(loss, student=student),
    }


def logit_std_kd(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        temperature, eps = given.take("temperature"), given.take("eps")
        given.choice("std", {"unbiased (C-1)": True})
    student = leaf(inputs["student_logits"])
    loss = LogitStdKD(temperature=temperature, eps=eps)(student, inputs["teacher_logits"])
    return {"loss": loss, **gradients(loss, student=student)}


def nkd(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        temperature, gamma = given.take("temperature"), given.take("gamma")
    student = leaf(inputs["student_logits"])
    loss = NKD(gamma=gamma, temperature=temperature)(student, inputs["teacher_logits"], label(inputs))
    return {"loss": loss, **gradients(loss, student=student)}


def uskd(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        options = {name: given.take(name) for name in ("alpha", "beta", "mu", "rank_mode")}
    student, feature = leaf(inputs["student_logits"]), leaf(inputs["mid_feature"])
    weight, bias = leaf(inputs["fc_weight"]), leaf(inputs["fc_bias"])
    loss = USKD(num_classes=student.shape[-1], **options).with_weak_logits(
        student, F.linear(feature, weight, bias), label(inputs)
    )
    return {"loss": loss, **gradients(loss, student=student, feature=feature, fc_weight=weight, fc_bias=bias)}


def bdkd(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        temperature, boost, base = given.take("temperature"), given.take("boost"), given.take("base")
        entropy_temperature = given.take("entropy_temperature", "same as temperature")
        cross_entropy = given.choice("forward_term", {"cross entropy (no teacher-entropy constant)": True}, False)
        given.choice("reduction", dict.fromkeys(TOKEN_MEAN), None)
    at = temperature if entropy_temperature == "same as temperature" else float(entropy_temperature)
    student, teacher = leaf(inputs["student_logits"]), leaf(inputs["teacher_logits"])
    loss = BDKD(boost=boost, base=base, temperature=temperature, entropy_temperature=at)(
        student, teacher, inputs.get("labels")
    )
    peer = KD(temperature=temperature)(teacher, student, inputs.get("labels"))
    weights = bdkd_weights(
        *(entropy(log_probabilities(logits.detach(), at)) for logits in (student, teacher)), boost=boost, base=base
    )
    value, entropies = loss, {}
    if cross_entropy:  # that code: the forward divergence plus the teacher's entropy, and entropies with an epsilon
        entropies = {
            f"entropy_{name}": -(p * (p + 1e-9).log()).sum(dim=-1)
            for name, p in (("student", student.softmax(dim=-1)), ("teacher", teacher.softmax(dim=-1)))
        }
        constant = temperature**2 * weights.forward * entropy(log_probabilities(teacher.detach(), temperature))
        kept = torch.ones_like(constant, dtype=torch.bool) if "labels" not in inputs else inputs["labels"] != -100
        value = loss + constant[kept].mean()
    return {
        "loss": value,
        "loss_student_distill": loss,
        "loss_teacher_distill": peer,
        "weight_forward": weights.forward,
        "weight_reverse": weights.reverse,
        **entropies,
        **gradients(loss, student=student),
        **gradients(peer, teacher=teacher),
    }


def sinkd(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        options = {name: given.take(name) for name in ("temperature", "epsilon")}
        n_iters = given.take("n_iters")
        scale, mass = given.take("scale"), given.take("mass")
    if isinstance(n_iters, str):
        if not n_iters.startswith("converged"):
            raise ValueError(f"the adapter knows n_iters as a number or 'converged', not {n_iters!r}")
        n_iters = CONVERGED
    student = leaf(inputs["student_logits"])
    loss = SinKD(n_iters=n_iters, scale=scale, mass=mass, **options)(student, inputs["teacher_logits"])
    plan, cost = sinkd_transport(student, inputs["teacher_logits"], n_iters=n_iters, **options)
    return {
        "loss": loss,
        "plan": plan if mass == "batch" else plan / len(plan),
        "cost": cost,
        **gradients(loss, student=student),
    }


def pskd(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        alpha, epochs = given.take("alpha_T"), given.take("total_epochs")
    target = inputs["target"]
    past = F.one_hot(target, inputs["logits"].shape[-1]).to(inputs["logits"])
    trace: dict[str, list[Tensor]] = {"alpha": [], "soft_targets": [], "loss": [], "grad": []}
    for epoch, scores in enumerate(inputs["logits"]):
        logits, progress = leaf(scores), (epoch + 1) / epochs
        loss = PSKD(alpha=alpha)(logits, target, past, progress)
        trace["alpha"].append(torch.tensor(alpha * progress, dtype=scores.dtype))
        trace["soft_targets"].append(pskd_target(target, past, alpha * progress))
        trace["loss"].append(loss)
        trace["grad"].append(torch.autograd.grad(loss, logits)[0])
        past = scores.softmax(dim=-1)
    return {name: torch.stack(values) for name, values in trace.items()}


def divergence(
    inputs: dict[str, Tensor],
    params: dict[str, Any],
    *,
    kind: type[Loss],
    option: tuple[str, str] | None = None,
    released_entropy: Callable[[float], float] = lambda value: 0.0,
) -> dict[str, Tensor]:
    """A divergence per token.

    Args:
        inputs: logits of both networks, and the labels that tell the ignored tokens.
        params: the case's parameters.
        kind: ours.
        option: its own option, by the case's name and by ours.
        released_entropy: how much of the teacher's entropy, a constant, the released value holds on top of ours.
    """
    with Params(params) as given:
        value = given.take(option[0]) if option else 0.0
        temperature, tau_squared = given.take("temperature", 1.0), given.take("tau_squared", False)
        reduction = given.choice(
            "reduction",
            {**dict.fromkeys(TOKEN_MEAN, "mean"), "sum / B (batchmean over dim 0, NOT per token)": "sum"},
            "mean",
        )
    student, teacher, labels = leaf(inputs["student_logits"]), inputs["teacher_logits"], inputs.get("labels")
    options = {option[1]: value} if option else {}
    loss = kind(temperature=temperature, tau_squared=tau_squared, reduction=reduction, **options)(
        student, teacher, labels
    )
    if reduction == "sum":
        loss = loss / len(student)
    constant = entropy(log_probabilities(teacher, temperature))
    constant = constant.mean() if labels is None else constant[labels != -100].mean()
    return {
        "loss": loss,
        "loss_released": loss + released_entropy(value) * constant,
        **gradients(loss, student=student),
    }


def generalized_jsd(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    if "lam" in params:  # DistiLLM's mixture, whose weight is the student's
        params = {**params, "beta": 1 - params["lam"]}
        del params["lam"]
    return divergence(inputs, params, kind=GeneralizedJSD, option=("beta", "beta"))


def plain(
    inputs: dict[str, Tensor],
    params: dict[str, Any],
    *,
    kind: type[Loss],
    options: dict[str, str],
    fixed: dict[str, tuple[Any, ...]] | None = None,
) -> dict[str, Tensor]:
    """A loss of two networks' logits and perhaps of labels.

    Args:
        inputs: the logits and, where there are, labels.
        params: the case's parameters.
        kind: ours.
        options: its options by the case's names.
        fixed: parameters that ours knows by these values alone.
    """
    with Params(params) as given:
        chosen = {ours: given.take(theirs) for theirs, ours in options.items() if theirs in params}
        for name, known in (fixed or {}).items():
            given.choice(name, dict.fromkeys(known), None)
    student, labels = leaf(inputs["student_logits"]), inputs.get("labels", inputs.get("target"))
    loss = kind(**chosen)(student, inputs["teacher_logits"], labels)
    return {"loss": loss, **gradients(loss, student=student)}


def adaptive_alpha(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        low, high, clip = given.take("alpha_min"), given.take("alpha_max"), given.take("iw_clip")
    student = leaf(inputs["student_logits"])
    loss = AdaptiveAlphaDivergence(alpha_min=low, alpha_max=high, clip=clip)(student, inputs["teacher_logits"])
    log_s, log_t = log_probabilities(student), log_probabilities(inputs["teacher_logits"])
    parts = [alpha_divergence(log_s, log_t, alpha, clip) for alpha in (low, high)]
    first, second = (-(part.weights * log_s).sum(dim=-1) for part in parts)
    surrogate = torch.where(parts[0].value > parts[1].value, first, second).mean()
    return {"loss": loss, "surrogate": surrogate, **gradients(loss, student=student)}


def deit(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        options = {name: given.take(name) for name in ("kind", "alpha", "temperature")}
        # The hard kind is a mean over samples whatever the normaliser of the soft one.
        normalizer = given.choice(
            "normaliser", {"N*C (DeiT legacy)": "classes", "mean": "batch", "N": "batch"}, "classes"
        )
    student, second = leaf(inputs["student_logits"]), leaf(inputs["student_logits_kd"])
    loss = DeiTDistill(normalizer=normalizer, **options)(student, inputs["teacher_logits"], inputs["target"], second)
    return {"loss": loss, **gradients(loss, student=student, student_kd=second)}


def attention_transfer(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        options = {name: given.take(name) for name in ("p", "mode")}
        given.choice("resize", {"adaptive average pool the larger one": None}, None)
    student = leaf(inputs["student_feature"])
    loss = AttentionTransfer(**options)(student, inputs["teacher_feature"])
    return {"loss": loss, **gradients(loss, student=student)}


def mcmi(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        weight = given.take("lam")
    logits = leaf(inputs["logits"])
    information = -_mcmi(inputs["centroids"])(logits, inputs["target"])
    ce = CrossEntropy()(logits, inputs["target"])
    loss = ce - weight * information
    return {"ce": ce, "cmi": information, "loss": loss, "grad": gradients(loss, logits=logits)["grad_logits"]}


def _mcmi(centroids: Tensor) -> MCMI:
    loss = MCMI(num_classes=len(centroids)).to(centroids.dtype)
    loss.centroids.copy_(centroids)
    return loss


def cmi_metric(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params):
        logits, target = inputs["logits"], inputs["target"]
    centroids = class_centroids(*class_sums(logits, target), torch.zeros_like(logits[:1]))
    return {"centroids": centroids, "cmi": -_mcmi(centroids)(logits, target)}


def norm_and_direction(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        weight = given.take("weight")
    student = leaf(inputs["student_embedding"])
    means = inputs["class_means"]
    given_means = NDLoss(num_classes=len(means)).to(means).set_class_means(means)
    loss = weight * given_means(student, inputs["teacher_embedding"], inputs["target"])
    return {"loss": loss, **gradients(loss, student=student)}


def multi_aspect(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        classes, alpha, ce_weight = given.take("num_classes"), given.take("alpha"), given.take("ce_weight")
    student = leaf(inputs["student_logits"])
    loss = ce_weight * CrossEntropy()(student[:, :classes], inputs["target"])
    loss = loss + alpha * MultiAspectKD()(student[:, classes:], inputs["aspect_probs"])
    return {"loss": loss, **gradients(loss, student=student)}


def class_relation(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        options = {name: given.take(name) for name in ("temperature", "head_temperature")}
        weight = given.take("alpha")
    logits = leaf(inputs["new_logits"])
    # Over views and heads at once, which share the gate's mean.
    unlabelled = ~inputs["is_labelled"].expand(logits.shape[:-1])
    loss = weight * ClassRelationKD(**options)(logits, inputs["old_logits"].expand(*logits.shape[:-1], -1), unlabelled)
    return {"loss": loss, "grad": gradients(loss, logits=logits)["grad_logits"]}


def weight_distribution(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        targets = {name: given.take(name) for name in ("kurtosis_target", "skewness_target")}
        given.choice("std", {"unbiased (n-1)": None})
    weight = leaf(inputs["weight"])
    kurtosis = WDR(kurtosis_weight=1.0, skewness_weight=0.0, **targets)(weight)
    skewness = WDR(kurtosis_weight=0.0, skewness_weight=1.0, **targets)(weight)
    return {
        "kurtosis_loss": kurtosis,
        "skewness_loss": skewness,
        "grad_kurtosis": gradients(kurtosis, weight=weight)["grad_weight"],
        "grad_skewness": gradients(skewness, weight=weight)["grad_weight"],
    }


def mtard(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        balance = MTARDBalance(
            num_teachers=2,
            weight_rate=given.take("weight_lr"),
            temperature_rate=given.take("temperature_lr"),
            least_temperature=given.take("temp_min"),
            most_temperature=given.take("temp_max"),
            log_eps=given.take("log_eps"),
        ).double()
        given.choice("reduction", {"mean over N and C (not batchmean)": None})
        balance.temperatures.copy_(torch.tensor([given.take("temp_init_adv"), given.take("temp_init_nat")]))
    # The buffers are made in float32, in which not all weights are exact.
    balance.weights.fill_(0.5)
    trace = defaultdict[str, list[Tensor]](list)
    for step in range(len(inputs["student_adv_logits"])):
        student, teacher = (
            {kind: inputs[f"{who}_{kind}_logits"][step] for kind in ("adv", "nat")} for who in ("student", "teacher")
        )
        for place, kind in enumerate(("adv", "nat")):
            temperature = balance.temperatures[place].clone()
            trace[f"kl_{kind}"].append(balance.term(student[kind], teacher[kind], temperature).divergence)
        student = {kind: leaf(logits) for kind, logits in student.items()}
        trace["loss"].append(balance(student, teacher))
        leaves = {f"student_{kind}_logits": logits for kind, logits in student.items()}
        for name, gradient in gradients(trace["loss"][-1], **leaves).items():
            trace[name].append(gradient)
        for place, kind in enumerate(("adv", "nat")):
            trace[f"temp_{kind}"].append(balance.temperatures[place].clone())
            trace[f"w_{kind}"].append(balance.weights[place].clone())
    return {name: torch.stack(values).detach() for name, values in trace.items()}


def tgeo(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        given.choice("teacher_class_mean", {"computed over the given rows of the class": None})
    teacher, target = inputs["teacher_probs"], inputs["target"]
    # Sums of probabilities, which are the exponentials of their logarithms.
    means = class_centroids(*class_sums(teacher.log(), target), torch.zeros_like(teacher[:1]))
    return {"state": tgeo_state(inputs["student_probs"], teacher, target, means)}


ADAPTERS: dict[str, Adapter] = {
    "kd": kd,
    "dkd": dkd,
    "logit_std_kd": logit_std_kd,
    "nkd": nkd,
    "uskd": uskd,
    "bdkd": bdkd,
    "sinkd": sinkd,
    "pskd": pskd,
    "forward_kl": partial(divergence, kind=ForwardKL, released_entropy=lambda _: 1.0),
    "reverse_kl": partial(divergence, kind=ReverseKL),
    "symmetric_kl": partial(
        divergence,
        kind=SymmetricKL,
        option=("lam", "reverse_weight"),
        released_entropy=lambda lam: 1 - lam,
    ),
    "generalized_jsd": generalized_jsd,
    "skew_kl": partial(divergence, kind=SkewKL, option=("lam", "skew"), released_entropy=lambda _: 1.0),
    "skew_rkl": partial(divergence, kind=SkewRKL, option=("lam", "skew")),
    "total_variation": partial(divergence, kind=TotalVariation),
    "ofa_kd": partial(
        plain,
        kind=OFAKD,
        options={"eps": "gamma", "temperature": "temperature"},
        fixed={"tau_squared": (False,)},
    ),
    # The code's clamp of the sigmoids has no effect in float64.
    "binary_kl": partial(plain, kind=BinaryKL, options={"temperature": "temperature"}, fixed={"eps": (1e-8,)}),
    "binary_kl_norm": partial(plain, kind=BinaryKLNorm, options={"temperature": "temperature"}, fixed={"eps": (1e-8,)}),
    "kl_top": partial(
        plain,
        kind=KLTop,
        options={name: name for name in ("k", "temperature", "tail_bucket", "tau_squared")},
    ),
    "deit_distill": deit,
    "ab_divergence": partial(
        plain,
        kind=ABDivergence,
        options={"alpha": "alpha", "beta": "beta", "temperature": "temperature"},
        fixed={"reduction": TOKEN_MEAN},
    ),
    "adaptive_kl": partial(
        plain,
        kind=AdaptiveKL,
        options={"head_mass": "head_mass", "temperature": "temperature"},
        fixed={"reduction": TOKEN_MEAN},
    ),
    "adaptive_alpha_divergence": adaptive_alpha,
    "gpg_loss": partial(plain, kind=GPG, options={"alpha": "alpha"}, fixed={"temperature": (1.0,)}),
    "attention_transfer": attention_transfer,
    "mcmi": mcmi,
    "cmi_metric": cmi_metric,
    "nd_loss": norm_and_direction,
    "multi_aspect_kd": multi_aspect,
    "class_relation_kd": class_relation,
    "wdr_loss": weight_distribution,
    "mtard_balance": mtard,
    "tgeo_kd": tgeo,
}
