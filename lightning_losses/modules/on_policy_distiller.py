"""A ready LightningModule that distils language models on sequences that they draw."""

from typing import Any

from torch import nn

from lightning_losses.mixins.on_policy_distillation import OnPolicyDistillationMixin
from lightning_losses.modules.language_model import LanguageModelDistiller
from lightning_losses.numerics.checks import check_count, check_number


class OnPolicyDistiller(OnPolicyDistillationMixin, LanguageModelDistiller):
    """GKD: distils a teacher into a student on completions that the student draws, without the logits of either.

    See `OnPolicyDistillationMixin` for what is drawn when, and `LanguageModelDistiller` for everything else. The
    objective is as a rule `GeneralizedJSD`; any that `LanguageModelDistiller` takes will do.

    Args:
        teacher: a network as in `LanguageModel`.
        prompt_length: the least number of tokens in a prompt, at least 1; more where the first targets are ignored.
        max_new_tokens: the largest number of tokens in a completion, at least 1.
        on_policy_share: λ, the share of batches that the student completes, in [0, 1].
        teacher_completes: whether the teacher completes the other batches.
        sampling_temperature: of what is drawn, at least 0; that of the objective is its own.
        stop_token: ends a completion.
        sampling_seed: of the branches and of what is drawn, at least 0.
        **language_model: see `LanguageModel`; `network` is the student.

    Raises:
        ValueError: as `LanguageModelDistiller`; a setting outside its range.

    Source:
        Agarwal et al., 2024, "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
        arXiv:2306.13649, and huggingface/trl's GKD trainer.

    Example:
        >>> import torch
        >>> from lightning_losses import GeneralizedJSD, Objective
        >>> from lightning_losses.networks.transformer import Transformer
        >>> student, teacher = (Transformer(9, context_length=8, width=width, depth=1, heads=2) for width in (8, 16))
        >>> module = OnPolicyDistiller(teacher, prompt_length=3, max_new_tokens=4, network=student,
        ...                            objective=Objective({"jsd": GeneralizedJSD()}))
        >>> tokens = torch.arange(9).reshape(1, 9)
        >>> module.training_step({"inputs": tokens[:, :8], "target": tokens[:, 1:]}, 0)["loss"].requires_grad
        True
    """

    def __init__(
        self,
        teacher: nn.Module | None = None,
        prompt_length: int = 1,
        max_new_tokens: int = 128,
        on_policy_share: float = 0.5,
        teacher_completes: bool = False,
        sampling_temperature: float = 0.9,
        stop_token: int | None = None,
        sampling_seed: int = 0,
        **language_model: Any,
    ) -> None:
        super().__init__(teacher, **language_model)
        owner = type(self).__name__
        check_count(owner, "prompt_length", prompt_length)
        check_count(owner, "max_new_tokens", max_new_tokens)
        check_number(owner, "on_policy_share", on_policy_share, least=0, most=1)
        check_number(owner, "sampling_temperature", sampling_temperature, least=0)
        check_number(owner, "sampling_seed", sampling_seed, least=0)
        self.prompt_length, self.max_new_tokens = prompt_length, max_new_tokens
        self.on_policy_share, self.teacher_completes = on_policy_share, teacher_completes
        self.sampling_temperature, self.stop_token = sampling_temperature, stop_token
        self.sampling_seed = sampling_seed
