"""The mixin that trains a language model without storing its logits."""

from collections.abc import Hashable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.mixins.training_means import TrainingMeans, all_processes
from lightning_losses.networks.head_input import check_what_follows_head, head_input
from lightning_losses.networks.output_head import (
    HEAD_NAMES,
    check_head,
    check_hidden_states_reach,
    finished_logits,
    head_matrix,
    logit_scale,
    logit_softcap,
    offered_heads,
)
from lightning_losses.objective.term import Count
from lightning_losses.parallel.processes import world_size


class LanguageHeadMixin(TrainingMeans):
    """Lets a LightningModule return hidden states in training and logits in evaluation, with a fused loss between.

    End `forward` with ``return self.head_output(hidden)``, and `training_step` with ``self.language_loss(hidden,
    target)``; ``self.hidden_states(inputs)`` gives the hidden states of an unchanged `self.network`, from transformers
    or elsewhere. The head is `self.language_head` if set, else the result of ``get_output_embeddings()``, else
    a layer called ``lm_head``, ``head``, ``output`` or ``output_projection``. It is a plain ``nn.Linear``, with or
    without bias, or an ``nn.Embedding`` whose weight is tied; or one of them with PEFT's LoRA, or in its
    `modules_to_save`. Under FSDP2 its sharded weight is gathered for the loss. The softcap and the scale that a network
    of transformers has in its configuration are applied. A head with further layers before it raises an error, unless
    the hidden states come from `hidden_states`; so does a network that changes the head's output in an unknown way.

    The mean is over the tokens of the whole optimizer step: of all processes, and of all accumulated batches, however
    unevenly their tokens are ignored, as `TrainingMeans` says.

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

    _asks_for_hidden_states: bool = False

    def head_output(self, hidden: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens features"]:
        """The hidden states in training, their logits in evaluation."""
        if self.training:
            return hidden
        head = self.find_head()
        matrix = None if isinstance(head, nn.Linear) else head_matrix(type(self).__name__, head)
        scores: Tensor = head(hidden) if matrix is None else F.linear(hidden, *matrix)
        return finished_logits(self._owner_of(head), scores)

    def hidden_states(self, inputs: Any, **further: Any) -> Float[Tensor, "*tokens width"]:
        """The hidden states that `self.network` gives its head, for `language_loss`; the head itself is not computed.

        Args:
            inputs: the tokens, or a mapping of the network's arguments by name.
            **further: more arguments by name.

        Raises:
            ValueError: as `find_head`; a network that changes its head's output in an unknown way.
        """
        self._asks_for_hidden_states = True
        network: Any = self.network
        return head_input(type(self).__name__, network, self.find_head(), inputs, **further)

    def find_head(self) -> nn.Module:
        """The layer that turns hidden states into logits."""
        given: Any = getattr(self, "language_head", None)
        heads = [given] if isinstance(given, nn.Module) else offered_heads(self, getattr(self, "network", None))
        if not heads:
            raise ValueError(
                f"{type(self).__name__}: no head was found under {', '.join(HEAD_NAMES)}; set "
                "self.language_head to the layer that makes the logits."
            )
        head = heads[0]
        check_head(type(self).__name__, head)
        # Hidden states from `hidden_states` certainly are the head's input.
        if head is not given and not self._asks_for_hidden_states:
            owner = self._owner_of(head)
            check_hidden_states_reach(type(self).__name__, owner, head)
            if isinstance(owner, nn.Module) and owner is not self:
                check_what_follows_head(type(self).__name__, owner, head)
        return head

    def head_softcap(self) -> float | None:
        """The softcap of the logits in the configuration of the head's network; None for no softcap."""
        return logit_softcap(self._owner_of(self.find_head()))

    def language_loss(
        self, hidden: Float[Tensor, "*tokens width"], target: Int[Tensor, "*tokens"], **options: Any
    ) -> Float[Tensor, ""]:
        """`linear_cross_entropy` of the head, as the mean over all tokens of the optimizer step, logged per token.

        Several calls in a step are logged as one mean over all their tokens, however the step combines their losses.

        Args:
            hidden: [..., T, D] the last layer's output.
            target: [..., T] token ids.
            **options: those of `linear_cross_entropy`, `shift` among them; without `softcap`, the configuration's.
        """
        options.setdefault("softcap", self.head_softcap())
        counted = {name: options[name] for name in ("shift", "ignore_index") if name in options}
        own, tokens = self.count_tokens(target, **counted)
        weight, bias = self.head_parameters(hidden.dtype)
        loss = linear_cross_entropy(hidden, weight, target, bias, normalizer=normalizer_of(own), **options)
        self.add_to_means(self.log_name(), {"": loss}, {"": 1.0}, {"": own})
        return self.share_of_step(loss, tokens)

    def head_parameters(self, dtype: torch.dtype) -> tuple[Float[Tensor, "vocabulary width"], Tensor | None]:
        """The head's whole weight and bias in the hidden states' dtype, for any fused loss, without `head_softcap`."""
        head = self.find_head()
        weight, bias = head_matrix(type(self).__name__, head, logit_scale(self._owner_of(head)))
        return weight.to(dtype), None if bias is None else bias.to(dtype)

    def _owner_of(self, head: nn.Module) -> Any:
        """The network that owns the head, if it has a configuration."""
        for owner in (self, getattr(self, "network", None), *self.children()):
            if hasattr(owner, "config") and any(layer is head for layer in offered_heads(owner)):
                return owner
        return None

    def count_tokens(
        self, target: Int[Tensor, "*tokens"], shift: int | bool = 0, ignore_index: int = -100
    ) -> tuple[Float[Tensor, ""], Count]:
        """This process's part of the kept tokens of a batch, and the tokens of all processes.

        In training each process has the same part, so that the mean of their losses is the mean over all tokens.
        """
        kept = (target[..., int(shift) :] != ignore_index).sum()
        # Without a shift the count equals that of other losses of the same target.
        kind: Hashable = ("kept", ignore_index, int(shift)) if shift else ("kept", ignore_index)
        return self._counted(kept, kind, target)

    def count_every_token(self, target: Int[Tensor, "*tokens"]) -> tuple[Float[Tensor, ""], Count]:
        """The same counts for all tokens, whatever their target."""
        everything = torch.full((), target.numel(), device=target.device)
        return self._counted(everything, ("rows", target.ndim), target.numel())

    def _counted(self, samples: Int[Tensor, ""], kind: Hashable, of: Any) -> tuple[Float[Tensor, ""], Count]:
        tokens = Count(samples if self.evaluates else all_processes(samples), kind, of)
        return tokens.samples / (1 if self.evaluates else world_size()), tokens


def normalizer_of(samples: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The divisor of a fused loss's sum: the number of samples, at least 1."""
    return torch.where(samples > 0, samples, 1.0).float()
