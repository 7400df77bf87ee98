"""The mixin that spares a language model its logits in training."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.environment.lightning_internals import attached_trainer
from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.parallel.processes import total_of_all, whole_parameter, world_size

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule as _Base
else:
    _Base = object

_NAMES = ("lm_head", "head", "output", "output_projection")


class LanguageHeadMixin(_Base):
    """Lets a LightningModule return hidden states in training and logits in evaluation, with a fused loss between.

    End `forward` with ``return self.head_output(hidden)``, and `training_step` with ``self.language_loss(hidden,
    target)``. The head is `self.language_head` if set, else what the network's ``get_output_embeddings()`` gives, else
    a layer called ``lm_head``, ``head``, ``output`` or ``output_projection``. It is a plain ``nn.Linear``, with or
    without bias, or an ``nn.Embedding`` whose weight is tied. Under FSDP2 its sharded weight is gathered for the loss.

    The mean is over the tokens of the whole optimizer step: of all processes, and of all accumulated batches, however
    unevenly their tokens are ignored. Until the step is due nobody knows how many these are, so gradients are summed
    by the first batch's count, and scaled to the final one before the optimizer sees them. That scales what else the
    step's loss may hold as well.

    Example:
        >>> import lightning
        >>> class Bigram(LanguageHeadMixin, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)
        ...     def forward(self, tokens):
        ...         return self.head_output(self.embedding(tokens))
        ...     def training_step(self, tokens, batch_idx):
        ...         return self.language_loss(self(tokens), tokens, shift=1)
        >>> model, tokens = Bigram(), torch.arange(6).reshape(2, 3)
        >>> model(tokens).shape, model.eval()(tokens).shape
        (torch.Size([2, 3, 4]), torch.Size([2, 3, 9]))
    """

    def head_output(self, hidden: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens features"]:
        """The hidden states in training, their logits in evaluation."""
        if self.training:
            return hidden
        head = self.find_head()
        logits: Tensor = head(hidden) if isinstance(head, nn.Linear) else hidden @ whole_parameter(head.weight).t()
        return logits

    def find_head(self) -> nn.Linear | nn.Embedding:
        """The layer that makes logits of hidden states."""
        owners: list[Any] = [owner for owner in (self, getattr(self, "network", None)) if owner is not None]
        offered: list[Any] = [getattr(self, "language_head", None)]
        offered += [
            owner.get_output_embeddings() for owner in owners if callable(getattr(owner, "get_output_embeddings", None))
        ]
        offered += [getattr(owner, name, None) for owner in owners for name in _NAMES]
        head = next((layer for layer in offered if isinstance(layer, nn.Module)), None)
        if head is None:
            raise ValueError(
                f"{type(self).__name__}: no head was found under {', '.join(_NAMES)}; set "
                "self.language_head to the layer that makes the logits."
            )
        # By its forward: FSDP2 subclasses what it shards, and an adapter that adds to the product overrides it.
        if type(head).forward not in (nn.Linear.forward, nn.Embedding.forward):
            raise ValueError(
                f"{type(self).__name__}: the head is a {type(head).__name__}; give a plain nn.Linear, or an "
                "nn.Embedding that is tied, and merge adapters into it first."
            )
        return head  # type: ignore[return-value]

    def language_loss(
        self, hidden: Float[Tensor, "*tokens width"], target: Int[Tensor, "*tokens"], **options: Any
    ) -> Float[Tensor, ""]:
        """`linear_cross_entropy` of the head, as the mean over all tokens of the optimizer step, logged per token.

        Args:
            hidden: [..., T, D] the last layer's output.
            target: [..., T] token ids.
            **options: those of `linear_cross_entropy`, `shift` among them.
        """
        counted = {name: options[name] for name in ("shift", "ignore_index") if name in options}
        tokens, unit = self.count_tokens(target, **counted)
        weight, bias = self.head_parameters(hidden.dtype)
        loss = linear_cross_entropy(hidden, weight, target, bias, normalizer=unit, **options)
        if attached_trainer(self) is not None:
            # Per token of this batch, whatever the step's gradient is divided by.
            own = loss.detach() * unit / tokens.clamp(min=1)
            self.log("train/loss", own, on_step=False, on_epoch=True, sync_dist=True, batch_size=max(int(tokens), 1))
        return loss

    def head_parameters(self, dtype: torch.dtype) -> tuple[Float[Tensor, "vocabulary width"], Tensor | None]:
        """The head's whole weight and bias, in the hidden states' dtype, for any fused loss."""
        head = self.find_head()
        bias = getattr(head, "bias", None)
        return whole_parameter(head.weight).to(dtype), None if bias is None else whole_parameter(bias).to(dtype)

    def count_tokens(
        self, target: Int[Tensor, "*tokens"], shift: int | bool = 0, ignore_index: int = -100
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """This batch's kept tokens, and the `normalizer` to hand to a fused loss; called once a batch.

        The normalizer is the first accumulated batch's tokens per process. With it, gradients averaged over processes
        and over batches are right up to a factor, which `on_before_optimizer_step` knows.
        """
        tokens = (target[..., int(shift) :] != ignore_index).sum().float()
        total = total_of_all(tokens)
        step = self.__dict__.setdefault("_step_tokens", {})
        if not self.training or "unit" not in step:
            unit = (total / world_size()).clamp(min=1 / world_size())
            if not self.training:
                return tokens, unit
            step.update(unit=unit, total=torch.zeros_like(total))
        step["total"] = step["total"] + total
        return tokens, step["unit"]

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Scale the accumulated gradients to the mean over the step's tokens."""
        super().on_before_optimizer_step(optimizer)
        step = self.__dict__.pop("_step_tokens", None)
        batches = self.trainer.accumulate_grad_batches
        if step is None or batches == 1:
            return
        factor = batches * world_size() * step["unit"] / step["total"].clamp(min=1)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor.to(parameter.grad.dtype))
