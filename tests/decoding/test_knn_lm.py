import copy

import lightning as L
import pytest
import torch
from torch import nn

from lightning_losses import CrossEntropy, Objective
from lightning_losses.callbacks.records.datastore_record import DatastoreRecord
from lightning_losses.decoding import KNNLM, Datastore, generate, record_datastore
from lightning_losses.decoding.datastore import mix_with_neighbours
from lightning_losses.modules.language_model import LanguageModel
from lightning_losses.networks.multi_token import multi_token_network
from lightning_losses.networks.transformer import Transformer

V = 7


def random_store(n=40, width=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return Datastore(
        torch.randn(n, width, generator=generator, dtype=dtype), torch.randint(V, (n,), generator=generator)
    )


@pytest.mark.parametrize("ignore_top", [False, True])
@pytest.mark.parametrize(("n", "queries", "k"), [(40, 5, 6), (9000, 600, 11), (4, 3, 10)])
def test_search_is_exact_in_tiles(n, queries, k, ignore_top):
    store = random_store(n)
    asked = torch.randn(queries, 3, dtype=torch.float64)
    found = store.search(asked, k, ignore_top=ignore_top)
    distances, order = torch.cdist(asked, store.keys).square().sort(dim=1)
    expected = slice(int(ignore_top), k + int(ignore_top))
    torch.testing.assert_close(found.distances, distances[:, expected])
    assert (found.values == store.values[order[:, expected]]).all()


@pytest.mark.parametrize(("n", "ignore_top", "k"), [(40, False, 6), (4, True, 3)])
def test_no_queries_have_no_neighbours(n, ignore_top, k):
    store, none = random_store(n), torch.zeros(0, 3)
    assert [tuple(part.shape) for part in store.search(none, 6, ignore_top=ignore_top)] == [(0, k), (0, k)]
    assert store.log_probabilities(none, V).shape == (0, V)


def test_search_is_exact_within_autocast():
    store, asked = random_store(500, 32, dtype=torch.float32), torch.randn(20, 32)
    with torch.autocast("cpu", torch.bfloat16):
        neighbours = store.search(asked, 9)
    torch.testing.assert_close(neighbours, store.search(asked, 9))


def test_neighbours_votes_are_the_definition():
    store, asked, temperature = random_store(), torch.randn(2, 3, dtype=torch.float64), 0.7
    log_p = store.log_probabilities(asked, V, k=6, temperature=temperature)
    for row, query in enumerate(asked):
        distance = (store.keys - query).square().sum(1)
        near = distance.argsort()[:6]
        votes = (-distance[near] / temperature).exp()
        expected = [(votes[store.values[near] == token].sum() / votes.sum()).item() for token in range(V)]
        assert log_p[row].exp().tolist() == pytest.approx(expected, rel=1e-10)
    assert (log_p == -torch.inf).any()


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_mixture_is_one_of_probabilities(weight):
    p, q = torch.rand(2, 4, V, dtype=torch.float64).softmax(-1)
    q = q.masked_fill(torch.arange(V) > 3, 0.0)
    torch.testing.assert_close(mix_with_neighbours(p.log(), q.log(), weight).exp(), weight * q + (1 - weight) * p)
    assert not mix_with_neighbours(p.log(), q.log(), weight).isnan().any()


def test_far_queries_and_half_keys_stay_finite():
    store = Datastore(torch.randn(30, 4).half(), torch.randint(V, (30,)))
    log_p = store.log_probabilities(torch.tensor([[1e4] * 4, [0.0] * 4]), V, k=5, temperature=1e-3)
    assert not log_p.isnan().any() and torch.allclose(log_p.exp().sum(1), torch.ones(2))


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = Transformer(V, context_length=8, width=8, depth=2, heads=2)
    for parameter in network.parameters():
        parameter.data.mul_(6.0 if parameter.ndim > 1 else 1.0)
    return LanguageModel(network, Objective({"ce": CrossEntropy()}))


@pytest.fixture
def texts():
    tokens = torch.randint(V, (6, 9), generator=torch.Generator().manual_seed(3))
    target = tokens[:, 1:].clone()
    target[0, :3] = -100
    return [{"inputs": tokens[i : i + 2, :-1], "target": target[i : i + 2]} for i in (0, 2, 4)]


def evaluated(model, texts, record, test=False):
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[record],
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(texts, batch_size=None)
    (trainer.test if test else trainer.validate)(model, loader, verbose=False)
    return record.datastore


@pytest.mark.parametrize("test", [False, True])
def test_an_evaluation_makes_the_datastore(model, texts, tmp_path, test):
    store = evaluated(model, texts, DatastoreRecord(path=tmp_path / "store.safetensors"), test)
    keys, hook = [], model.network.blocks[-1].perceptron_in
    handle = hook.register_forward_pre_hook(lambda _, given: keys.append(given[0].detach()))
    for batch in texts:
        model.network(batch["inputs"])
    handle.remove()
    kept = torch.cat([batch["target"] for batch in texts]).flatten() != -100
    torch.testing.assert_close(store.keys, torch.cat(keys).flatten(0, 1)[kept])
    assert (store.values == torch.cat([batch["target"] for batch in texts]).flatten()[kept]).all()
    assert len(store) == 45 and not hook._forward_pre_hooks
    again = Datastore.load(tmp_path / "store.safetensors")
    assert (again.keys == store.keys).all() and (again.values == store.values).all()


def test_the_key_is_of_the_next_token_where_several_are_predicted(model, texts):
    own = KNNLM(model.network, store := record_datastore(model.network, [(b["inputs"], b["target"]) for b in texts]))
    several = KNNLM(multi_token_network(copy.deepcopy(model.network), 3), store)
    torch.testing.assert_close(*(knn.log_probabilities(texts[0]["inputs"]) for knn in (several, own)))


def test_an_evaluation_that_failed_leaves_no_keys(model, texts):
    record = DatastoreRecord()
    record.on_validation_start(None, model)
    model.network(texts[0]["inputs"])
    record.on_validation_batch_end(None, model, {"target": texts[0]["target"]}, texts[0])
    record.on_exception(None, model, KeyboardInterrupt())
    assert len(evaluated(model, texts, record)) == 45


def test_half_the_memory(model, texts):
    assert evaluated(model, texts, DatastoreRecord(half=True)).keys.dtype == torch.float16


def test_remembered_texts_are_predicted(model, texts):
    store = evaluated(model, texts, DatastoreRecord())
    batch = texts[1]
    knn = KNNLM(model.network, store, weight=0.9, neighbours=1)
    log_p = knn.log_probabilities(batch["inputs"])
    own = model.network(batch["inputs"]).log_softmax(-1)
    chosen, alone = (each.gather(-1, batch["target"].unsqueeze(-1)) for each in (log_p, own))
    # Each query is a key. First tokens come in several texts, and are followed by others there.
    torch.testing.assert_close(chosen.exp()[:, 1:], 0.9 + 0.1 * alone.exp()[:, 1:], rtol=1e-4, atol=1e-5)
    others = KNNLM(model.network, store, weight=0.9, neighbours=1, ignore_top=True).log_probabilities(batch["inputs"])
    assert (others.gather(-1, batch["target"].unsqueeze(-1)) < chosen - 0.1).float().mean() > 0.5


def test_as_a_processor_it_says_what_it_says_of_texts(model, texts):
    knn = KNNLM(model.network, evaluated(model, texts, DatastoreRecord()), neighbours=8, temperature=5.0)
    prompts = texts[1]["inputs"][:, :3]
    drawn = generate(model.network, prompts, 5, processors=[knn], generator=torch.Generator().manual_seed(0))
    said = knn.log_probabilities(drawn.tokens[:, :-1]).gather(-1, drawn.tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(drawn.sampling_logps[:, 3:], said[:, 2:], rtol=1e-4, atol=1e-5)
    assert (drawn.sampling_logps[:, 3:] - drawn.logps[:, 3:]).abs().max() > 0.01


def test_shorter_prompts_are_read_without_their_padding(model, texts):
    knn = KNNLM(model.network, evaluated(model, texts, DatastoreRecord()), neighbours=8, pad_token=0)
    prompts = torch.tensor([[1, 2, 3], [4, 0, 0]])
    options = {"temperature": 0.0, "processors": [knn], "stop_token": 0}
    together = generate(model.network, prompts, 3, prompt_lengths=torch.tensor([3, 1]), **options)
    alone = generate(model.network, prompts[1:, :1], 3, **options)
    kept = alone.completion_mask[0]
    assert (together.tokens[1, :4][kept] == alone.tokens[0][kept]).all()
    scores = torch.zeros(2, V)
    padded = knn(torch.tensor([[1, 2, 3], [0, 0, 4]]), scores)
    torch.testing.assert_close(padded[1], knn(torch.tensor([[4]]), scores[:1])[0], rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused(model, texts, tmp_path):
    with pytest.raises(ValueError, match="give an int64 token for each"):
        Datastore(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="values with -100 came; give tokens, from 0 on"):
        Datastore(torch.zeros(2, 3), torch.tensor([4, -100]))
    with pytest.raises(ValueError, match="vocabulary_size=4 came, and a value is 6; give the vocabulary of the"):
        random_store().log_probabilities(torch.zeros(1, 3), 4)
    with pytest.raises(ValueError, match="give at least one, all finite"):
        Datastore(torch.full((2, 3), torch.nan), torch.zeros(2, dtype=torch.long))
    store = random_store()
    with pytest.raises(ValueError, match="queries of width 4 came to keys of width 3"):
        store.search(torch.zeros(1, 4), 2)
    with pytest.raises(ValueError, match="k=0 came"):
        store.search(torch.zeros(1, 3), 0)
    with pytest.raises(ValueError, match="ignore_top came for a datastore of one key"):
        random_store(1).search(torch.zeros(1, 3), 1, ignore_top=True)
    with pytest.raises(ValueError, match="layer='nowhere' came"):
        KNNLM(model.network, store, layer="nowhere").log_probabilities(texts[0]["inputs"])
    with pytest.raises(ValueError, match="has no layer called perceptron_in"):
        KNNLM(nn.Embedding(V, V), store).log_probabilities(texts[0]["inputs"])
    with pytest.raises(ValueError, match="weight=2"):
        KNNLM(model.network, store, weight=2)
    with pytest.raises(ValueError, match="choose a layer with an input"):
        evaluated(model, texts, DatastoreRecord(layer="network.positions"))
    assert not model.network.positions._forward_pre_hooks
