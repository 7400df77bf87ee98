"""Mistakes in losses of classification and of confidence, and in what all losses share."""

from tests.mutants.mistake import of

CONFIDENCE = "tests/losses/confidence"
MISTAKES = [
    *of(
        "losses/classification/cross_entropy.py",
        "tests/losses/classification/test_cross_entropy.py",
        ("label_smoothing=self.label_smoothing,", "label_smoothing=0.0,"),
        ("self.class_weight, dtype=torch.float64)", "self.class_weight, dtype=torch.float32)"),
    ),
    *of(
        "losses/kinds.py",
        "tests/losses/classification/test_cross_entropy.py",
        (
            'return reduce(value, "sum", given.kept) / torch.where',
            'return reduce(value, "mean", given.kept) / torch.where',
        ),
        (
            "kept = target != self.ignore_index\n        return reduce(weight[",
            "kept = target != self.ignore_index\n        return reduce(torch.ones_like(weight)[",
        ),
    ),
    *of(
        "losses/classification/stablemax_cross_entropy.py",
        "tests/losses/classification/test_stablemax_cross_entropy.py",
        ("(1 - share) * value", "value"),
        (
            "torch.log1p(torch.where(positive, 0.0, -logits))",
            "torch.log1p(torch.where(positive, 0.0, logits.abs() / 2))",
        ),
    ),
    *of(
        "losses/classification/precise_cross_entropy.py",
        "tests/losses/classification/test_precise_cross_entropy.py",
        ("given.logits.to(getattr(torch, self.softmax_dtype))", "given.logits"),
    ),
    *of(
        "losses/confidence/adafocal.py",
        f"{CONFIDENCE}/test_adafocal.py",
        ("torch.where(gammas > 0, gap, -gap)", "gap"),
        ("len(ordered) // self.num_bins - 1", "len(ordered) // self.num_bins"),
        (".clamp(least, most)", ".clamp(max=most)"),
        ("torch.pow(1 + p, ", "torch.pow(1 - p, "),
    ),
    *of(
        "losses/confidence/avuc.py",
        f"{CONFIDENCE}/test_avuc.py",
        ("uncertainty.detach() <= thresholds", "uncertainty.detach() < thresholds"),
        ("linspace(0, 1, 21", "linspace(0, 1, 20"),
    ),
    *of(
        "losses/confidence/correctness_aware.py",
        f"{CONFIDENCE}/test_correctness_aware.py",
        ("1 - accuracy, accuracy)", "accuracy, 1 - accuracy)"),
    ),
    *of("losses/confidence/dca.py", f"{CONFIDENCE}/test_dca.py", (".sum().abs()", ".abs().sum()")),
    *of("losses/confidence/dual_focal.py", f"{CONFIDENCE}/test_dual_focal.py", ("every >= log_p", "every > log_p")),
    *of(
        "losses/confidence/focal.py",
        "tests/frozen/test_frozen.py -k Focal",
        ("gamma: NonNegative = 3.0", "gamma: NonNegative = 2.0"),
    ),
    *of(
        "losses/confidence/focal_adaptive.py",
        f"{CONFIDENCE}/test_focal_adaptive.py",
        (".exp() < self.threshold, low)", ".exp() >= self.threshold, low)"),
        ("for _ in range(200):", "for _ in range(2):"),
    ),
    *of(
        "losses/confidence/mbls.py",
        f"{CONFIDENCE}/test_mbls.py",
        ("- self.margin).mean(dim=-1)", "- self.margin).sum(dim=-1)"),
    ),
    *of("losses/confidence/mdca.py", f"{CONFIDENCE}/test_mdca.py", (".abs().mean()", ".square().mean()")),
    *of("losses/confidence/mmce.py", f"{CONFIDENCE}/test_mmce.py", (".abs() / bandwidth", ".square() / bandwidth")),
    *of(
        "losses/confidence/mmce_weighted.py",
        f"{CONFIDENCE}/test_mmce_weighted.py",
        ("(1 - given.confidence) * correct", "given.confidence * correct"),
    ),
    *of(
        "losses/confidence/rankmixup_mndcg.py",
        f"{CONFIDENCE}/test_rankmixup_mndcg.py",
        ("torch.minimum(gain / ideal, ideal / gain)", "gain / ideal"),
        ("torch.arange(2, relevance.shape[-1] + 2", "torch.arange(1, relevance.shape[-1] + 1"),
        ("descending=True", "descending=False"),
    ),
    *of(
        "losses/confidence/rankmixup_mrl.py",
        f"{CONFIDENCE}/test_rankmixup_mrl.py",
        ("* blended).mean(dim=0)", ").mean(dim=0)"),
    ),
    *of(
        "losses/confidence/soft_binned_ece.py",
        f"{CONFIDENCE}/test_soft_binned_ece.py",
        ("+ 0.5) / self.num_bins", ") / self.num_bins"),
    ),
    *of(
        "losses/confidence/soft_avuc.py",
        f"{CONFIDENCE}/test_soft_avuc.py",
        ("math.log(self.threshold / (1 - self.threshold))", "self.threshold"),
    ),
    *of(
        "losses/confidence/confidence_penalty.py",
        f"{CONFIDENCE}/test_confidence_penalty.py",
        ("reduce(-entropy(", "reduce(entropy("),
    ),
    *of(
        "losses/regularization/wdr_loss.py",
        "tests/losses/regularization/test_wdr_loss.py",
        ("(weight.numel() - 1)", "weight.numel()"),
        ("list(found.items())[1:]", "list(found.items())"),
    ),
    *of(
        "losses/regularization/z_loss.py",
        "tests/losses/regularization/test_z_loss.py",
        ("dim=-1).square()", "dim=-1)"),
    ),
    *of(
        "numerics/reduction.py",
        "tests/numerics/test_numerics.py",
        ("kept.sum().clamp(min=1)", "value.numel()"),
        ("value = value.masked_fill(~kept, 0.0)", "value = value * kept"),
    ),
    *of(
        "objective/schedules.py",
        "tests/objective/test_objective.py",
        ("(progress - begin) / (until - begin)", "(progress - begin) / until"),
        ("(1 + math.cos(math.pi * done)) / 2", "math.cos(math.pi * done)"),
    ),
    *of("objective/term.py", "tests/objective/test_objective.py", ("renamed.get(argument, argument)", "argument")),
]
