"""Sequences drawn from a language model, with the log-probability of each token drawn."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightning_losses.networks.calls import call, in_evaluation, logits_of, names
from lightning_losses.numerics.checks import check_count, check_number
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.parallel.sharding import is_sharded

LogitsProcessor = Callable[[Int[Tensor, "batch time"], Float[Tensor, "batch vocabulary"]], Tensor]


class Generated(NamedTuple):
    """Prompts with their completions; T is the length of the longest prompt and of what was generated.

    Attributes:
        tokens: [B, T] each prompt, followed by its completion; after that, the stop token (0 without one).
        completion_mask: [B, T] True at the tokens that were drawn, the stop token included.
        logps: [B, T] log-probability of each drawn token by the network itself, without temperature and processors;
            0 elsewhere.
        sampling_logps: [B, T] its log-probability in the distribution that it was drawn from; 0 elsewhere.
    """

    tokens: Int[Tensor, "batch time"]
    completion_mask: Bool[Tensor, "batch time"]
    logps: Float[Tensor, "batch time"]
    sampling_logps: Float[Tensor, "batch time"]


@torch.no_grad()
def generate(
    network: nn.Module,
    prompts: Int[Tensor, "batch prompt"],
    max_new_tokens: int,
    *,
    prompt_lengths: Int[Tensor, " batch"] | None = None,
    temperature: float = 1.0,
    processors: Sequence[LogitsProcessor] = (),
    stop_token: int | None = None,
    generator: torch.Generator | None = None,
) -> Generated:
    """Draw a completion of each prompt, token by token, without gradient and in evaluation mode.

    A training step scores the result as it is: ``network(tokens[:, :-1])`` predicts ``tokens[:, 1:]``, of which
    ``completion_mask[:, 1:]`` were drawn, with ``logps[:, 1:]``.

    All random numbers are drawn at the start, in float64: the i-th token of row b takes number [b, i], whatever the
    other rows do. So the same generator gives the same tokens on all processes, and is in the same state afterwards
    even where some stop early. A generator of the CPU serves networks on every device.

    Args:
        network: a causal network that gives logits [B, T, V] of tokens [B, T]. That of
            `lightning_losses.networks.transformer` keeps keys and values; others read the whole sequence at each token.
        prompts: [B, P] int64, with P of at least 1; shorter prompts are padded at their right.
        max_new_tokens: the largest number of tokens in a completion.
        prompt_lengths: [B] the number of tokens of each prompt; None: all P.
        temperature: divides the logits before the processors; 0 takes the most probable token.
        processors: called in turn with the tokens so far, [B, t], and their scores, [B, V], as transformers' are: they
            return scores, -inf for what must not be drawn. Shorter prompts are padded at their left there.
        stop_token: ends a completion, of which it is the last token.
        generator: torch's generator of random numbers; None: torch's own.

    Returns:
        `Generated`: tokens, which of them were drawn, and their log-probabilities.

    Raises:
        ValueError: prompts that are no int64 [B, P] with P of at least 1; lengths outside [1, P]; settings outside
            their ranges; more tokens than the network's context; scores of another shape from a processor, or without
            a number above -inf.

    Example:
        >>> from lightning_losses.networks.transformer import Transformer
        >>> network = Transformer(vocabulary_size=9, context_length=8, width=8, depth=1, heads=2)
        >>> drawn = generate(network, torch.tensor([[1, 2], [3, 4]]), 3, generator=torch.Generator().manual_seed(0))
        >>> drawn.tokens.shape, drawn.completion_mask[0].tolist()
        (torch.Size([2, 5]), [False, False, True, True, True])
    """
    if stop_token is not None and not (hasattr(stop_token, "__index__") and int(stop_token) >= 0):
        raise ValueError(f"generate: stop_token={stop_token!r} came; give one token, a whole number of at least 0.")
    lengths = _check(network, prompts, max_new_tokens, prompt_lengths, temperature)
    (batch, longest), device = prompts.shape, prompts.device
    uniform = torch.rand(
        batch,
        max_new_tokens,
        dtype=torch.float64,
        generator=generator,
        device=device if generator is None else generator.device,
    ).to(device)
    padding = 0 if stop_token is None else stop_token
    prompt = torch.arange(longest, device=device) < lengths.unsqueeze(-1)
    tokens = torch.cat([prompts.where(prompt, padding), prompts.new_full((batch, max_new_tokens), padding)], dim=1)
    drawn = torch.zeros_like(tokens, dtype=torch.bool)
    logps, sampling_logps = torch.zeros(2, *tokens.shape, dtype=torch.float64, device=device).unbind()
    running = torch.ones(batch, dtype=torch.bool, device=device)
    # Where all processes hold parts of the weights, all must call the network equally often.
    may_end_early = stop_token is not None and not is_sharded(network)
    with in_evaluation(network):
        logits_at = _logits(network, batch, longest + max_new_tokens)
        for step in range(max_new_tokens):
            logits = full_precision(logits_at(tokens, lengths + step, longest + step, step == 0))
            scores = logits / temperature if temperature > 0 else logits
            for processor in processors:
                scores = processor(_as_left_padded(tokens, lengths + step, longest + step), scores)
                _check_scores(processor, scores, logits)
            # The stop token of a row that has ended is drawn, and not written.
            token, log_p = _draw(scores, uniform[:, step], greedy=temperature == 0)
            place = (lengths + step).unsqueeze(-1)
            kept = running.unsqueeze(-1)
            tokens.scatter_(1, place, token.unsqueeze(-1).where(kept, padding))
            drawn.scatter_(1, place, kept)
            own = logits.log_softmax(dim=-1).gather(1, token.unsqueeze(-1))
            logps.scatter_(1, place, own.where(kept, 0.0).to(logps.dtype))
            sampling_logps.scatter_(1, place, log_p.unsqueeze(-1).where(kept, 0.0).to(logps.dtype))
            if stop_token is not None:
                running = running & (token != stop_token)
                if may_end_early and not running.any():
                    break
    return Generated(tokens, drawn, logps.to(logits.dtype), sampling_logps.to(logits.dtype))


def _check(
    network: nn.Module, prompts: Any, max_new_tokens: int, prompt_lengths: Any, temperature: float
) -> Int[Tensor, " batch"]:
    """The lengths of the prompts."""
    if not isinstance(prompts, Tensor) or prompts.dtype != torch.int64 or prompts.ndim != 2 or prompts.shape[1] == 0:
        came = f"{prompts.dtype} {list(prompts.shape)}" if isinstance(prompts, Tensor) else type(prompts).__name__
        raise ValueError(f"generate: prompts came as {came}; give int64 tokens [B, P] with P of at least 1.")
    check_count("generate", "max_new_tokens", max_new_tokens)
    check_number("generate", "temperature", temperature, least=0, most=1e9)
    whole = prompts.shape[1] + max_new_tokens
    context = getattr(
        network, "context_length", getattr(getattr(network, "config", None), "max_position_embeddings", None)
    )
    # The last token is not read again.
    if isinstance(context, int) and whole - 1 > context:
        raise ValueError(
            f"generate: max_new_tokens={max_new_tokens} came after prompts of {prompts.shape[1]} tokens; give at most "
            f"{context + 1} tokens together, the most that the network reads is {context}."
        )
    if prompt_lengths is None:
        return torch.full((len(prompts),), prompts.shape[1], device=prompts.device)
    lengths = torch.as_tensor(prompt_lengths, device=prompts.device)
    if lengths.shape != prompts.shape[:1] or lengths.is_floating_point():
        raise ValueError(
            f"generate: prompt_lengths of shape {list(lengths.shape)} and {lengths.dtype} came for {len(prompts)} "
            "prompts; give one whole number for each."
        )
    if ((lengths < 1) | (lengths > prompts.shape[1])).any():
        raise ValueError(
            f"generate: prompt_lengths={lengths.tolist()} came for prompts of {prompts.shape[1]} tokens; give numbers "
            f"from 1 to {prompts.shape[1]}."
        )
    return lengths.long()


def _logits(network: nn.Module, batch: int, length: int) -> Callable[[Tensor, Tensor, int, bool], Tensor]:
    """A function that gives the logits [B, V] of what follows tokens [B, T], of which each row has so many."""
    whole: Any = network
    if not (names(network, "cache") and names(network, "places") and hasattr(network, "empty_cache")):

        def read_all(tokens: Tensor, counts: Tensor, longest: int, first: bool) -> Tensor:
            logits = logits_of("generate: the network", call(network, tokens[:, :longest]))
            return logits[torch.arange(batch, device=tokens.device), counts - 1]

        return read_all
    cache = whole.empty_cache(batch, length)

    def read_new(tokens: Tensor, counts: Tensor, longest: int, first: bool) -> Tensor:
        # What the padding of a shorter prompt leaves in the cache is overwritten before it is seen.
        everywhere = torch.arange(longest, device=tokens.device).expand(batch, longest)
        places = everywhere if first else (counts - 1).unsqueeze(-1)
        logits: Tensor = network(tokens.gather(1, places), cache=cache, places=places)
        return logits[torch.arange(batch, device=tokens.device), counts - 1] if first else logits[:, 0]

    return read_new


def _as_left_padded(tokens: Tensor, counts: Tensor, longest: int) -> Int[Tensor, "batch time"]:
    """The tokens so far, so that all rows end together; in front of a shorter row stands its own padding."""
    places = torch.arange(longest, device=tokens.device) + (counts - longest).unsqueeze(-1)
    return tokens.gather(1, places % tokens.shape[1])


def _check_scores(processor: Any, scores: Any, logits: Tensor) -> None:
    if not isinstance(scores, Tensor) or scores.shape != logits.shape:
        came = f"shape {list(scores.shape)}" if isinstance(scores, Tensor) else f"type {type(scores).__name__}"
        name = getattr(processor, "__name__", type(processor).__name__)
        raise ValueError(
            f"generate: processor {name} returned scores of {came}; return scores of shape {list(logits.shape)}."
        )


def _draw(scores: Tensor, uniform: Tensor, greedy: bool) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """A token of each row by its random number, and its log-probability."""
    log_p = scores.log_softmax(dim=-1)
    if log_p.isnan().any():
        raise ValueError(
            "generate: the scores of a row are NaN, or hold no number above -inf; let processors keep a token, and see "
            "that the network is finite."
        )
    if greedy:
        token = log_p.argmax(dim=-1)
        return token, torch.zeros_like(log_p[:, 0])
    # The first token whose cumulated probability exceeds the random number; none of probability 0 does so first.
    cumulated = log_p.double().exp().cumsum(dim=-1)
    total = cumulated[:, -1:]
    below = (uniform.unsqueeze(-1) * total).minimum(torch.nextafter(total, torch.zeros_like(total)))
    token = torch.searchsorted(cumulated, below, right=True).squeeze(-1)
    return token, log_p.gather(1, token.unsqueeze(-1)).squeeze(-1)
