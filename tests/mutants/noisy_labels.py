"""Mistakes in losses for noisy labels, margin losses, and what these share."""

from tests.mutants.mistake import of

NOISY, CLASSES = "tests/losses/noisy_labels", "tests/losses/classification"
MISTAKES = [
    *of(
        "numerics/tempered.py",
        "tests/numerics/test_tempered.py",
        (
            "(exponent - _LARGEST_EXPONENT).clamp(min=0.0) * (within + 1)",
            "(exponent - _LARGEST_EXPONENT).clamp(min=0.0)",
        ),
        ("exponent.clamp(max=_LARGEST_EXPONENT)", "exponent"),
        ("* (within + 1)) / rate", "* (within + 1))"),
    ),
    *of(
        "numerics/tempered.py",
        f"{NOISY}/test_bi_tempered.py",
        ("return weighed(below, nearer(below, nearer(below, shift)), 1.0)", "return weighed(below, shift, 1.0)"),
        ("_STEPS = 5", "_STEPS = 1"),
        ("torch.exp(temperature * log_sum - log_slope)", "torch.exp(log_sum - log_slope)"),
    ),
    *of(
        "numerics/tempered.py",
        f"{CLASSES}/test_sparsemax_loss.py",
        ("_STEPS_TO_A_SUPPORT = 12", "_STEPS_TO_A_SUPPORT = 1"),
        ("without = power <= -1", "without = power <= -2"),
    ),
    *of(
        "numerics/two_pass_softmax.py",
        "tests/numerics/test_two_pass_softmax.py",
        ("_LOG_2_HIGH = 0.693359375", "_LOG_2_HIGH = 0.6931471"),
        ("other.mantissa == 0, first", "other.mantissa == 0, other.exponent"),
        ("exponent = torch.maximum(first, second)", "exponent = torch.minimum(first, second)"),
        ("masked_fill(none, -torch.inf).amax", "masked_fill(none, 0.0).amax"),
    ),
    *of("losses/noisy_labels/gce.py", f"{NOISY}/test_gce.py", ("1 - self.q)", "self.q)")),
    *of(
        "losses/noisy_labels/truncated_gce.py",
        f"{NOISY}/test_truncated_gce.py",
        (".clamp(max=most)", ""),
        ("self.threshold**self.q) / self.q", "self.threshold) / self.q"),
    ),
    *of(
        "losses/noisy_labels/mae_reduced.py",
        f"{NOISY}/test_mae_reduced.py",
        ("-torch.expm1(-cross_entropy)", "-2 * torch.expm1(-cross_entropy)"),
    ),
    *of("losses/noisy_labels/rce.py", f"{NOISY}/test_rce.py", ("math.log(1e-4)", "-4.0")),
    *of("losses/noisy_labels/sce.py", f"{NOISY}/test_sce.py", ("self.alpha * cross", "cross"), ("+ self.beta *", "+")),
    *of(
        "losses/noisy_labels/nce.py",
        f"{NOISY}/test_nce.py",
        (".scatter(-1, target.unsqueeze(-1), False)", ""),
        (".masked_fill(absent, 0.0)", ""),
        (".clamp(min=torch.finfo(each.dtype).tiny)", ""),
    ),
    *of("losses/noisy_labels/ngce.py", f"{NOISY}/test_ngce.py", ("1 - self.q)", "self.q)")),
    *of("losses/noisy_labels/nce_rce.py", f"{NOISY}/test_nce_rce.py", ("+ self.beta *", "+")),
    *of("losses/noisy_labels/nce_agce.py", f"{NOISY}/test_nce_agce.py", ("+ self.beta *", "+")),
    *of("losses/noisy_labels/agce.py", f"{NOISY}/test_agce.py", ("-((a + 1) ** q)", "-(a + 1)"), ("1 - q)", "q)")),
    *of(
        "losses/noisy_labels/aul.py",
        f"{NOISY}/test_aul.py",
        ("(least + missing) ** self.q", "(least + missing)"),
        ("missing / least", "missing / self.a"),
    ),
    *of(
        "losses/noisy_labels/gjs.py",
        f"{NOISY}/test_gjs.py",
        ("cross_entropy.clamp(max=80.0)", "cross_entropy"),
        ("+ missing * log_prediction", ""),
        ("(-prediction * log_prediction)", "-prediction"),
    ),
    *of(
        "losses/noisy_labels/bi_tempered.py",
        f"{NOISY}/test_bi_tempered.py",
        ("- of_target) / power", ") / power"),
        ("(1 - other * classes)", "(1 - other)"),
        ("self.label_smoothing / (classes - 1)", "self.label_smoothing / classes"),
    ),
    *of("losses/classification/comp_sum.py", f"{CLASSES}/test_comp_sum.py", ("self.tau)", "2 - self.tau)")),
    *of(
        "losses/classification/crammer_singer.py",
        f"{CLASSES}/test_crammer_singer.py",
        (".masked_fill(torch.isneginf(logits), 0.0)", ""),
        (".scatter(-1, index, logits.gather(-1, index))", ""),
    ),
    *of(
        "losses/classification/ldr_kl.py",
        f"{CLASSES}/test_ldr_kl.py",
        ("masked_fill(mean == 0, 1.0)", "clone()"),
        ("/ (~absent).sum(dim=-1)\n    return", "/ absent.shape[-1]\n    return"),
        ("temperature * torch.log1p(mean)", "torch.log1p(mean)"),
    ),
    *of(
        "losses/classification/crammer_singer.py",
        f"{CLASSES}/test_weston_watkins.py",
        ("return torch.relu(excess", "return (excess"),
    ),
    *of(
        "losses/classification/weston_watkins.py",
        f"{CLASSES}/test_weston_watkins.py",
        ("(~torch.isneginf(given.logits)).sum(dim=-1)", "given.logits.shape[-1]"),
    ),
    *of(
        "losses/classification/entmax_loss.py",
        f"{CLASSES}/test_entmax_loss.py",
        (" + _tsallis_entropy(log_p, alpha)", ""),
        ("return value - _tsallis_entropy(target.log(), alpha)", "return value"),
        ("tempered_log_probabilities(below, 2 - alpha)", "tempered_log_probabilities(below, alpha - 1)"),
    ),
    *of(
        "losses/classification/sparsemax_loss.py", f"{CLASSES}/test_sparsemax_loss.py", ("target, 2.0)", "target, 1.9)")
    ),
    *of(
        "losses/classification/log_spherical_softmax.py",
        f"{CLASSES}/test_log_spherical_softmax.py",
        ("+ self.eps)", ")"),
        (".masked_fill(absent, -torch.inf)", ""),
    ),
    *of(
        "losses/classification/log_taylor_softmax.py",
        f"{CLASSES}/test_log_taylor_softmax.py",
        (".square() + 1)", ".square())"),
    ),
    *of(
        "losses/classification/spherical_z_loss.py",
        f"{CLASSES}/test_spherical_z_loss.py",
        (".masked_fill(absent, 0.0)\n        variance", "\n        variance"),
        ("variance + self.epsilon", "variance"),
        ("variance.rsqrt())) / a", "variance.rsqrt()))"),
    ),
    *of(
        "kernels/linear_spherical_z_loss.py",
        "tests/kernels/test_linear_spherical_z_loss.py",
        ("(own - mean)", "own"),
        (".masked_fill(~kept.unsqueeze(-1), 0.0)", ""),
        ("centred.T @ centred", "rows.T @ rows"),
    ),
]
