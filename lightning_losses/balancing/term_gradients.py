"""The gradient of each term of an optimizer step, and its reweighting by a policy."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightning_losses.parallel.processes import is_distributed_tensor, maximum_of_all, total_of_all, world_size

# Numbers of each term that are in double precision at once.
_PART = 1 << 20


class TermGradients:
    """Gathers each term's gradient over the batches of a step and all processes, and reweights their sum.

    The usual backward pass accumulates the sum of the terms' gradients in ``parameter.grad``; each term has a further
    backward pass for every batch. At the end ``Σ (w - 1) g`` is added, so that other parts of the sum, such as a
    penalty of the module's own, are not changed.

    Args:
        who: the name that errors begin with.
        parameters: the trainable parameters by name.
        terms: the number of terms.
        shared: the names of the shared parameters; None: those on which several terms depend, or the only term.

    Raises:
        ValueError: parameters that FSDP2 shards.
    """

    def __init__(
        self, who: str, parameters: Mapping[str, nn.Parameter], terms: int, shared: Collection[str] | None = None
    ) -> None:
        for name, parameter in parameters.items():
            if is_distributed_tensor(parameter):
                raise ValueError(
                    f"{who}: FSDP2 shards {name}, so that the terms' gradients can't be separated; use DDP, or a "
                    "policy that uses loss values."
                )
        self.parameters = list(parameters.values())
        self._named = None if shared is None else [name in shared for name in parameters]
        sizes = [parameter.numel() for parameter in self.parameters]
        self._bounds = [0, *torch.tensor(sizes).cumsum(dim=0).tolist()]
        first = self.parameters[0]
        dtype = torch.promote_types(max((p.dtype for p in self.parameters), key=lambda d: d.itemsize), torch.float32)
        self.rows: Float[Tensor, "terms numbers"] = torch.zeros(
            terms, self._bounds[-1], dtype=dtype, device=first.device
        )
        self._reached: Bool[Tensor, "terms parameters"] = torch.zeros(terms, len(sizes), dtype=torch.bool)

    def add(self, shares: Sequence[Tensor], scale: Tensor, samples: Float[Tensor, " terms"] | None) -> None:
        """Add a batch's gradients.

        Args:
            shares: each term's part of the objective, with its graph, which is kept.
            scale: the factor of the objective in the backward pass.
            samples: the samples behind each share of its term's mean; None if the step has no other batch.
        """
        for term, share in enumerate(shares):
            if not share.requires_grad:
                continue
            gradients = torch.autograd.grad(
                share, self.parameters, scale.to(share), retain_graph=True, allow_unused=True
            )
            for number, (gradient, (begin, end)) in enumerate(zip(gradients, pairwise(self._bounds), strict=True)):
                if gradient is not None:
                    self._reached[term, number] = True
                    row = self.rows[term, begin:end]
                    own = gradient.detach().reshape(-1).to(row.dtype)
                    row.add_(own if samples is None else own * samples[term].to(row))

    def of_step(self, factors: Float[Tensor, " terms"] | None) -> None:
        """Average the added gradients over all processes, and multiply each term's by its factor."""
        if world_size() > 1:
            self.rows = total_of_all(self.rows) / world_size()
            reached = maximum_of_all(self._reached.to(self.rows.device, torch.uint8))
            self._reached = reached.cpu().bool()
        if factors is not None:
            self.rows *= factors.to(self.rows).unsqueeze(-1)

    def gram(self) -> Float[Tensor, "terms terms"]:
        """The inner products of the terms' gradients over the shared parameters, in double precision on the CPU."""
        terms = len(self.rows)
        wide = torch.float32 if self.rows.device.type == "mps" else torch.float64
        gram = torch.zeros(terms, terms, dtype=wide, device=self.rows.device)
        for begin, end in self._runs(self.shared()):
            for part in torch.split(self.rows[:, begin:end], _PART, dim=1):
                # Widened before they are multiplied: products of float32 could under- or overflow.
                part = part.to(wide)
                gram += part @ part.T
        return (gram.triu() + gram.triu(1).T).cpu().double()

    def shared(self) -> list[bool]:
        """For each parameter, whether its gradients are balanced."""
        if self._named is not None:
            return self._named
        return (self._reached.sum(dim=0) >= min(2, len(self.rows))).tolist()

    @torch.no_grad()
    def add_to_gradients(
        self, weights: Float[Tensor, " terms"], head_weights: Float[Tensor, " terms"] | None = None
    ) -> None:
        """Add ``Σ (w - 1) g`` to the parameters' gradients.

        Args:
            weights: w for the shared parameters.
            head_weights: w for the others; None leaves them unchanged.
        """
        shared = self.shared()
        for number, (begin, end) in enumerate(pairwise(self._bounds)):
            gradient, factors = self.parameters[number].grad, weights if shared[number] else head_weights
            if gradient is None or factors is None:
                continue
            change = torch.zeros_like(self.rows[0, begin:end])
            for term, factor in enumerate((factors - 1).tolist()):
                if factor:
                    change.add_(self.rows[term, begin:end], alpha=factor)
            gradient.add_(change.view_as(gradient).to(gradient.dtype))

    def _runs(self, chosen: Sequence[bool]) -> Iterator[tuple[int, int]]:
        """Slices of the rows that hold chosen parameters, as few as possible."""
        begin = None
        for number, is_chosen in enumerate([*chosen, False]):
            if is_chosen and begin is None:
                begin = self._bounds[number]
            elif not is_chosen and begin is not None:
                yield begin, self._bounds[number]
                begin = None
