import pytest

from lightning_losses.diagnostics.retrieval_capacity import retrieval_capacity, retrieval_capacity_probe


def test_a_larger_dimension_answers_the_queries_of_more_documents():
    assert retrieval_capacity_probe(5, dimension=4, steps=400).accuracy == 1
    # On a circle no vector lies nearest to two opposite ones.
    few = retrieval_capacity_probe(5, dimension=2, steps=200)
    assert 0.3 < few.accuracy < 1 and few.steps == 200
    assert retrieval_capacity(2, most=6, steps=150) == 3
    assert retrieval_capacity(8, most=4, steps=300) == 4


def test_it_gives_up_when_the_loss_falls_no_more():
    assert retrieval_capacity_probe(6, dimension=1, steps=900, patience=20).steps < 900


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: retrieval_capacity_probe(2, 3),
            "retrieval_capacity_probe: documents=2 came for 2 relevant to a query; give more.",
        ),
        (
            lambda: retrieval_capacity(3, most=2),
            "retrieval_capacity: most=2 came for 2 relevant to a query; give more.",
        ),
    ],
    ids=["probe", "search"],
)
def test_too_few_documents_are_refused(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message
