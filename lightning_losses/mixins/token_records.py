"""The mixin that gives a LightningModule the log-probabilities of tokens, of its network and of a frozen reference."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.data.language_batch import LanguageBatch, language_batch
from lightning_losses.environment.lightning_internals import attached_trainer
from lightning_losses.environment.logged_means import log_means
from lightning_losses.kernels.cross_entropy.problem import Impl
from lightning_losses.kernels.token_record import TokenRecord, token_record
from lightning_losses.mixins.distillation import DistillationMixin
from lightning_losses.mixins.language_head import LanguageHeadMixin
from lightning_losses.networks.head_input import check_documents_apart
from lightning_losses.objective import Term
from lightning_losses.parallel.processes import sizes_of_all, world_size
from lightning_losses.teachers import CachedLogits
from lightning_losses.teachers.reference_records import LOGPS_ALONE, Wanted, network_record, widen


class TokenRecordsMixin(DistillationMixin, LanguageHeadMixin):
    """Gives a LightningModule the log-probabilities of a text's tokens without its logits, and a reference's.

    The trained network is `self.network`; its head is what `LanguageHeadMixin` finds. The reference is `self.teacher`,
    with all that `DistillationMixin` says of teachers: a frozen copy, `WithoutAdapters(network)` for a network with
    PEFT's adapters, or the result of `load_cached_teacher` for what `cache_reference` wrote, which takes the batch's
    `index`.

    Attributes:
        ignore_index: tokens with this target do not count.
        record_impl: the implementation of the fused losses.
        record_temperature: the divisor of the scores.

    Example:
        >>> import lightning
        >>> from lightning_losses.networks.transformer import Transformer
        >>> class Model(TokenRecordsMixin, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = Transformer(9, context_length=8, width=8, depth=1, heads=2)
        >>> tokens = torch.arange(9).reshape(1, 9)
        >>> Model().token_record({"inputs": tokens[:, :8], "target": tokens[:, 1:]}).logps.shape
        torch.Size([1, 8])
    """

    ignore_index: int = -100
    record_impl: Impl = "auto"
    record_temperature: float = 1.0
    _asks_for_hidden_states = True

    def split_batch(self, batch: Any) -> LanguageBatch:
        """A batch's inputs and targets for `self.network`, in any form that `language_batch` takes."""
        network: Any = self.network
        if isinstance(batch, LanguageBatch):
            return batch
        given = language_batch(type(self).__name__, network, batch, self.ignore_index)
        if "position_ids" in given.further:
            check_documents_apart(type(self).__name__, network, self.find_head())
        return given

    def token_record(self, batch: Any, wanted: Wanted = LOGPS_ALONE) -> TokenRecord:
        """The record of a batch under the trained network.

        Args:
            batch: as `language_batch` takes it, or its result.
            wanted: what is needed beside log-probabilities.
        """
        given = self.split_batch(batch)
        return self.record_of(self.hidden_states(given.inputs, **given.further), given.target, wanted)

    def record_of(
        self,
        hidden: Float[Tensor, "*tokens width"],
        target: Int[Tensor, "*tokens"],
        wanted: Wanted = LOGPS_ALONE,
    ) -> TokenRecord:
        """The record of tokens whose hidden states, from `hidden_states`, are at hand."""
        weight, bias = self.head_parameters(hidden.dtype)
        softcap = self.head_softcap()
        return token_record(hidden, weight, target, bias, softcap=softcap, **self._options(), **wanted._asdict())

    @torch.no_grad()
    def reference_record(self, batch: Any, wanted: Wanted = LOGPS_ALONE) -> TokenRecord:
        """The record of a batch under the reference, without gradient.

        Raises:
            ValueError: no reference is set, or one without a head.
        """
        owner, reference = type(self).__name__, self.teacher
        if reference is None:
            raise ValueError(
                f"{owner}: the objective takes a reference's log-probabilities, but none is set; set self.teacher to "
                "the frozen reference, or give them in the batch."
            )
        given = self.split_batch(batch)
        with self.teacher_in_evaluation():
            return network_record(owner, reference, given, wanted, **self._options())

    def _options(self) -> dict[str, Any]:
        return {
            "ignore_index": self.ignore_index,
            "impl": self.record_impl,
            "temperature": self.record_temperature,
        }

    def cached_reference(self, batch: Mapping[str, Any], widths: Sequence[int]) -> list[Float[Tensor, "batch _"]]:
        """What a cached reference says of a batch's texts, one after the other.

        Args:
            batch: holds `index`, the samples' positions in the data set that the cache was made of.
            widths: the tokens of each text.

        Raises:
            ValueError: a batch without `index`, or texts of another width than the cached ones.
        """
        owner, reference = type(self).__name__, self.teacher
        assert isinstance(reference, CachedLogits)
        if "index" not in batch:
            raise ValueError(f"{owner}: a cached reference needs 'index' in the batch, and it holds {sorted(batch)}.")
        logps = reference(batch["index"])
        if logps.shape[1] != sum(widths):
            raise ValueError(
                f"{owner}: the cached reference has {logps.shape[1]} tokens for each sample, and the batch "
                f"{sum(widths)}; pad every sample of the data set to the same number, and make the cache of it."
            )
        return list(torch.split(logps, list(widths), dim=1))

    def takes(self, name: str) -> bool:
        """Whether a term needs a tensor: by name, or by a setting of its loss that asks for an optional one."""
        terms = [term for term in getattr(self.objective, "terms", {}).values() if isinstance(term, Term)]
        return any(
            term.needs.get(name) or (name in term.needs and name in getattr(term.loss, "needed", dict)())
            for term in terms
        )

    def log_beside(self, values: Mapping[str, Tensor], samples: int) -> None:
        """Log means over so many samples beside the objective, as ``<stage>/<name>``; nothing without a trainer."""
        names = {self.log_name(name): value for name, value in values.items()}
        if attached_trainer(self) is not None and self.log_name() is not None:
            log_means(self, {str(name): value for name, value in names.items()}, samples)

    def widened(self, tensors: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """The tensors, of which [B, T] ones get the width of the widest process, where a batch-coupled loss needs it.

        Args:
            tensors: the tensors by their names.
            names: which of them are values of tokens; their mask is 0 in what is added.
        """
        terms = getattr(self.objective, "terms", {}).values()
        if world_size() == 1 or not any(getattr(term, "batch_coupled", False) for term in terms):
            return dict(tensors)
        values = {name: tensors[name] for name in names if name in tensors}
        widest = {name: max(sizes_of_all(value.shape[1], value.device)) for name, value in values.items()}
        return {**tensors, **{name: widen(value, widest[name], 0) for name, value in values.items()}}
