"""The monitors of embeddings log what the functions say of the layer's features; two processes: tests/distributed."""

import copy
import math

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_losses.callbacks import (
    AlignmentUniformity,
    EmbeddingEvaluation,
    IntrinsicDimension,
    KNNEvaluation,
    ProjectionGap,
)
from lightning_losses.callbacks.monitors.evaluation import LayerRows
from lightning_losses.diagnostics.intrinsic_dimension import intrinsic_dimension
from lightning_losses.diagnostics.linear_heads import class_moments, gaussian_nb_head, logistic_head
from lightning_losses.diagnostics.projection_gap import feature_rank
from lightning_losses.metrics import alignment, knn_accuracy, nearest_class_mean_accuracy, opis, tolerance, uniformity
from tests.callbacks.training import PerProcess, Tiny, batches, trainer
from tests.distributed.processes import in_group, run_on_processes


class Viewed(Tiny):
    """Each step returns the embeddings of two views."""

    def forward(self, inputs):
        return self.network(inputs)

    def training_step(self, batch, batch_idx):
        views = {"embeddings": self.network[0](batch[0]), "embeddings_b": self.network[0](0.9 * batch[0] + 0.1)}
        return {**super().training_step(batch, batch_idx), **views}


class Logistic(ProjectionGap):
    """Lightning takes one callback of a class."""


class Split(PerProcess):
    """Training rows, two of them without a target; other rows to validate on."""

    def train_dataloader(self):
        return DataLoader(self.data[0], batch_size=None)

    def val_dataloader(self):
        return DataLoader(self.data[1], batch_size=None)


def data():
    train, val = batches(3), batches(7)[3:]
    train[1][1][[0, 4]] = -100
    return train, val


def rows(parts):
    inputs, target = (torch.cat(part) for part in zip(*parts, strict=True))
    return inputs[target >= 0], target[target >= 0]


def fit(folder, *monitors, module=None, given=None):
    module = module or Viewed()
    before = copy.deepcopy(module.network)
    fitter = trainer(folder, list(monitors), limit_val_batches=1.0, num_sanity_val_steps=0)
    fitter.fit(module, Split(given or data()))
    return before, module.network.requires_grad_(False)


def test_each_logs_its_functions_and_changes_nothing(tmp_path):
    monitors = [
        KNNEvaluation("network.1", k=3, temperature=0.5, samples=20),
        EmbeddingEvaluation("network.1", t=1.0, worst_share=0.5),
        ProjectionGap("network.0", "network.2", num_classes=3, samples=20),
        Logistic("network.0", "network.2", num_classes=3, head="logistic"),
        AlignmentUniformity(power=1.0, t=3.0, every_n_steps=2),
        IntrinsicDimension(["network.0"], estimator="mle", neighbours=3, samples=8),
    ]
    before, network = fit(tmp_path, *monitors)
    _, plain = fit(tmp_path)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), plain.parameters(), strict=True))

    (train, train_target), (val, val_target) = map(rows, data())
    knn, embedding, nb, logistic, views, dimension = (monitor.values for monitor in monitors)
    bank = network[:2](train[:20]), train_target[:20]
    asked = network[:2](val)
    assert knn["knn_accuracy"] == [knn_accuracy(*bank, asked, val_target, k=3, temperature=0.5).item()]
    points = opis(asked, val_target, worst_share=0.5)
    assert {name: value for name, (value,) in embedding.items()} == pytest.approx(
        {
            "recall@1": knn_accuracy(asked, val_target, k=1).item(),
            "nearest_class_mean_accuracy": nearest_class_mean_accuracy(asked, val_target).item(),
            "opis": points.value.item(),
            "worst_opis": points.worst.item(),
            "uniformity": uniformity(asked.double(), t=1.0).item(),
            "tolerance": tolerance(asked, val_target, exclude_self=True, conditional=True).item(),
        }
    )
    for values, most, head in (
        (nb, 20, lambda *rows: gaussian_nb_head(class_moments(*rows, 3))),
        (logistic, 99, lambda *rows: logistic_head(*rows, 3)),
    ):
        accuracy = []
        for name, part in (("before", network[:1]), ("after", network)):
            fitted = head(part(train[:most]), train_target[:most])
            accuracy.append((fitted.logits(part(val)).argmax(dim=1) == val_target).double().mean().item())
            assert values[f"accuracy_{name}"] == [pytest.approx(accuracy[-1])]
            assert values[f"rank_{name}"] == [pytest.approx(feature_rank(part(val)).item())]
        assert values["accuracy_gap"] == [pytest.approx(accuracy[0] - accuracy[1])]
        assert values["rank_gap"] == [pytest.approx(values["rank_before"][0] - values["rank_after"][0])]
    first = data()[0][0][0]
    one, other = before[0](first).double(), before[0](0.9 * first + 0.1).double()
    assert monitors[4].steps == [0, 2]
    assert views["alignment"][0] == pytest.approx(alignment(one, other, power=1.0).item(), rel=1e-5)
    assert views["uniformity"][0] == pytest.approx(uniformity(one, t=3.0).item(), rel=1e-5)
    wanted = intrinsic_dimension(before[0](first), estimator="mle", neighbours=3)
    assert dimension["network.0/dimension"] == [pytest.approx(wanted.item(), rel=1e-4)]


def gathered(folder):
    """What each process gathers, of which the first has no rows and doesn't know the width."""
    rank = torch.distributed.get_rank()
    parts = [] if rank == 0 else [LayerRows({"network.1": torch.ones(2, 3)}, torch.tensor([4, 5]))]
    whole = KNNEvaluation("network.1")._of_all(parts, torch.device("cpu"))
    torch.save((whole.features["network.1"], whole.target), folder / f"{rank}.pt")


def test_a_process_without_rows_has_those_of_the_others(tmp_path):
    run_on_processes(in_group, 2, gathered, tmp_path)
    for rank in (0, 1):
        features, target = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(features, torch.ones(2, 3)) and target.tolist() == [4, 5]


def test_a_step_without_two_views_is_warned_of_once(tmp_path):
    monitor = AlignmentUniformity(every_n_steps=1)
    with pytest.warns(UserWarning, match="alignment_uniformity: ") as told:
        fit(tmp_path, monitor, module=Tiny())
    assert [str(warning.message) for warning in told if "alignment" in str(warning.message)] == [
        "alignment_uniformity: the training step returned no 'embeddings' and 'embeddings_b', so that nothing is "
        "measured; return them, of two views of the same samples, beside the loss."
    ]
    assert not monitor.steps


def test_a_collapsed_layer_has_no_dimension():
    monitor = IntrinsicDimension(["network.0"])
    assert math.isnan(monitor.measure_layer(torch.ones(9, 2), torch.zeros(9, dtype=torch.int64))["dimension"])


@pytest.mark.parametrize(
    ("monitor", "change", "message"),
    [
        (
            KNNEvaluation("network.7"),
            None,
            "knn_evaluation: ['network.7'] came, but Viewed has no such layers; its layers are network, network.0, "
            "network.1, network.2.",
        ),
        (
            KNNEvaluation("network.1"),
            -100,
            "knn_evaluation: no sample of the training data has a target; give data with targets, or leave this "
            "callback out.",
        ),
        (
            KNNEvaluation("network.1"),
            0.5,
            "knn_evaluation: a target of numbers of shape [8] came; it measures samples of one class each, so leave it "
            "out of the training of a regression.",
        ),
    ],
    ids=["layer", "no target", "numbers"],
)
def test_what_it_can_not_measure_is_refused(tmp_path, monitor, change, message):
    given = data()
    if change is not None:
        given = [(x, torch.full_like(y, change) if change < 0 else y * change) for x, y in given[0]], given[1]
    with pytest.raises(ValueError) as error:
        fit(tmp_path, monitor, given=given)
    assert str(error.value) == message


def test_fewer_samples_than_neighbours_are_refused():
    with pytest.raises(ValueError) as error:
        IntrinsicDimension(["network.0"], estimator="mle", neighbours=9, samples=9)
    assert str(error.value) == "intrinsic_dimension: samples=9 came for 9 neighbours of each; give more."
