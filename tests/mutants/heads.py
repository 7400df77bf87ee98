"""Mistakes in the fused heads."""

from tests.mutants.mistake import of

CROSSINGS = "tests/kernels/test_crossings.py"
MISTAKES = [
    *of(
        "kernels/terms.py",
        CROSSINGS,
        (
            "(self.smoothing_mass * lse - self.smoothing * smooth)",
            "(self.label_smoothing * lse - self.smoothing * smooth)",
        ),
        ("return slope * row_weight", "return slope"),
        ("return row_weight * self.row_function(plain)", "return self.row_function(plain)"),
        ("return target_factor + self.smoothing_mass", "return target_factor + self.label_smoothing"),
    ),
    *of(
        "kernels/terms.py",
        "tests/kernels/test_linear_cross_entropy.py",
        ("(self.classes if self.unmasked is None else self.unmasked.sum())", "self.classes"),
        ("return self.class_weight * self.unmasked", "return self.class_weight"),
        ("torch.where(kept, picked, lse.detach() - 1)", "picked"),
    ),
    *of(
        "kernels/inputs.py",
        CROSSINGS,
        ("hidden[..., :-shift, :], target[..., shift:]", "hidden[..., :-shift, :], target[..., :-shift]"),
        ("(row_weight if kept is None else row_weight * kept).sum()", "torch.as_tensor(row_weight).sum()"),
        (
            "return 1.0 / normalizer, z_loss and z_loss / normalizer",
            "return 1.0 / normalizer, z_loss and z_loss / tokens",
        ),
        (
            "return ChosenRows(rows, flat.masked_fill(~kept, 0), None, kept)",
            "return ChosenRows(rows, flat.masked_fill(~kept, 0), None, None)",
        ),
    ),
    *of(
        "kernels/head.py",
        CROSSINGS,
        ("scores.mul_(cap / temperature)", "scores.mul_(cap)"),
        ("slope = 1 - scores * scores", "slope = 1 - scores.abs()"),
        ("of_class = self.smoothing_weight / self.terms.temperature", "of_class = self.smoothing_weight"),
        ("scores.add_(self.bias[entries])", "scores.add_(self.bias.mean())"),
    ),
    *of(
        "kernels/cross_entropy/recompute.py",
        CROSSINGS,
        ("* head.smoothing_weight[entries]", "* head.class_weight[columns]"),
        (
            "if self.terms.temperature != 1.0:\n                    g.div_(self.terms.temperature)",
            "if False:\n                    g.div_(self.terms.temperature)",
        ),
        ("self.order.argsort()[target]", "self.order[target]"),
        (
            "before, largest = largest, torch.maximum(largest, scores.amax(dim=1))",
            "before, largest = largest, scores.amax(dim=1)",
        ),
    ),
    *of(
        "kernels/cross_entropy/recompute.py",
        "tests/kernels/test_linear_cross_entropy.py",
        ("amax() >= filter_eps", "amax() >= 100 * filter_eps"),
        ("entropy[rows] = lse[rows] - weighted / total", "entropy[rows] = lse[rows] - weighted"),
        ("scores + statistics.entropy[rows].unsqueeze(1), 0.0)", "scores, 0.0)"),
    ),
    *of(
        "kernels/cross_entropy/chunked.py",
        CROSSINGS,
        (
            "factor, onehot = factor / terms.temperature, onehot / terms.temperature",
            "factor, onehot = factor / terms.temperature, onehot",
        ),
        (
            "scale * terms.probability_factor(of_target) + 2 * z_scale * lse",
            "scale * terms.probability_factor(of_target) + z_scale * lse",
        ),
        ("factor * counts, onehot * counts,", "factor * counts, onehot,"),
        ("corner = corner * chunk_scores.picked_slope", "corner = corner * 1"),
        ("smoothing / terms.temperature if terms.softcap is not None else smoothing", "smoothing"),
        ("g.sub_(smoothing * head.smoothing_weight[tile])", "g.sub_(smoothing)"),
    ),
    *of(
        "kernels/cross_entropy/problem.py",
        CROSSINGS,
        ("values = values.masked_fill(~problem.kept, 0.0)", "values = values * 1"),
        ("squares = whole(lse.square())", "squares = lse.square()"),
    ),
    *of(
        "kernels/cross_entropy/reference.py",
        CROSSINGS,
        ("logits = logits / terms.temperature", "logits = logits"),
        ("torch.where(weights == 0, 0.0, logits) @ weights.to(logits)", "logits.sum(dim=1)"),
    ),
    *of(
        "kernels/rows/by_hand.py",
        CROSSINGS,
        ("(tile - largest.unsqueeze(1)).div_(temperature)", "(tile - largest.unsqueeze(1))"),
        ("largest / temperature + total.log()", "largest + total.log()"),
        ("factor * square / loss.temperature", "factor * square"),
    ),
    *of(
        "kernels/rows/by_hand.py",
        "tests/kernels/test_linear_distillation.py",
        ("student.tiles, 1 - beta, complete)", "student.tiles, beta, complete)"),
        ("total.log() - picked.log()", "total.log() + picked.log()"),
        ("sub_(t, alpha=loss.gamma)", "sub_(t)"),
    ),
    *of(
        "kernels/linear_distillation.py",
        CROSSINGS,
        ("moved[..., : length - shift] = target[..., shift:]", "moved[..., shift:] = target[..., : length - shift]"),
        ("parts, caps = Parts(soft_weight, hard_weight)", "parts, caps = Parts(1.0, hard_weight)"),
    ),
    *of(
        "kernels/linear_cross_entropy.py",
        CROSSINGS,
        (
            "Terms(len(weight), float(label_smoothing), softcap, weights, temperature, row_function, unmasked)",
            "Terms(len(weight), float(label_smoothing), None, weights, temperature, row_function, unmasked)",
        ),
    ),
    *of(
        "kernels/vocab_parallel.py",
        "tests/kernels/test_vocab_parallel.py",
        ("min(rank, extra)", "rank * extra"),
        ("flat - start, terms", "flat, terms"),
        ("chunk=chunk or default_chunk(len(rows), largest)", "chunk=chunk or default_chunk(len(rows), weight)"),
    ),
]
