"""The display of a comparison's numbers: their names, units and decimals, intervals, and the findings on claims."""

import math
from typing import NamedTuple

from lightning_losses.experiments.evidence.claims import Difference, Finding, more_is_better
from lightning_losses.experiments.evidence.seed_interval import SeedInterval


class Metric(NamedTuple):
    """The display of a number: its name and unit, its factor, its number of decimals, and its range."""

    name: str
    factor: float
    digits: int
    least: float = 0.0
    most: float = math.inf

    @property
    def sign(self) -> str:
        """What stands behind a number of it."""
        return " %" if ", %" in self.name else ""

    @property
    def title(self) -> str:
        """The name as a heading begins with it, its unit in brackets."""
        return (self.plain[0].upper() + self.plain[1:]) + (" (%)" if self.sign else "")

    @property
    def plain(self) -> str:
        """The name without the unit."""
        return self.name.replace(", %", "")

    @property
    def points(self) -> str:
        """What stands behind a difference of it."""
        return " points" if self.sign else ""

    def within(self, interval: SeedInterval, *, difference: bool = False) -> SeedInterval:
        """The part of an interval that is possible for the number, or for the difference of two."""
        width = self.most - self.least
        return interval.within(-width, width) if difference else interval.within(self.least, self.most)


# Of the test logits, by `calibration_summary`.
SCORES = ("accuracy", "nll", "brier", "ece", "adaptive_ece", "classwise_ece", "aurc")
_SHOWN = {
    "accuracy": Metric("accuracy, %", 100, 2, most=1),
    "balanced_accuracy": Metric("balanced accuracy, %", 100, 2, most=1),
    "val_accuracy": Metric("validation accuracy, %", 100, 2, most=1),
    "mean_accuracy": Metric("mean accuracy, %", 100, 2, most=1),
    "val_nll": Metric("validation NLL", 1, 3),
    "teacher_accuracy": Metric("teacher's accuracy, %", 100, 2, most=1),
    "overconfidence": Metric("confidence - accuracy, %", 100, 2, least=-1, most=1),
    "pgd_accuracy": Metric("accuracy under PGD, %", 100, 2, most=1),
    "pma_accuracy": Metric("accuracy under PMA, %", 100, 2, most=1),
    "cw_accuracy": Metric("accuracy under CW, %", 100, 2, most=1),
    "random_accuracy": Metric("accuracy at random points, %", 100, 2, most=1),
    "transfer_accuracy": Metric("accuracy under transfer, %", 100, 2, most=1),
    "worst_accuracy": Metric("worst accuracy, %", 100, 2, most=1),
    "tail_accuracy": Metric("worst accuracy of the tail, %", 100, 2, most=1),
    "nll": Metric("NLL", 1, 3),
    "brier": Metric("Brier", 1, 3, most=2),
    "ece": Metric("ECE, %", 100, 2, most=1),
    "adaptive_ece": Metric("adaptive ECE, %", 100, 2, most=1),
    "classwise_ece": Metric("classwise ECE, %", 100, 2, most=1),
    "aurc": Metric("AURC × 1000", 1000, 1, most=1),
    "rmse": Metric("RMSE", 1, 3),
    "mae": Metric("MAE", 1, 3),
    "val_rmse": Metric("validation RMSE", 1, 3),
    "mean_average_precision": Metric("mean average precision, %", 100, 2, most=1),
    "micro_f1": Metric("micro F1, %", 100, 2, most=1),
    "macro_f1": Metric("macro F1, %", 100, 2, most=1),
    "val_mean_average_precision": Metric("validation mean average precision, %", 100, 2, most=1),
    "knn_accuracy": Metric("nearest neighbours' accuracy, %", 100, 2, most=1),
    "probe_accuracy": Metric("linear probe's accuracy, %", 100, 2, most=1),
    "val_probe_accuracy": Metric("linear probe's validation accuracy, %", 100, 2, most=1),
    "parse_rate": Metric("completions that parse, %", 100, 2, most=1),
    "kl_to_base": Metric("KL to the base, nats", 1, 2, least=-math.inf),
    "completion_length": Metric("bytes of a completion", 1, 1),
    "recall_at_1": Metric("recall@1, %", 100, 2, most=1),
    "map_at_r": Metric("mean average precision at R, %", 100, 2, most=1),
    "opis": Metric("OPIS × 1000", 1000, 2, most=1),
    "val_recall_at_1": Metric("validation recall@1, %", 100, 2, most=1),
    "val_map_at_r": Metric("validation mean average precision at R, %", 100, 2, most=1),
    **{f"precision_at_{k}": Metric(f"precision at {k}, %", 100, 2, most=1) for k in (1, 3, 5)},
    **{
        f"propensity_scored_precision_at_{k}": Metric(f"propensity-scored precision at {k}, %", 100, 2, most=1)
        for k in (1, 3, 5)
    },
    "val_precision_at_1": Metric("validation precision at 1, %", 100, 2, most=1),
    "val_precision_at_5": Metric("validation precision at 5, %", 100, 2, most=1),
    "mrr": Metric("mean reciprocal rank, %", 100, 2, most=1),
    "mrr_before": Metric("mean reciprocal rank before training, %", 100, 2, most=1),
    "val_mrr": Metric("validation mean reciprocal rank, %", 100, 2, most=1),
    "recall_at_10": Metric("recall@10, %", 100, 2, most=1),
    "pooled_auc": Metric("area under the ROC curve, %", 100, 2, most=1),
    "document_vectors": Metric("vectors of a document", 1, 1),
    "dead_share": Metric("dead latents, %", 100, 2, most=1),
    "unexplained_variance": Metric("unexplained variance, %", 100, 2),
    "latents_per_sample": Metric("latents of a sample", 1, 2),
    "train_nll": Metric("training NLL", 1, 3),
    "sharpness": Metric("sharpness", 1, 1, least=-math.inf),
    "forget_nll": Metric("text to forget", 1, 3),
    "unseen_nll": Metric("its like, never seen", 1, 3),
    "retain_nll": Metric("other text", 1, 3),
    "membership_auc": Metric("membership, area under the ROC curve, %", 100, 2, most=1),
    "auroc": Metric("area under the ROC curve, %", 100, 2, most=1),
    "certain_auroc": Metric("of certain samples, area under the ROC curve, %", 100, 2, most=1),
    "fpr95_id_positive": Metric("FPR95 with known positive, %", 100, 2, most=1),
    "fpr95_ood_positive": Metric("FPR95 with foreign positive, %", 100, 2, most=1),
    "aupr_id": Metric("average precision of known, %", 100, 2, most=1),
    "aupr_ood": Metric("average precision of foreign, %", 100, 2, most=1),
    "clean_error": Metric("clean error, %", 100, 2, most=1),
    "stream_error": Metric("error over the stream, %", 100, 2, most=1),
    "last_error": Metric("error in the last round, %", 100, 2, most=1),
    "error_growth": Metric("error in the last round - in the first, %", 100, 2, least=-1, most=1),
    "coverage": Metric("coverage, %", 100, 2, most=1),
    "set_size": Metric("classes in a set", 1, 3),
    "hard_coverage": Metric("coverage of hard rows, %", 100, 2, most=1),
    "worst_class_coverage": Metric("coverage of the worst class, %", 100, 2, most=1),
    "size_stratified_violation": Metric("size-stratified violation, %", 100, 2, most=1),
    "empty": Metric("empty sets, %", 100, 2, most=1),
    "temperature": Metric("temperature", 1, 2),
    "seconds": Metric("seconds", 1, 2),
    "memory": Metric("step's memory, MB", 1e-6, 2),
    "parameters": Metric("parameters", 1, 0),
    "sensitivity": Metric("LR sensitivity", 1, 3),
    "lowest_nll": Metric("lowest NLL", 1, 3),
}
# Beside the scores; `overconfidence` is the mean confidence minus the accuracy, signed.
_FURTHER = ("balanced_accuracy", "val_accuracy", "val_nll", "overconfidence", "teacher_accuracy", "temperature")
# Of regressions, of many labels and of very many, of features, of embeddings and of retrieval; a comparison has them if
# it shows one of them.
TASK_METRICS = (
    "rmse", "mae", "val_rmse",
    "mean_average_precision", "micro_f1", "macro_f1", "val_mean_average_precision",
    "knn_accuracy", "probe_accuracy", "val_probe_accuracy",
    "recall_at_1", "map_at_r", "opis", "val_recall_at_1", "val_map_at_r",
    "precision_at_1", "precision_at_3", "precision_at_5", "val_precision_at_1", "val_precision_at_5",
    "propensity_scored_precision_at_1", "propensity_scored_precision_at_3", "propensity_scored_precision_at_5",
    "mrr", "mrr_before", "val_mrr", "recall_at_10", "pooled_auc",
)  # fmt: skip
# Of conformal sets.
SET_METRICS = ("coverage", "set_size", "hard_coverage", "worst_class_coverage", "size_stratified_violation", "empty")
COSTS = ("seconds", "memory", "parameters")
METRICS = (*SCORES, *(f"calibrated_{name}" for name in SCORES[1:]), *_FURTHER, *COSTS)


def shown(metric: str) -> Metric:
    """How a number is shown.

    Example:
        >>> shown("calibrated_ece").name
        'ECE, % (calibrated)'
    """
    plain = _SHOWN[metric.removeprefix("calibrated_")]
    return plain._replace(name=f"{plain.name} (calibrated)") if metric.startswith("calibrated_") else plain


def describe(finding: Finding) -> str:
    """The finding on a claimed difference, in one line.

    Example:
        >>> from lightning_losses.experiments.evidence.claims import Difference
        >>> from lightning_losses.experiments.evidence.verdicts import Verdict
        >>> kd = Difference("kd", "ce", "accuracy", "higher", "60 rows")
        >>> describe(Finding(kd, SeedInterval(0.05, 0.03, 0.07), 0.02, 8, 0.004, Verdict("reproduced")))
        '60 rows: accuracy of kd minus ce: +5.00 ± 2.00 points (claimed: above 0), SD 2.00, n = 8, p = 0.004'
    """
    unit = shown(finding.difference.metric)
    found = [f"{difference_of(finding)} (claimed: {_claimed(finding.difference)})"]
    if not math.isnan(finding.deviation):
        found.append(f"SD {unit.factor * finding.deviation:.{unit.digits}f}")
    found.append(f"n = {finding.seeds}")
    if not math.isnan(finding.p):
        found.append(p_value(finding.p))
    return ", ".join(found)


def difference_of(finding: Finding) -> str:
    """A difference between two runs, with its interval."""
    one, unit = finding.difference, shown(finding.difference.metric)
    where = f"{one.setting}: " if one.setting else ""
    found = spread(finding.interval, one.metric, difference=True)
    return f"{where}{unit.plain} of {one.run} minus {one.than}: {found}{unit.points}"


def _claimed(difference: Difference) -> str:
    """Where a difference lies if it is as claimed."""
    if isinstance(difference.shows, str):
        return "above 0" if difference.shows == "higher" else "below 0"
    margin = shown(difference.metric).factor * difference.shows
    return f"above -{margin:g}" if more_is_better(difference.metric) else f"below {margin:g}"


def spread(interval: SeedInterval, metric: str, *, difference: bool = False) -> str:
    """A mean and half its interval, or its ends where it stops at a bound, in the metric's unit; unknown, a dash.

    Example:
        >>> spread(SeedInterval(0.95, 0.93, 0.97), "accuracy"), spread(SeedInterval(0.995, 0.983, 1.007), "accuracy")
        ('95.00 ± 2.00', '99.50 [98.30, 100.00]')
    """
    unit = shown(metric)
    if math.isnan(interval.mean):
        return "–"
    sign = "+" if difference else ""
    inside = unit.within(interval, difference=difference)
    mean, low, high = (f"{unit.factor * number:{sign}.{unit.digits}f}" for number in inside)
    if math.isnan(inside.low):
        return mean
    if inside != interval:
        return f"{mean} [{low}, {high}]"
    return f"{mean} ± {unit.factor * (inside.high - inside.mean):.{unit.digits}f}"


def p_value(p: float) -> str:
    """A p-value in a sentence."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
