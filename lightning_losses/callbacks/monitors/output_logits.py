"""Watches the growth of the output logits."""

import torch
from torch import Tensor

from lightning_losses.callbacks.monitors.monitor import LogitMonitor
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure


class OutputLogits(LogitMonitor):
    """Logs the mean log-normaliser of the softmax and the mean largest logit of the training rows.

    Both can drift; `ZLoss`, added to cross-entropy, prevents that. Their difference is the negative logarithm of the
    confidence.

    Cost: one logsumexp of the step's logits, every n steps; no forward pass.

    Args:
        ignore_index, every_n_steps, folder: see `LogitMonitor`.

    Raises:
        ValueError: a training step that returns no logits and target.

    Source:
        Wortsman et al., 2023, "Small-scale Proxies for Large-scale Transformer Training Instabilities",
        arXiv:2309.14322.

    Example:
        >>> OutputLogits(every_n_steps=50).name
        'output_logits'
    """

    name = "output_logits"

    def rows(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Log-normaliser and largest logit of each row."""
        scores = full_precision(logits)
        return {"log_normaliser": torch.logsumexp(scores, dim=-1), "largest": scores.amax(dim=-1)}

    def figure(self) -> Figure:
        """Both over steps."""
        curves = {name.replace("_", "-"): (self.steps, values) for name, values in self.values.items()}
        return value_curves(curves, ylabel="logit")
