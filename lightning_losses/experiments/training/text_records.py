"""What a trained language model says of every block of a text."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.data.language_batch import language_batch
from lightning_losses.data.stdlib_text import TextDataset
from lightning_losses.kernels.token_record import TokenRecord
from lightning_losses.metrics.membership_inference import membership_inference
from lightning_losses.metrics.membership_scores import loss_score
from lightning_losses.teachers.reference_records import Wanted, network_record


@torch.no_grad()
def text_record(network: nn.Module, dataset: TextDataset, batch_size: int = 64, **wanted: bool) -> TokenRecord:
    """The record of all blocks of a text, in evaluation mode on the CPU.

    Args:
        network: a language model whose head `offered_heads` finds.
        dataset: the text.
        batch_size: blocks at a time.
        **wanted: what is needed beside log-probabilities, as `token_record` takes it.

    Example:
        >>> from lightning_losses.networks.transformer import Transformer
        >>> text = TextDataset(torch.arange(9, dtype=torch.uint8), block_length=4)
        >>> text_record(Transformer(9, 4, width=8, depth=1, heads=2), text).logps.shape
        torch.Size([2, 4])
    """
    network = network.eval().cpu()
    records: list[dict[str, Tensor]] = []
    for positions in torch.split(torch.arange(len(dataset)), batch_size):
        given = language_batch("text_record", network, dataset.__getitems__(positions.tolist()))
        record = network_record("text_record", network, given, Wanted(**wanted))
        records.append({name: values for name, values in record._asdict().items() if values is not None})
    return TokenRecord(**{name: torch.cat([record[name] for record in records]) for name in records[0]})


def nats(record: TokenRecord) -> float:
    """The mean negative log-likelihood of a record's tokens.

    Example:
        >>> nats(TokenRecord(torch.tensor([[-1.0, 0.0]]), torch.tensor([[True, False]])))
        1.0
    """
    return float(-record.logps[record.kept].double().mean())


def membership_auc(
    seen: TokenRecord, unseen: TokenRecord, scores: Callable[[TokenRecord], Float[Tensor, " texts"]] | None = None
) -> float:
    """The area under the ROC curve of blocks that were trained on against blocks that were not.

    Args:
        seen: the record of what was trained on.
        unseen: that of text of the same kind.
        scores: a function that makes a score of a record; by default `loss_score`.

    Example:
        >>> kept = torch.ones(2, 3, dtype=torch.bool)
        >>> membership_auc(*(TokenRecord(torch.full((2, 3), logp), kept) for logp in (-1.0, -2.0)))
        1.0
    """
    score = scores or (lambda record: loss_score(record.logps, record.kept))
    both = [score(record) for record in (seen, unseen)]
    members = torch.arange(sum(map(len, both))) < len(both[0])
    return float(membership_inference(torch.cat(both), members).auroc)


def token_counts(dataset: TextDataset, vocabulary: int) -> Int[Tensor, " vocabulary"]:
    """How often each token is in a text.

    Example:
        >>> token_counts(TextDataset(torch.tensor([1, 1, 2], dtype=torch.uint8), block_length=2), 4).tolist()
        [0, 2, 1, 0]
    """
    return torch.bincount(dataset.text.long(), minlength=vocabulary)
