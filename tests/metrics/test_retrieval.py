import pytest
import torch

from lightning_losses.metrics.retrieval import own_ranks, retrieval_ranks, retrieval_scores


def test_ranks_from_the_definition():
    queries, documents = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    ranks = retrieval_ranks(queries, documents).tolist()
    for i, query in enumerate(queries):
        cosines = torch.cosine_similarity(query.expand_as(documents), documents, dim=-1)
        assert cosines.argsort(descending=True).tolist().index(i) + 1 == ranks[i]


def test_lengths_do_not_matter_and_ties_count_against():
    queries = torch.randn(5, 4)
    documents = queries * torch.arange(1, 6).unsqueeze(1)
    assert retrieval_ranks(queries, documents).tolist() == [1] * 5
    assert retrieval_ranks(torch.ones(4, 2), torch.ones(4, 2)).tolist() == [4] * 4


def test_ranks_of_scores_count_equal_ones_and_take_a_document_without_tokens():
    scores = torch.tensor([[2.0, 2.0, 1.0], [0.0, 3.0, -torch.inf], [5.0, 4.0, 3.0]])
    assert own_ranks(scores).tolist() == [2, 1, 3]
    for lost in (torch.nan, -torch.inf):
        with pytest.raises(ValueError, match="own_ranks: scores hold NaN, or inf for a query's own document"):
            own_ranks(scores.diagonal_scatter(torch.tensor([1.0, lost, 1.0])))
    with pytest.raises(ValueError, match=r"own_ranks: scores of shape \[2, 3\] came"):
        own_ranks(scores[:2])


def test_scores_average_seeds_and_lie_in_their_intervals():
    ranks = torch.tensor([[1, 2, 11, 4], [1, 1, 11, 2]])
    scores = retrieval_scores(ranks)
    assert scores["recall@1"].value == pytest.approx((1 + 0.5) / 4)
    assert scores["recall@10"].value == pytest.approx(3 / 4)
    assert scores["MRR"].value == pytest.approx((1 + 0.75 + 1 / 11 + 0.375) / 4)
    assert all(0 <= score.low <= score.value <= score.high <= 1 for score in scores.values())


def test_intervals_are_over_queries_not_seeds():
    score = retrieval_scores(torch.tensor([[1, 2], [1, 2]]))["recall@1"]
    # Wilson's of one of two.
    assert (score.low, score.value, score.high) == pytest.approx((0.0945, 0.5, 0.9055), abs=1e-4)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"retrieval_ranks: queries of shape \[2, 3\]"):
        retrieval_ranks(torch.zeros(2, 3), torch.zeros(3, 3))
