"""Preference formulas: what a loss of preferences says, written as a ratio of probabilities, and the loss of it."""

import re
from dataclasses import field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import PreferenceLoss, PreferencePairs
from lightning_losses.numerics.checks import check_choice
from lightning_losses.numerics.probabilities import log1mexp, softplus
from lightning_losses.numerics.settings import Positive

# A probability whose complement is asked for is at most exp of this: that of 1 would be log 0.
_MOST = -1e-6
_TERM = re.compile(r"(?:(\d+(?:\.\d+)?) )?(not\()?(mean\()?(ref_)?(chosen|rejected)(\)*)")
NamedFormula = Literal["dpo", "hinge", "ipo", "cpo", "simpo", "orpo", "unlikelihood", "npo"]


class FormulaTerm(NamedTuple):
    """A logarithm of a formula: a coefficient, and the probability of a completion or its complement."""

    coefficient: float
    side: str
    reference: bool
    mean: bool
    complement: bool


class PreferenceFormula(PreferenceLoss):
    """A loss of preferences from a formula: which probabilities shall be larger than which others.

    ``w ℓ(β (log top - log bottom) - m)``, with ℓ the logistic ``log(1 + exp(-z))``, the hinge ``max(0, 1 - z)`` or the
    square ``z^2``. Top and bottom are products of probabilities, written as the sums of their logarithms:

    - "chosen", "rejected", "ref_chosen", "ref_rejected" are the policy's and the reference's log-probabilities of whole
      completions; "mean(chosen)" is the mean over the tokens, and "not(chosen)" ``log(1 - p)``;
    - "chosen + ref_rejected" adds two, "2 chosen" counts one twice;
    - a bottom of "not top" is ``log(1 - exp(log top))``: with the logistic, β = 1 and m = 0 the loss is then
      ``-log top``, that what top says is true.

    Args:
        top: the formula's numerator.
        bottom: its denominator.
        link: ℓ: "logistic", "hinge" or "square".
        beta: β, above 0.
        margin: m.
        weight: w, above 0.

    Shapes:
        chosen_logps, ref_chosen_logps (where the formula has it), chosen_mask (optional): [B, T]; the rejected
        likewise: [B, S].

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a formula that is none; a reference that did not come.

    Source:
        The idea is that of Richardson, Srikumar, Sabharwal, 2024, "Understanding the Logic of Direct Preference
        Alignment through Logic", arXiv:2412.17696; the notation is ours.

    Example:
        >>> loss = PreferenceFormula("mean(chosen)", "mean(rejected)", beta=1.0)
        >>> round(loss(torch.tensor([[-1.0, -1.0]]), torch.tensor([[-1.0]])).item(), 4)  # log 2
        0.6931
    """

    status = "experimental"
    evidence = "no golden values: a notation for losses that have theirs; its rows are compared with these"

    top: str = "chosen + ref_rejected"
    bottom: str = "rejected + ref_chosen"
    link: Literal["logistic", "hinge", "square"] = "logistic"
    beta: Positive = 0.1
    margin: float = 0.0
    weight: Positive = 1.0
    terms: tuple[tuple[FormulaTerm, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        bottom = () if self.bottom == "not top" else self._parsed("bottom", self.bottom)
        self.terms = (self._parsed("top", self.top), bottom)

    def forward(
        self,
        chosen_logps: Float[Tensor, "pairs tokens"],
        rejected_logps: Float[Tensor, "pairs others"],
        chosen_mask: Shaped[Tensor, "pairs tokens"] | None = None,
        rejected_mask: Shaped[Tensor, "pairs others"] | None = None,
        ref_chosen_logps: Float[Tensor, "pairs tokens"] | None = None,
        ref_rejected_logps: Float[Tensor, "pairs others"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        for side, reference in (("chosen", ref_chosen_logps), ("rejected", ref_rejected_logps)):
            if reference is None and any(term.reference and term.side == side for term in sum(self.terms, ())):
                raise ValueError(
                    f"{self._identifier}: the formula has ref_{side}, but no ref_{side}_logps came; give them, or a "
                    "formula without a reference."
                )
        return self.reduced(
            self.given(chosen_logps, rejected_logps, chosen_mask, rejected_mask, ref_chosen_logps, ref_rejected_logps)
        )

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        top, bottom = (_logarithm(terms, given) for terms in self.terms)
        gap = top - (log1mexp(top.clamp(max=_MOST)) if self.bottom == "not top" else bottom)
        z = self.beta * gap - self.margin
        if self.link == "logistic":
            return self.weight * softplus(-z)
        return self.weight * ((1 - z).clamp(min=0) if self.link == "hinge" else z.square())

    def _parsed(self, name: str, formula: str) -> tuple[FormulaTerm, ...]:
        parts = [_TERM.fullmatch(part.strip()) for part in formula.split("+")] if isinstance(formula, str) else [None]
        # As many brackets are closed as were opened.
        if any(part is None or len(part[6]) != sum(bool(part[opened]) for opened in (2, 3)) for part in parts):
            raise ValueError(
                f"{self._identifier}: {name}={formula!r} came; give a sum such as '2 chosen + not(mean(ref_rejected))'."
            )
        return tuple(
            FormulaTerm(float(part[1] or 1), part[5], bool(part[4]), bool(part[3]), bool(part[2]))
            for part in parts
            if part is not None
        )


def named_formula(name: NamedFormula, beta: float = 0.1, margin: float = 0.0) -> PreferenceFormula:
    """The formula of a known loss, with its β, and γ as the margin of SimPO.

    CPO and ORPO are without their likelihood term. NPO is of the rejected completions, which shall be forgotten;
    unlikelihood has neither β nor margin.

    Raises:
        ValueError: another name.

    Example:
        >>> named_formula("orpo", beta=0.2)
        PreferenceFormula(top='mean(chosen) + not(mean(rejected))', bottom='mean(rejected) + not(mean(chosen))', \
link='logistic', beta=1.0, margin=0.0, weight=0.2, reduction='mean')
    """
    check_choice("named_formula", "name", name, NamedFormula)
    ratio, mean_ratio = ("chosen + ref_rejected", "rejected + ref_chosen"), ("mean(chosen)", "mean(rejected)")
    if name in ("dpo", "hinge"):
        return PreferenceFormula(*ratio, "hinge" if name == "hinge" else "logistic", beta, margin)
    if name == "ipo":
        referred = "mean(chosen) + mean(ref_rejected)", "mean(rejected) + mean(ref_chosen)"
        return PreferenceFormula(*referred, "square", 1.0, 1 / (2 * beta))
    if name == "orpo":
        odds = "mean(chosen) + not(mean(rejected))", "mean(rejected) + not(mean(chosen))"
        return PreferenceFormula(*odds, beta=1.0, weight=beta)
    if name == "unlikelihood":
        return PreferenceFormula("chosen + not(rejected)", "not top", beta=1.0)
    if name == "npo":
        return PreferenceFormula("ref_rejected", "rejected", beta=beta, weight=2 / beta)
    return PreferenceFormula(*(mean_ratio if name == "simpo" else ("chosen", "rejected")), beta=beta, margin=margin)


def _logarithm(terms: tuple[FormulaTerm, ...], given: PreferencePairs) -> Float[Tensor, " pairs"]:
    """The sum of a formula's logarithms, for each pair."""
    total = torch.zeros_like(given.chosen_sums)
    for term in terms:
        own = given.chosen if term.side == "chosen" else given.rejected
        logps = own.reference if term.reference and own.reference is not None else own.logps
        value = logps.sum(dim=1)
        if term.mean:
            value = value / own.lengths.clamp(min=1)
        if term.complement:
            value = log1mexp(value.clamp(max=_MOST))
        total = total + term.coefficient * value
    return total
