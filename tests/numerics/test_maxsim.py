import pytest
import torch

from lightning_losses.numerics.maxsim import maxsim
from tests.graphs import assert_one_graph

GENERATOR = torch.Generator().manual_seed(0)
QUERIES = torch.randn(2, 3, 4, dtype=torch.float64, generator=GENERATOR)
DOCUMENTS = torch.randn(5, 6, 4, dtype=torch.float64, generator=GENERATOR)
MASK = torch.arange(6) < torch.tensor([[6], [1], [4], [0], [2]])


def test_value_from_the_definition_in_chunks_too():
    scores = maxsim(QUERIES, DOCUMENTS, torch.tensor([[1, 1, 0], [0, 0, 0]]), MASK)
    for query, tokens in enumerate((2, 0)):
        for document, length in enumerate((6, 1, 4, 0, 2)):
            own = DOCUMENTS[document, :length]
            expected = sum(float((own @ token).max()) for token in QUERIES[query, :tokens]) if length else -torch.inf
            assert scores[query, document].item() == pytest.approx(expected if tokens else 0.0)
    for chunk in (1, 2, 9):
        torch.testing.assert_close(
            maxsim(QUERIES, DOCUMENTS, None, MASK, chunk=chunk), maxsim(QUERIES, DOCUMENTS, None, MASK)
        )


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="^maxsim: queries of 4 dimensions came with documents of 3; give both"):
        maxsim(QUERIES, DOCUMENTS[..., :3])
    with pytest.raises(ValueError, match=r"^maxsim: document_mask of shape \[2, 6\] came with documents of shape"):
        maxsim(QUERIES, DOCUMENTS, document_mask=MASK[:2])


@pytest.mark.one_graph
def test_compiled_in_one_graph_for_any_number_of_documents():
    assert_one_graph(maxsim, [(QUERIES, DOCUMENTS.repeat(times, 1, 1)) for times in (1, 2, 3)])
