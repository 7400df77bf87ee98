import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import AMCL, KD, RKD, ClipContrastive, CrossEntropy, SigmoidContrastive, SupCon, Triplet
from lightning_losses.modules.embedding_distiller import EmbeddingDistiller
from lightning_losses.networks.hashed_text_encoder import HashedTextEncoder, hashed_features
from lightning_losses.objective import Objective, Term
from lightning_losses.teachers import CachedLogits

QUERIES = ["open a file", "close the file", "sort a list", "parse a date"]
DOCUMENTS = ["reads its bytes", "no further reads", "smallest ones first", "years, months and days"]


def batch():
    query, document = (hashed_features(texts, buckets=50, length=30) for texts in (QUERIES, DOCUMENTS))
    return {"query": query, "document": document, "index": torch.tensor([2, 0, 3, 1])}


def teacher():
    return CachedLogits(F.normalize(torch.randn(8, 5), dim=-1))


def network():
    return HashedTextEncoder(buckets=50, dim=5)


def test_the_teacher_answers_for_each_text():
    """Pair i is at 2 i and 2 i + 1 of the teacher's, whatever the order of the batch."""
    student, table = network(), teacher()
    objective = Objective(
        {
            "cosine": Term(torch.nn.MSELoss(), 2.5, inputs={"input": "features", "target": "teacher_features"}),
            "kd": KD(1.0),
            "ce": CrossEntropy(),
        }
    )
    values = batch()
    loss = EmbeddingDistiller(student, objective, table, scale=10.0).training_step(values, 0)["loss"]
    queries, documents = student(values["query"]), student(values["document"])
    taught = table.logits[2 * values["index"]], table.logits[2 * values["index"] + 1]
    # Of vectors of length 1, D / 2 times the mean squared difference is 1 - cosine.
    apart = 1 - torch.cat([(queries * taught[0]).sum(dim=1), (documents * taught[1]).sum(dim=1)]).mean()
    rows, teacher_rows = 10 * queries @ documents.mT, 10 * taught[0] @ taught[1].mT
    divergence = F.kl_div(rows.log_softmax(1), teacher_rows.log_softmax(1), log_target=True, reduction="batchmean")
    expected = apart + divergence + F.cross_entropy(rows, torch.arange(4))
    torch.testing.assert_close(loss, expected)


def test_one_pair_alone_teaches_by_its_features_and_by_nothing_else():
    student, one = network(), {name: value[:1] for name, value in batch().items()}
    rows = Objective({"ce": CrossEntropy(), "kd": KD(2.0)})
    loss = EmbeddingDistiller(student, rows, teacher()).training_step(one, 0)["loss"]
    loss.backward()
    assert loss.item() == 0 and not any(weight.grad.abs().any() for weight in student.parameters())
    features = Term(torch.nn.MSELoss(), inputs={"input": "features", "target": "teacher_features"})
    assert EmbeddingDistiller(student, Objective({"mse": features}), teacher()).training_step(one, 0)["loss"] > 0


def test_the_encoder_learns_the_teacher():
    torch.manual_seed(0)
    module = EmbeddingDistiller(network(), Objective({"rkd": RKD(25.0, 0.0)}), teacher())
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    losses = []
    for _ in range(60):
        loss = module.training_step(batch(), 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_without_a_teacher_the_objective_says_so():
    with pytest.raises(ValueError, match="EmbeddingDistiller: the objective takes a teacher's tensors"):
        EmbeddingDistiller(network(), Objective({"kd": KD()})).training_step(batch(), 0)


def test_hashed_features_are_words_and_trigrams_and_stable():
    rows = hashed_features(["Ab ab", "", "abc"], buckets=1000, length=6)
    # "<ab>", "<ab", "ab>", twice.
    assert torch.equal(rows[0, :3], rows[0, 3:]) and rows[1].tolist() == [0] * 6
    assert (rows[2] != 0).sum() == 4 and rows[rows != 0].min() >= 1 and rows.max() < 1000
    # crc32, which no seed of Python's changes.
    assert rows[0, 0].item() == __import__("zlib").crc32(b"<ab>") % 999 + 1


def test_vectors_are_weighted_sums_and_finite_for_empty_texts():
    encoder, features = network(), torch.tensor([[3, 7, 3, 0], [0, 0, 0, 0]])
    torch.nn.init.normal_(encoder.log_weights)
    vectors = encoder(features)
    own = encoder.log_weights.exp().unsqueeze(1) * encoder.features.weight
    torch.testing.assert_close(vectors[0], F.normalize(2 * own[3] + own[7], dim=0))
    vectors.sum().backward()
    assert vectors[1].tolist() == [0.0] * 5 and encoder.features.weight.grad.isfinite().all()


def test_learned_temperatures_and_biases_do_not_decay():
    """Where nothing else moves them, they stay what they are; layers of a loss, and of the network, decay."""
    learned = {"sigmoid": SigmoidContrastive(), "clip": ClipContrastive(learned=True), "amcl": AMCL()}
    module = EmbeddingDistiller(network(), Objective(learned), optimizer=lambda p: torch.optim.AdamW(p, weight_decay=1))
    before = [
        one.clone() for one in (learned["sigmoid"].log_scale, learned["sigmoid"].offset, learned["clip"].log_scale)
    ]
    module.training_step(batch(), 0)
    width = learned["amcl"].of_first.weight.norm().item()
    optimizer = module.configure_optimizers()
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = [learned["sigmoid"].log_scale, learned["sigmoid"].offset, learned["clip"].log_scale]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert learned["amcl"].of_first.weight.norm() < width
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(module.parameters()))


def test_losses_that_need_several_of_a_class_are_refused():
    """Every query is a class of its own, so that nothing would be learned; a second view is a positive."""
    with pytest.raises(ValueError, match=r"'triplet' \(Triplet\) compares embeddings by their classes"):
        EmbeddingDistiller(network(), Objective({"triplet": Triplet()}))
    module = EmbeddingDistiller(network(), Objective({"supcon": SupCon()}))
    assert module.training_step(batch(), 0)["loss"] > 0


def test_similarities_are_of_full_precision_under_autocast():
    seen = {}

    def noted(logits, teacher_logits):
        seen.update(logits=logits, teacher_logits=teacher_logits)
        return logits.sum()

    student = torch.nn.Sequential(network(), torch.nn.Linear(5, 5))
    module = EmbeddingDistiller(student, Objective({"noted": noted}), teacher())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = module.training_step(batch(), 0)
    queries, documents = (step[name].float() for name in ("embeddings", "embeddings_b"))
    assert step["embeddings"].dtype == torch.bfloat16
    torch.testing.assert_close(seen["logits"], 20 * queries @ documents.mT)
    index = batch()["index"]
    taught = [module.teacher.logits[2 * index + place] for place in (0, 1)]
    torch.testing.assert_close(seen["teacher_logits"], 20 * taught[0] @ taught[1].mT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_text_without_words_has_no_direction_in_half_precision_either(dtype):
    words = hashed_features(["...", "a text"], buckets=50, length=30)
    vectors = network().to(dtype)(words)
    assert vectors.dtype == dtype and not vectors[0].any() and abs(vectors[1].float().norm() - 1) < 0.01
