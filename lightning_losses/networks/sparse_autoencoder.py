"""A sparse autoencoder: features as sums of few of many directions, which are learned."""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_losses.networks.half_precision import buffers_in_full_precision
from lightning_losses.networks.sparse_choices import Choice, feature_choice, mutual_choice, token_choice
from lightning_losses.numerics.checks import check_choice, check_count, check_number
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.parallel.processes import maximum_of_all, sizes_of_all


class SparseAutoencoder(nn.Module):
    """Explains features, such as a network's hidden states, as sums of few of many learned directions.

    ``x̂ = f W_dec + b_dec`` with ``f = choice(W_enc (x - b_dec) + b_enc)``; the rows of W_dec have length 1. In training
    the choice spends a budget of k latents a sample on the batch, that of all processes; in evaluation, where a sample
    is to have the same codes in any batch, "feature" and "mutual" keep what reaches the running mean of the smallest
    kept values, a buffer; before any training that is 0.

    Call `constrain` with the optimizer, which keeps the rows' length. On several processes all call the module at once
    in training.

    Args:
        num_features: D, at least 1.
        num_latents: F, at least 1.
        k: the latents of a sample, on average, at least 1.
        choice: "token" keeps the k largest of each sample, "feature" equally many of each latent, "mutual" the largest
            of the batch; see `lightning_losses.networks.sparse_choices`.
        dead_after: a latent is dead once this many samples did not use it, at least 1.
        auxiliary: how many dead latents of a sample give `dead_reconstruction`, those with the largest values; D / 2 if
            None.
        momentum: of the running thresholds, at least 0 and below 1.

    Attributes:
        threshold: the running mean of the smallest kept values, [F] or []; what evaluation keeps.
        unused: [F] how many samples have come since each latent was used.

    Shapes:
        inputs: [B, D]; returns a mapping of tensors by the glossary's names, for an objective: `features` (the inputs),
        `reconstruction` [B, D], `dead_reconstruction` [B, D] and `dead` [F]; and `codes` [B, F].

    Raises:
        ValueError: numbers out of range; an unknown choice.

    Source:
        Gao et al., 2024, arXiv:2406.04093; Ayonrinde, 2024, arXiv:2411.02124.

    Example:
        >>> network = SparseAutoencoder(4, num_latents=16, k=2)
        >>> output = network(torch.randn(8, 4))
        >>> output["reconstruction"].shape, int((output["codes"] > 0).sum())
        (torch.Size([8, 4]), 16)
    """

    threshold: Tensor
    unused: Tensor
    batches: Tensor

    def __init__(
        self,
        num_features: int,
        num_latents: int,
        k: int = 32,
        choice: Choice = "mutual",
        *,
        dead_after: int = 100_000,
        auxiliary: int | None = None,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        auxiliary = max(num_features // 2, 1) if auxiliary is None else auxiliary
        for name, value in (
            ("num_features", num_features), ("num_latents", num_latents), ("k", k), ("dead_after", dead_after),
            ("auxiliary", auxiliary),
        ):  # fmt: skip
            check_count("sparse_autoencoder", name, value)
        check_choice("sparse_autoencoder", "choice", choice, Choice)
        check_number("sparse_autoencoder", "momentum", momentum, least=0, most=1 - 1e-9)
        self.k, self.choice, self.momentum = k, choice, momentum
        self.dead_after, self.auxiliary = dead_after, min(auxiliary, num_latents)
        # Each latent begins by reading what it writes.
        rows = F.normalize(torch.randn(num_latents, num_features), dim=1)
        self.encoder = nn.Parameter(rows.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(num_latents))
        self.decoder = nn.Parameter(rows)
        self.decoder_bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("threshold", torch.zeros(num_latents if choice == "feature" else ()))
        self.register_buffer("unused", torch.zeros(num_latents, dtype=torch.int64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Float[Tensor, "batch features"]) -> dict[str, Tensor]:
        """Codes and reconstructions."""
        with torch.autocast(inputs.device.type, enabled=False):
            # In half precision many values are equal, and a threshold would keep too many.
            x = full_precision(inputs)
            encoder, encoder_bias, decoder, decoder_bias = (
                full_precision(each) for each in (self.encoder, self.encoder_bias, self.decoder, self.decoder_bias)
            )
            values = F.linear(x - decoder_bias, encoder, encoder_bias)
            codes = self._codes(values)
            dead = self.unused >= self.dead_after
            strongest = values.masked_fill(~dead, -torch.inf).topk(self.auxiliary, dim=1)
            of_dead = torch.zeros_like(values).scatter(1, strongest.indices, strongest.values.relu())
            return {
                "features": x,
                "codes": codes,
                "reconstruction": codes @ decoder + decoder_bias,
                "dead_reconstruction": of_dead @ decoder,
                "dead": dead,
            }

    def constrain(self, optimizer: Optimizer) -> list[RemovableHandle]:
        """Have an optimizer keep the decoder's rows at length 1: their gradients lose the part along the rows.

        Returns:
            The handles of its hooks, before and after each step.
        """

        def before(*step: Any) -> None:
            if self.decoder.grad is not None:
                along = (self.decoder.grad * self.decoder.detach()).sum(dim=1, keepdim=True)
                self.decoder.grad -= along * self.decoder.detach()

        @torch.no_grad()
        def after(*step: Any) -> None:
            self.decoder.copy_(F.normalize(self.decoder, dim=1))

        return [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the module as torch does, but keep its thresholds out of half precision, where a mean would stand."""
        with buffers_in_full_precision(self):
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        """The sizes."""
        latents, features = self.encoder.shape
        return f"num_features={features}, num_latents={latents}, k={self.k}, choice={self.choice!r}"

    def _codes(self, values: Float[Tensor, "batch latents"]) -> Float[Tensor, "batch latents"]:
        if not self.training and self.choice != "token":
            return values.relu() * (values.detach() >= self.threshold)
        choose = {"token": token_choice, "feature": feature_choice, "mutual": mutual_choice}[self.choice]
        codes, smallest = choose(values, self.k)
        if self.training:
            self._remember(codes.detach(), smallest)
        return codes

    @torch.no_grad()
    def _remember(self, codes: Float[Tensor, "batch latents"], smallest: Float[Tensor, "..."]) -> None:
        """Renew the running thresholds, and how long each latent has not been used."""
        samples = sum(sizes_of_all(len(codes), codes.device))
        if samples == 0:
            return
        used = maximum_of_all((codes > 0).any(dim=0).long())
        self.unused += samples
        self.unused.masked_fill_(used > 0, 0)
        if self.choice != "token":
            # Below 0 nothing is kept anyway.
            share = torch.where(self.batches == 0, 1.0, 1 - self.momentum)
            self.threshold.lerp_(smallest.clamp(min=0).to(self.threshold), share.to(self.threshold))
        self.batches += 1
