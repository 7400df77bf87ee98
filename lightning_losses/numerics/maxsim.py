"""MaxSim: how well the tokens of a document answer those of a query."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.numerics.checks import check_count, check_floating, check_tensor


def maxsim(
    queries: Float[Tensor, "queries query_tokens dim"],
    documents: Float[Tensor, "documents document_tokens dim"],
    query_mask: Shaped[Tensor, "queries query_tokens"] | None = None,
    document_mask: Shaped[Tensor, "documents document_tokens"] | None = None,
    *,
    chunk: int | None = None,
) -> Float[Tensor, "queries documents"]:
    """The score of each document for each query: ``sum_i max_j q_i · d_j``, tokens i of the query, j of the document.

    Args:
        queries: [Q, T, D] a vector of each token; of length 1 where cosines are wanted.
        documents: [N, S, D] likewise.
        query_mask: [Q, T] other than 0 for a token, 0 for padding, which counts nothing; None: all are tokens.
        document_mask: [N, S] likewise.
        chunk: of how many documents all products of tokens are held at once, where no gradient is wanted; None: all.

    Returns:
        [Q, N] the scores; -inf for a document without a token, and 0 for a query without one.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Khattab, Zaharia, 2020, "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction
        over BERT", arXiv:2004.12832.

    Example:
        >>> query, document = torch.eye(2).unsqueeze(0), torch.tensor([[[0.6, 0.8], [1.0, 0.0]]])
        >>> maxsim(query, document)  # the first token finds 1, the second 0.8
        tensor([[1.8000]])
        >>> maxsim(query, document, document_mask=torch.tensor([[1, 0]]))
        tensor([[1.4000]])
    """
    check_token_sets("maxsim", queries=queries, query_mask=query_mask)
    check_token_sets("maxsim", documents=documents, document_mask=document_mask)
    if queries.shape[-1] != documents.shape[-1]:
        raise ValueError(
            f"maxsim: queries of {queries.shape[-1]} dimensions came with documents of {documents.shape[-1]}; give "
            "both the same."
        )
    if chunk is not None:
        check_count("maxsim", "chunk", chunk)
    parts = []
    # A compiler would take a range for each number of documents anew.
    for start in (0,) if chunk is None else range(0, max(len(documents), 1), chunk):
        part = slice(start, None if chunk is None else start + chunk)
        products = torch.einsum("qtd,nsd->qtns", queries, documents[part])
        if document_mask is not None:
            products = products.masked_fill(document_mask[part] == 0, -torch.inf)
        parts.append(products.amax(dim=-1))
    best = torch.cat(parts, dim=-1)
    if query_mask is not None:
        best = best.masked_fill((query_mask == 0).unsqueeze(-1), 0.0)
    return best.sum(dim=1)


def check_token_sets(who: str, **given: Tensor | None) -> None:
    """Raise ``ValueError`` unless these are vectors [B, T, D] of tokens, and a mask [B, T] or None, by their names.

    Example:
        >>> check_token_sets("maxsim", queries=torch.zeros(2, 3), query_mask=None)
        Traceback (most recent call last):
        ValueError: maxsim: queries of shape [2, 3] came; give a vector of each token, [sets, tokens, dim].
    """
    (name, tokens), (mask_name, mask) = given.items()
    check_floating(who, name, tokens)
    assert tokens is not None
    if tokens.ndim != 3 or 0 in tokens.shape[1:]:
        raise ValueError(
            f"{who}: {name} of shape {list(tokens.shape)} came; give a vector of each token, [sets, tokens, dim]."
        )
    if mask is not None:
        check_tensor(who, mask_name, mask)
        if mask.shape != tokens.shape[:2]:
            raise ValueError(
                f"{who}: {mask_name} of shape {list(mask.shape)} came with {name} of shape {list(tokens.shape)}; give "
                "a number for each token, [sets, tokens]."
            )
