"""Mistakes in losses of distillation."""

from tests.mutants.mistake import of

DIVERGENCES, FEATURES, LOGITS = (f"losses/distillation/{part}" for part in ("divergences", "features", "logits"))
CROSSINGS = "tests/losses/distillation/divergences/test_crossings.py"
MISTAKES = [
    *of(
        f"{DIVERGENCES}/ab_divergence.py",
        f"tests/{DIVERGENCES}/test_ab_divergence.py",
        (
            "alpha / total * powers_t + beta / total * powers_s - (alpha",
            "alpha / total * powers_t + alpha / total * powers_s - (alpha",
        ),
        (".square().sum(dim=-1) / 2", ".square().sum(dim=-1)"),
    ),
    *of(
        f"{DIVERGENCES}/adaptive_alpha_divergence.py",
        f"tests/{DIVERGENCES}/test_adaptive_alpha_divergence.py",
        ("clamp(max=math.log(clip))", "clamp(max=clip)"),
        ("larger = low.value > high.value", "larger = low.value.sum() > high.value.sum() + 0 * low.value"),
    ),
    # In double precision what is subtracted adds up to nothing.
    *of(
        f"{DIVERGENCES}/adaptive_alpha_divergence.py",
        "tests/losses/test_single_precision.py",
        ("(s * power - linear).sum(dim=-1) / (alpha - 1)", "(s * power + linear).sum(dim=-1) / (alpha - 1)"),
    ),
    *of(
        f"{DIVERGENCES}/binary_kl.py",
        f"tests/{DIVERGENCES}/test_binary_kl.py tests/losses/test_single_precision.py",
        ("torch.copysign(torch.ones_like(teacher), -teacher)", "torch.copysign(torch.ones_like(teacher), teacher)"),
        ("(likely * torch.expm1(step)) - likely * step", "(likely * step.exp() - likely) - likely * step"),
        ("at_least_zero(near)", "near"),
        ("- likely * (difference - step)", "- likely * (difference.abs() - step)"),
    ),
    *of(
        f"{DIVERGENCES}/adaptive_kl.py",
        f"tests/{DIVERGENCES}/test_adaptive_kl.py",
        ("<= self.head_mass", "< self.head_mass"),
        ("head[..., 0] = True", "head[..., 0] = head[..., 0]"),
    ),
    *of(
        f"{DIVERGENCES}/bdkd.py",
        f"tests/{DIVERGENCES}/test_bdkd.py {CROSSINGS}",
        ("masked_fill(teacher > student, boost)", "masked_fill(teacher < student, boost)"),
    ),
    *of(f"{DIVERGENCES}/forward_kl.py", CROSSINGS, ("self.temperature**2 * value if", "self.temperature * value if")),
    *of(f"{DIVERGENCES}/reverse_kl.py", CROSSINGS, ("if self.tau_squared", "if not self.tau_squared")),
    *of(f"{DIVERGENCES}/kd.py", CROSSINGS, ("return self.temperature**2 *", "return self.temperature *")),
    *of(
        f"{DIVERGENCES}/generalized_jsd.py",
        CROSSINGS,
        ("log_mean(t, s, self.beta)", "log_mean(s, t, self.beta)"),
        ("if self.beta == 0 else", "if self.beta == 1 else"),
    ),
    *of(f"{DIVERGENCES}/skew_kl.py", CROSSINGS, ("log_mean(t, ", "log_mean(t.mean(), ")),
    *of(
        f"{DIVERGENCES}/symmetric_kl.py",
        CROSSINGS,
        (
            "(1 - self.reverse_weight) * forward + self.reverse_weight * reverse",
            "self.reverse_weight * forward + (1 - self.reverse_weight) * reverse",
        ),
    ),
    *of(
        f"{DIVERGENCES}/total_variation.py",
        CROSSINGS,
        ("probabilities(given.logits, self.temperature)", "probabilities(given.logits)"),
    ),
    *of(f"{DIVERGENCES}/binary_kl_norm.py", CROSSINGS, ("- (x - step)", "- x")),
    *of(f"{DIVERGENCES}/kl_top.py", CROSSINGS, ("not self.tail_bucket or ", "self.tail_bucket or ")),
    *of(
        f"{FEATURES}/attention_transfer.py",
        f"tests/{FEATURES}/test_attention_transfer.py",
        ("maps.abs().pow(self.p)", "maps.pow(self.p)"),
        ("powers.mean(dim=1)", "powers.amax(dim=1)"),
    ),
    *of(
        f"{FEATURES}/cka.py",
        f"tests/{FEATURES}/test_cka.py",
        ("vectors - vectors.mean(dim=0, keepdim=True)", "vectors"),
    ),
    *of(
        f"{FEATURES}/crd.py",
        f"tests/{FEATURES}/test_crd.py",
        ("target=target, kept=kept)", "kept=kept)"),
        ("target=target, kept=kept)", "target=target, kept=kept, both=False)"),
    ),
    *of(
        f"{FEATURES}/rkd.py",
        f"tests/{FEATURES}/test_rkd.py",
        ("(distances > 0).sum()", "torch.tensor(distances.numel())"),
    ),
    *of(
        f"{FEATURES}/nd_loss.py",
        f"tests/{FEATURES}/test_nd_loss.py",
        ("torch.maximum(student.norm(dim=-1), teacher.norm(dim=-1))", "student.norm(dim=-1)"),
    ),
    *of(
        f"{FEATURES}/similarity_preserving.py",
        f"tests/{FEATURES}/test_similarity_preserving.py",
        (".square().mean()", ".square().sum()"),
    ),
    *of(
        f"{LOGITS}/dkd.py",
        f"tests/{LOGITS}/test_dkd.py",
        (
            "self.alpha * parts.target_class + self.beta * parts.non_target_class",
            "self.beta * parts.target_class + self.alpha * parts.non_target_class",
        ),
    ),
    *of(
        f"{LOGITS}/nkd.py",
        f"tests/{LOGITS}/test_nkd.py",
        ("self.gamma * self.temperature**2 * others", "self.gamma * others"),
    ),
    *of(
        f"{LOGITS}/dac_kl.py",
        f"tests/{LOGITS}/test_dac_kl.py",
        ("(levels >= lower) &", "(levels > lower) &"),
    ),
    *of(
        f"{LOGITS}/deit_distill.py",
        f"tests/{LOGITS}/test_deit_distill.py",
        ("(1 - self.alpha) * label + self.alpha * taught", "self.alpha * label + self.alpha * taught"),
    ),
    *of(
        f"{LOGITS}/mtard_balance.py",
        f"tests/{LOGITS}/test_mtard_balance.py",
        ("temperatures - rate * above", "temperatures + rate * above"),
    ),
    *of(
        "samplers/ddk_sampler.py",
        "tests/samplers/test_ddk_sampler.py",
        ("alpha * renewed + (1 - alpha) / weights.shape[-1]", "(1 - alpha) * renewed + alpha / weights.shape[-1]"),
        ("number % self.num_replicas == self.rank", "number % self.num_replicas != self.rank"),
    ),
    *of(
        "data/ferkd_labels.py",
        "tests/data/test_ferkd_labels.py",
        ("confidence < middle", "confidence <= middle"),
        ("confidence >= low", "confidence > low"),
        ("1 - smoothing + smoothing / classes)", "1 - smoothing)"),
    ),
]
