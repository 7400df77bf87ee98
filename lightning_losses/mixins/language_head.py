"""The mixin that spares a language model its logits in training."""

from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.environment.lightning_internals import attached_trainer
from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.networks.output_head import (
    check_head,
    check_hidden_states_reach,
    finished_logits,
    head_matrix,
    logit_scale,
    logit_softcap,
)
from lightning_losses.parallel.processes import total_of_all, world_size

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
    without bias, or an ``nn.Embedding`` whose weight is tied; or one of them with PEFT's LoRA, or in its
    `modules_to_save`. Under FSDP2 its sharded weight is gathered for the loss. The softcap and the scale that a network
    of transformers has in its configuration are applied, and a head with further layers before it is refused.

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
        matrix = None if isinstance(head, nn.Linear) else head_matrix(type(self).__name__, head)
        scores: Tensor = head(hidden) if matrix is None else F.linear(hidden, *matrix)
        return finished_logits(self._owner_of(head), scores)

    def find_head(self) -> nn.Module:
        """The layer that makes logits of hidden states."""
        given: Any = getattr(self, "language_head", None)
        told, named = zip(*(_offers(owner) for owner in (self, getattr(self, "network", None))), strict=True)
        offered = [given, *told, *chain(*named)]
        head = next((layer for layer in offered if isinstance(layer, nn.Module)), None)
        if head is None:
            raise ValueError(
                f"{type(self).__name__}: no head was found under {', '.join(_NAMES)}; set "
                "self.language_head to the layer that makes the logits."
            )
        check_head(type(self).__name__, head)
        if head is not given:
            check_hidden_states_reach(type(self).__name__, self._owner_of(head), head)
        return head

    def head_softcap(self) -> float | None:
        """What the configuration of the network whose head it is caps the logits at; None for no softcap."""
        return logit_softcap(self._owner_of(self.find_head()))

    def language_loss(
        self, hidden: Float[Tensor, "*tokens width"], target: Int[Tensor, "*tokens"], **options: Any
    ) -> Float[Tensor, ""]:
        """`linear_cross_entropy` of the head, as the mean over all tokens of the optimizer step, logged per token.

        Args:
            hidden: [..., T, D] the last layer's output.
            target: [..., T] token ids.
            **options: those of `linear_cross_entropy`, `shift` among them; without `softcap`, the configuration's.
        """
        options.setdefault("softcap", self.head_softcap())
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
        """The head's whole weight and bias in the hidden states' dtype, for any fused loss; `head_softcap` is apart."""
        head = self.find_head()
        weight, bias = head_matrix(type(self).__name__, head, logit_scale(self._owner_of(head)))
        return weight.to(dtype), None if bias is None else bias.to(dtype)

    def _owner_of(self, head: nn.Module) -> Any:
        """The network whose head it is, if that has a configuration."""
        for owner in (self, getattr(self, "network", None), *self.children()):
            told, named = _offers(owner)
            if hasattr(owner, "config") and any(layer is head for layer in (told, *named)):
                return owner
        return None

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


def _offers(owner: Any) -> tuple[Any, list[Any]]:
    """What an owner tells to be its head, and what may be it by its name."""
    told = getattr(owner, "get_output_embeddings", None)
    return told() if callable(told) else None, [getattr(owner, name, None) for name in _NAMES]
