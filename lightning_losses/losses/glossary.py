"""The names of the tensors that a step has and losses take: their shapes, what they mean, and an example of each.

A loss names the arguments of its `forward` from this list alone, because an objective passes tensors by these names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Role = Literal["trained", "constant", "scalar"]


@dataclass(frozen=True)
class Sizes:
    """How large the examples are, and where their random numbers come from."""

    generator: torch.Generator
    batch: int = 6
    classes: int = 5
    features: int = 4
    vocabulary: int = 7

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers in float64."""
        return torch.randn(*shape, dtype=torch.float64, generator=self.generator)


@dataclass(frozen=True)
class Name:
    """One name of the glossary.

    Attributes:
        shape: B is the batch, C the classes, D features, V the vocabulary.
        role: "trained" if it gets a gradient, "constant" if not, "scalar" for a number.
        meaning: what the tensor holds.
        example: a function that makes an example.
        shared: whether every process has the same, which is not of the batch's samples and is not gathered.
    """

    shape: str
    role: Role
    meaning: str
    example: Callable[[Sizes], Tensor | float]
    shared: bool = False


GLOSSARY: dict[str, Name] = {
    "inputs": Name("[B, ...]", "constant", "the network's input", lambda s: s.normal(s.batch, s.features)),
    "logits": Name(
        "[..., C]", "trained", "the trained network's unnormalised scores", lambda s: 2 * s.normal(s.batch, s.classes)
    ),
    "target": Name(
        "[...] int64, or [..., C]",
        "constant",
        "class indices; probabilities where the loss takes them",
        lambda s: torch.randint(0, s.classes, (s.batch,), generator=s.generator),
    ),
    "cost_embedding": Name(
        "[C, D]",
        "constant",
        "a vector for each class, whose cosines say how alike two classes are; the same on every process",
        lambda s: s.normal(s.classes, s.features),
        shared=True,
    ),
    "second_target": Name(
        "[...] int64",
        "constant",
        "the class that annotators chose second; -100 where they agreed",
        lambda s: torch.randint(0, s.classes, (s.batch,), generator=s.generator),
    ),
    "target_share": Name(
        "[...]",
        "constant",
        "the share of the target among the two most chosen classes, from 0.5 to 1",
        lambda s: 0.5 + 0.5 * s.normal(s.batch).sigmoid(),
    ),
    "multi_hot": Name(
        "[..., C]",
        "constant",
        "which of many labels a sample has: 1, 0, or between; `ignore_index` where it is not known",
        lambda s: (s.normal(s.batch, s.classes) > 0).double(),
    ),
    "teacher_logits": Name(
        "as `logits`", "constant", "the teacher's logits, without gradient", lambda s: 2 * s.normal(s.batch, s.classes)
    ),
    "distillation_logits": Name(
        "as `logits`",
        "trained",
        "logits of a second head that learns from the teacher alone",
        lambda s: 2 * s.normal(s.batch, s.classes),
    ),
    "mixup_logits": Name(
        "[Q B, C]",
        "trained",
        "logits of the batch's mixtures, block by block",
        lambda s: 2 * s.normal(s.batch, s.classes),
    ),
    "mixup_target": Name(
        "[Q B, C]",
        "trained",
        "the share of each class in each mixture",
        lambda s: s.normal(s.batch, s.classes).softmax(dim=-1),
    ),
    "past_probabilities": Name(
        "[B, C]",
        "constant",
        "the network's own last prediction for these samples",
        lambda s: s.normal(s.batch, s.classes).softmax(dim=-1),
    ),
    "trajectory_logits": Name(
        "as `logits`",
        "constant",
        "the network's own, for these samples, some epochs ago",
        lambda s: 2 * s.normal(s.batch, s.classes),
    ),
    "running_targets": Name(
        "[B, C]",
        "constant",
        "the moving average of the network's own predictions for these samples",
        lambda s: 0.7 * s.normal(s.batch, s.classes).softmax(dim=-1),
    ),
    "sample_temperature": Name(
        "[B]",
        "constant",
        "the temperature that was learned of each sample",
        lambda s: 5 + 5 * s.normal(s.batch).sigmoid(),
    ),
    "logits_b": Name(
        "as `logits`",
        "trained",
        "the same of a second view, or of a second pass with other dropout",
        lambda s: 2 * s.normal(s.batch, s.classes),
    ),
    "noisy_logits": Name(
        "as `logits`",
        "trained",
        "the same of a pass with noise in some layers",
        lambda s: 2 * s.normal(s.batch, s.classes),
    ),
    "noisy_logits_b": Name(
        "as `logits`", "trained", "the same of another such pass", lambda s: 2 * s.normal(s.batch, s.classes)
    ),
    "attacked_logits": Name(
        "as `logits`", "trained", "logits of the inputs after an attack", lambda s: 2 * s.normal(s.batch, s.classes)
    ),
    "attacked_inputs": Name(
        "as `inputs`", "constant", "the inputs after an attack", lambda s: s.normal(s.batch, s.features)
    ),
    "gate_score": Name(
        "[...]",
        "trained",
        "a gate's score of the second of two networks, for each sample",
        lambda s: s.normal(s.batch),
    ),
    "gate_target": Name(
        "[...]",
        "constant",
        "1 where the second of two networks is to be believed, 0 where the first is",
        lambda s: (s.normal(s.batch) > 0).double(),
    ),
    "energies": Name(
        "[..., C]",
        "trained",
        "energies of the classes: logits with the other sign",
        lambda s: s.normal(s.batch, s.classes),
    ),
    "router_logits": Name(
        "[..., E]", "trained", "a router's scores of E experts, for each token", lambda s: 2 * s.normal(s.batch, 4)
    ),
    "attention_mask": Name(
        "[...]", "constant", "1 for a token, 0 for padding", lambda s: torch.ones(s.batch, dtype=torch.bool)
    ),
    "attentions": Name(
        "[B, L, H, T, T]",
        "trained",
        "attention weights of L layers with H heads, which sum to 1 over the last dimension",
        lambda s: s.normal(s.batch, 2, 2, 3, 3).softmax(dim=-1),
    ),
    "features": Name("[B, D]", "trained", "a tapped layer's output, pooled", lambda s: s.normal(s.batch, s.features)),
    "teacher_features": Name("[B, D]", "constant", "the same of the teacher", lambda s: s.normal(s.batch, s.features)),
    "feature_maps": Name(
        "[B, D, H, W] or [B, T, D]", "trained", "a tapped layer's output as it is", lambda s: s.normal(s.batch, 3, 4, 4)
    ),
    "teacher_feature_maps": Name(
        "[B, D, H, W] or [B, T, D]", "constant", "the same of the teacher", lambda s: s.normal(s.batch, 2, 4, 4)
    ),
    "aspect_logits": Name(
        "[B, A]", "trained", "the student's answers to A questions", lambda s: 2 * s.normal(s.batch, 3)
    ),
    "teacher_aspects": Name(
        "[B, A]",
        "constant",
        "the teacher's probability of yes for each question",
        lambda s: s.normal(s.batch, 3).sigmoid(),
    ),
    "weights": Name(
        "[...]", "trained", "weights of layers, by name or of one layer", lambda s: s.normal(s.batch, s.features)
    ),
    "ratio": Name(
        "[B]", "trained", "the teacher's share of each sample's target", lambda s: s.normal(s.batch).sigmoid()
    ),
    "unlabelled": Name("[B] bool", "constant", "which samples have no label", lambda s: torch.arange(s.batch) != 1),
    "spans": Name(
        "[...] int64",
        "constant",
        "the number of each token's span, or of each sample's bag; -1 for none",
        lambda s: torch.arange(s.batch) // 3,
    ),
    "domain": Name(
        "[...] int64",
        "constant",
        "the group or domain of each sample, from 0 on",
        lambda s: torch.arange(s.batch) % 2,
    ),
    "index": Name("[B] int64", "constant", "the sample's position in its data set", lambda s: torch.arange(s.batch)),
    "embeddings": Name(
        "[B, D]", "trained", "embeddings of one view, not normalised", lambda s: s.normal(s.batch, s.features)
    ),
    "embeddings_b": Name("[B, D]", "trained", "a second view", lambda s: s.normal(s.batch, s.features)),
    "predictions": Name(
        "[B, D]", "trained", "what a predictor makes of `embeddings`", lambda s: s.normal(s.batch, s.features)
    ),
    "predictions_b": Name("[B, D]", "trained", "the same of the second view", lambda s: s.normal(s.batch, s.features)),
    "target_embeddings": Name(
        "[B, D]",
        "constant",
        "what is to be predicted: `embeddings` as constants, or a moving average's",
        lambda s: s.normal(s.batch, s.features),
    ),
    "target_embeddings_b": Name(
        "[B, D]", "constant", "the same of the second view", lambda s: s.normal(s.batch, s.features)
    ),
    "crop_embeddings": Name(
        "[B, V, D]", "trained", "embeddings of V further, smaller views", lambda s: s.normal(s.batch, 2, s.features)
    ),
    "mixed_embeddings": Name(
        "[B, D]",
        "trained",
        "embeddings of inputs that are each mixed of a first view and another sample's second view",
        lambda s: s.normal(s.batch, s.features),
    ),
    "partner_embeddings": Name(
        "[B, D]",
        "trained",
        "`embeddings_b` of the other sample in each mixture",
        lambda s: s.normal(s.batch, s.features),
    ),
    "mix_share": Name(
        "[B]", "constant", "the first view's share in each mixture", lambda s: s.normal(s.batch).sigmoid()
    ),
    "queue": Name(
        "[Q, D]",
        "constant",
        "embeddings of earlier batches, not normalised; the same on every process",
        lambda s: s.normal(5, s.features),
        shared=True,
    ),
    "negatives": Name(
        "[N, D]", "trained", "embeddings that belong to no sample of the batch", lambda s: s.normal(s.batch, s.features)
    ),
    "token_embeddings": Name(
        "[B, T, D]", "trained", "an embedding of each token, not normalised", lambda s: s.normal(s.batch, 3, s.features)
    ),
    "token_embeddings_b": Name(
        "[B, S, D]", "trained", "the same of a second view", lambda s: s.normal(s.batch, 4, s.features)
    ),
    "token_mask": Name(
        "[B, T]", "constant", "1 for a token of `token_embeddings`, 0 for padding", lambda s: _padding(s.batch, 3)
    ),
    "token_mask_b": Name("[B, S]", "constant", "the same of `token_embeddings_b`", lambda s: _padding(s.batch, 4)),
    "target_token_embeddings": Name(
        "[B, T, D]",
        "constant",
        "the tokens that `token_embeddings` shall be like",
        lambda s: s.normal(s.batch, 3, s.features),
    ),
    "adjacency": Name(
        "[B, B]",
        "constant",
        "the weights of a graph's edges, at least 0, whose nodes are the samples; 0 on the diagonal",
        lambda s: (s.normal(s.batch, s.batch) > 0).double() * (1 - torch.eye(s.batch, dtype=torch.float64)),
    ),
    "compactness": Name(
        "[B]",
        "trained",
        "how much nearer each node is to its own second view than to others', bounded from below over edge drops",
        lambda s: s.normal(s.batch),
    ),
    "reconstruction": Name(
        "[B, D]", "trained", "what an autoencoder makes of the features", lambda s: s.normal(s.batch, s.features)
    ),
    "dead_reconstruction": Name(
        "[B, D]",
        "trained",
        "what the strongest dead latents of a sparse autoencoder make of the features",
        lambda s: s.normal(s.batch, s.features),
    ),
    "dead": Name(
        "[F] bool",
        "constant",
        "which latents of a sparse autoencoder no sample has used for long; the same on every process",
        lambda s: torch.arange(7) % 3 == 0,
        shared=True,
    ),
    "hidden": Name(
        "[..., D]", "trained", "the input of the classifier's head", lambda s: s.normal(s.batch, s.features)
    ),
    "head_weight": Name("[V, D]", "trained", "the head's weight", lambda s: s.normal(s.vocabulary, s.features)),
    "head_bias": Name("[V]", "trained", "the head's bias", lambda s: s.normal(s.vocabulary)),
    "teacher_hidden": Name(
        "[..., D]", "constant", "the input of the teacher's head", lambda s: s.normal(s.batch, s.features)
    ),
    "teacher_head_weight": Name(
        "[V, D]", "constant", "the weight of the teacher's head", lambda s: s.normal(s.vocabulary, s.features)
    ),
    "chosen_logps": Name(
        "[B, T]", "trained", "log-probabilities of the tokens of the chosen completions", lambda s: _logps(s, 3)
    ),
    "rejected_logps": Name("[B, S]", "trained", "the same of the rejected completions", lambda s: _logps(s, 4)),
    "ref_chosen_logps": Name("[B, T]", "constant", "the reference model's of the chosen", lambda s: _logps(s, 3)),
    "ref_rejected_logps": Name("[B, S]", "constant", "the reference model's of the rejected", lambda s: _logps(s, 4)),
    "old_chosen_logps": Name(
        "[B, T]", "constant", "those of the policy that sampled the chosen", lambda s: _logps(s, 3)
    ),
    "old_rejected_logps": Name("[B, S]", "constant", "the same of the rejected", lambda s: _logps(s, 4)),
    "chosen_mask": Name(
        "[B, T]",
        "constant",
        "1 for a token of a chosen completion, 0 for its prompt and padding",
        lambda s: _padding(s.batch, 3),
    ),
    "rejected_mask": Name("[B, S]", "constant", "the same of the rejected", lambda s: _padding(s.batch, 4)),
    "chosen_log_collisions": Name(
        "[B, T]",
        "constant",
        "``log sum_v p_v^2`` of the distribution at each token of the chosen",
        lambda s: _logps(s, 3),
    ),
    "rejected_log_collisions": Name("[B, S]", "constant", "the same of the rejected", lambda s: _logps(s, 4)),
    "chosen_rewards": Name("[B]", "trained", "a reward model's scores of the chosen", lambda s: s.normal(s.batch)),
    "rejected_rewards": Name("[B]", "trained", "the same of the rejected", lambda s: s.normal(s.batch)),
    "reward_margin": Name(
        "[B]", "constant", "by how much the chosen shall be better, at least 0", lambda s: s.normal(s.batch).abs()
    ),
    "logps": Name("[B, T]", "trained", "log-probabilities of the tokens of completions", lambda s: _logps(s, 3)),
    "old_logps": Name("[B, T]", "constant", "the same of the policy that sampled them", lambda s: _logps(s, 3)),
    "ref_logps": Name("[B, T]", "constant", "the same of the reference model", lambda s: _logps(s, 3)),
    "target_log_scores": Name(
        "[B]",
        "constant",
        "the logarithm of a target distribution at each completion, up to a constant",
        lambda s: s.normal(s.batch) - 2,
    ),
    "completion_mask": Name(
        "[B, T]",
        "constant",
        "1 for a token of a completion, 0 for its prompt and padding",
        lambda s: _padding(s.batch, 3),
    ),
    "advantages": Name(
        "[B] or [B, T]",
        "constant",
        "how much better a completion, or a token, is than expected",
        lambda s: s.normal(s.batch),
    ),
    "sampling_ratio": Name(
        "[B, T]",
        "constant",
        "``p_old`` over the probability that the sampling engine had, truncated",
        lambda s: s.normal(s.batch, 3).exp(),
    ),
    "entropies": Name(
        "[B, T]", "trained", "entropy of the distribution at each token, in nats", lambda s: s.normal(s.batch, 3).abs()
    ),
    "values": Name("[B, T]", "trained", "a critic's values of the tokens", lambda s: s.normal(s.batch, 3)),
    "old_values": Name("[B, T]", "constant", "the same before the update", lambda s: s.normal(s.batch, 3)),
    "returns": Name("[B, T]", "constant", "what the values shall be", lambda s: s.normal(s.batch, 3)),
    "desirable": Name("[B] bool", "constant", "which completions are good", lambda s: torch.arange(s.batch) % 2 == 0),
    "mismatched_logps": Name(
        "[B, T]",
        "constant",
        "log-probabilities of the completions after another sample's prompt",
        lambda s: _logps(s, 3),
    ),
    "ref_mismatched_logps": Name("[B, T]", "constant", "the reference model's of these", lambda s: _logps(s, 3)),
    "mismatched_mask": Name("[B, T]", "constant", "which of these tokens count", lambda s: _padding(s.batch, 3)),
    "forget_logps": Name(
        "[B, T]", "trained", "log-probabilities of the tokens that shall be forgotten", lambda s: _logps(s, 3)
    ),
    "ref_forget_logps": Name("[B, T]", "constant", "the reference model's of these", lambda s: _logps(s, 3)),
    "forget_mask": Name("[B, T]", "constant", "which of these tokens count", lambda s: _padding(s.batch, 3)),
    "retain_logps": Name("[B, S]", "trained", "the same of what shall be retained", lambda s: _logps(s, 4)),
    "retain_mask": Name("[B, S]", "constant", "which of these tokens count", lambda s: _padding(s.batch, 4)),
    "refusal_logps": Name(
        "[B, S]", "trained", "log-probabilities of the tokens of what is to be said instead", lambda s: _logps(s, 4)
    ),
    "ref_refusal_logps": Name("[B, S]", "constant", "the reference model's of these", lambda s: _logps(s, 4)),
    "refusal_mask": Name("[B, S]", "constant", "which of these tokens count", lambda s: _padding(s.batch, 4)),
    "regression_target": Name(
        "[B] or [B, ...]",
        "constant",
        "the numbers that a regression predicts; a target of classes is `target`",
        lambda s: s.normal(s.batch),
    ),
    "mean": Name("as `regression_target`", "trained", "the predicted mean", lambda s: s.normal(s.batch)),
    "variance": Name(
        "as `regression_target`",
        "trained",
        "the predicted variance, above 0",
        lambda s: 0.3 + s.normal(s.batch).square(),
    ),
    "standard_deviation": Name(
        "as `regression_target`",
        "trained",
        "the predicted standard deviation, above 0",
        lambda s: 0.3 + s.normal(s.batch).abs(),
    ),
    "quantiles": Name(
        "[B, ..., Q]", "trained", "the predicted quantiles, level by level", lambda s: s.normal(s.batch, 3)
    ),
    "ensemble": Name(
        "[B, ..., M]", "trained", "the predictions of M members, or M samples", lambda s: s.normal(s.batch, 4)
    ),
    "evidential": Name(
        "[B, ..., 4]",
        "trained",
        "γ, ν, α and β of a normal-inverse-gamma distribution; ν and β above 0, α above 1",
        lambda s: s.normal(s.batch, 4).abs() + torch.tensor([-1.0, 0.1, 1.1, 0.1], dtype=torch.float64),
    ),
    "step": Name("scalar", "scalar", "optimizer steps done", lambda s: 3.0),
    "epoch": Name("scalar", "scalar", "epochs done", lambda s: 6.0),
    "progress": Name("scalar", "scalar", "fraction of training done", lambda s: 0.5),
    "epoch_progress": Name("scalar", "scalar", "fraction of epochs begun", lambda s: 0.5),
}


def _padding(batch: int, tokens: int) -> Tensor:
    """Every second row has one token less."""
    return torch.arange(tokens) < tokens - torch.arange(batch).unsqueeze(1) % 2


def _logps(sizes: Sizes, tokens: int) -> Tensor:
    """Log-probabilities of tokens."""
    return -sizes.normal(sizes.batch, tokens).abs()


def example(name: str, sizes: Sizes) -> Tensor | float:
    """An example of a tensor of this name.

    Raises:
        ValueError: a name that is not in the glossary.

    Example:
        >>> example("logits", Sizes(torch.Generator(), batch=2)).shape
        torch.Size([2, 5])
    """
    if name not in GLOSSARY:
        raise ValueError(f"glossary: the name '{name}' came; losses take {', '.join(GLOSSARY)}.")
    return GLOSSARY[name].example(sizes)


def is_shared(name: str) -> bool:
    """Whether a tensor of this name is the same on every process, so that none gathers it from the others.

    Example:
        >>> is_shared("queue"), is_shared("embeddings"), is_shared("a name of my own")
        (True, False, False)
    """
    return name in GLOSSARY and GLOSSARY[name].shared


def glossary_table() -> str:
    """The glossary as a table in Markdown."""
    rows = [f"| `{name}` | {entry.shape} | {entry.meaning} |" for name, entry in GLOSSARY.items()]
    return "\n".join(["| name | shape | meaning |", "|---|---|---|", *rows])
