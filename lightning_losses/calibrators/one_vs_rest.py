"""The base of calibrators that map each class's score separately and then normalise."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.calibrators.base import Calibrator
from lightning_losses.numerics.probabilities import full_precision

_ROWS = 1 << 12


class OneVsRest(Calibrator):
    """Base of the calibrators of binary scores; more classes are mapped each against the rest, then normalised.

    A subclass maps the score and outcome of one class to tensors in `_fit_class`, puts those of all classes together
    in `_stack`, and maps scores to probabilities in `_map`.
    """

    takes_binary = True

    def class_probabilities(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Each class's calibrated probability against the rest, before the normalisation."""
        # In the precision of the fit, so that samples of the fit stay on the same side of each step.
        return self._mapped(logits.to(self._precision)).to(full_precision(logits).dtype)

    def _mapped(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        scores = self._scores(logits, self._single)
        return self._map(scores.unsqueeze(-1)).squeeze(-1) if self._single else self._map(scores)

    def _scores(self, logits: Float[Tensor, "*shape"], single: bool) -> Float[Tensor, "*shape"]:
        """The scores to map: probabilities, unless a subclass overrides this."""
        return torch.sigmoid(logits) if single else torch.softmax(logits, dim=-1)

    @property
    def _single(self) -> bool:
        """Whether it was fitted on binary logits of shape [N]."""
        return len(self.value_of(self.learned[0])) == 1

    @property
    def _classes(self) -> int | None:
        return None if self._single else len(self.get_buffer(self.learned[0]))

    def _fit(self, logits: Float[Tensor, "*shape"], target: Int[Tensor, " rows"]) -> dict[str, Tensor]:
        if logits.ndim == 1:
            return self._stack([self._fit_class(self._scores(logits, True), target == 1)])
        columns = logits.new_empty(logits.shape[-1], len(logits))
        for part, rows in zip(torch.split(columns, _ROWS, dim=1), torch.split(logits, _ROWS), strict=True):
            part.copy_(self._scores(rows, False).T)
        return self._stack([self._fit_class(column, target == c) for c, column in enumerate(columns)])

    def _fit_class(self, score: Float[Tensor, " rows"], outcome: Bool[Tensor, " rows"]) -> dict[str, Tensor]:
        raise NotImplementedError

    def _stack(self, classes: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([fitted[name] for fitted in classes]) for name in self.learned}

    def _map(self, scores: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        raise NotImplementedError

    def _calibrate(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        probabilities = self.class_probabilities(logits)
        if self._single:
            return torch.logit(probabilities)
        # Masked classes get probability 0, whatever their map gives.
        total = probabilities.masked_fill(logits == -torch.inf, 0).sum(dim=-1, keepdim=True)
        # If every class got 0, the result is uniform.
        return torch.where(total == 0, 1.0, probabilities).log()


class LogOddsOneVsRest(OneVsRest):
    """Base of those whose `_map` returns the log-odds of each class, because probabilities near 1 would round to 1."""

    def class_probabilities(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Each class's calibrated probability against the rest, before the normalisation."""
        return torch.sigmoid(self._mapped(self._widened(logits))).to(full_precision(logits).dtype)

    def _calibrate(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        mapped = self._mapped(self._widened(logits))
        return (mapped if self._single else F.logsigmoid(mapped)).to(logits.dtype)
