"""What sets each score apart: limits, invariances, the steps it takes."""

import pytest
import torch
from torch import nn

from lightning_losses.diagnostics.mahalanobis_score import mahalanobis_distances
from lightning_losses.out_of_distribution import KNN, MSP, ODIN, Energy, MahalanobisDetector, MaxLogit, ReAct

LOGITS = 3 * torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
SAME = nn.Identity()


def data(seed=0, shift=0.0):
    random = torch.Generator().manual_seed(seed)
    target = torch.arange(60) % 3
    inputs = torch.randn(60, 4, generator=random, dtype=torch.float64)
    return inputs + 3 * nn.functional.one_hot(target, 4) + shift, target


def layered():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


def test_msp_orders_confident_inputs_whose_probability_is_one():
    margins = torch.tensor([[20.0, 0.0], [40.0, 0.0], [80.0, 0.0]])
    assert (margins.softmax(dim=1)[:, 0] == 1).all()
    assert (MSP()(SAME, margins).diff() > 0).all() and (MSP()(SAME, margins) < 0).all()
    torch.testing.assert_close(MSP()(SAME, LOGITS + 5), MSP()(SAME, LOGITS), rtol=1e-5, atol=1e-6)


def test_energy_lies_between_the_largest_logit_and_the_mean_one():
    torch.testing.assert_close(Energy(1e-4)(SAME, LOGITS), MaxLogit()(SAME, LOGITS))
    warm = 1e6
    offset = warm * torch.tensor(4.0, dtype=torch.float64).log()
    torch.testing.assert_close(Energy(warm)(SAME, LOGITS.double()) - offset, LOGITS.double().mean(1), rtol=0, atol=1e-4)


def test_odin_without_a_step_is_msp_and_its_step_raises_the_confidence():
    torch.testing.assert_close(ODIN(50.0, 0.0)(SAME, LOGITS), MSP(50.0)(SAME, LOGITS))
    assert (ODIN(50.0, 0.1)(SAME, LOGITS) > MSP(50.0)(SAME, LOGITS)).all()


def test_odins_step_is_right_where_the_probability_rounds_to_one():
    network = layered()
    network[2].weight.data *= 1000
    inputs = data()[0].requires_grad_()
    logits = network(inputs)
    assert (logits.softmax(dim=1).amax(dim=1) == 1).double().mean() > 0.9
    largest, place = logits.max(dim=1, keepdim=True)
    others = logits.scatter(1, place, -torch.inf).logsumexp(dim=1) - largest.squeeze(1)
    (gradient,) = torch.autograd.grad(others.sum(), inputs)
    torch.testing.assert_close(ODIN(1.0, 0.1).perturbed(network, inputs), (inputs - 0.1 * gradient.sign()).detach())


def test_react_clips_what_lies_above_its_percentile():
    network, (inputs, target) = layered(), data()
    hidden = network[:2](inputs)
    for percentile in (0.0, 37.0, 100.0):
        score = ReAct("1", percentile, temperature=2.0).fit(network, [(inputs, target)])
        assert score.threshold == pytest.approx(hidden.flatten().quantile(percentile / 100).item())
        clipped = network[2](hidden.clamp(max=score.threshold))
        torch.testing.assert_close(score(network, inputs), Energy(2.0)(SAME, clipped))
    torch.testing.assert_close(score(network, inputs), Energy(2.0)(network, inputs))


def test_knn_looks_at_directions_and_finds_itself_first():
    network = nn.Sequential(nn.Identity(), nn.Linear(4, 3).double())
    inputs, target = data()
    nearest, second = (KNN("0", k).fit(network, [(inputs, target)]) for k in (1, 2))
    torch.testing.assert_close(nearest(network, inputs), torch.zeros(60).double(), rtol=0, atol=1e-7)
    direction = nn.functional.normalize(inputs)
    wanted = -torch.cdist(direction, direction).sort(dim=1).values[:, 1]
    torch.testing.assert_close(second(network, 7 * inputs), wanted)
    # A feature of zeros has no direction, and lies at 1 from all.
    torch.testing.assert_close(KNN("0", 99).fit(network, [(inputs, target)])(network, inputs[:1] * 0).item(), -1.0)


def test_the_detector_is_the_nearest_class_of_each_layer():
    network, (inputs, target), asked = layered(), data(), data(1)[0]
    score = MahalanobisDetector(["0", "1"]).fit(network, zip(inputs.split(11), target.split(11), strict=True))
    wanted = sum(
        -mahalanobis_distances(network[:end](inputs).detach(), target, network[:end](asked).detach()).amin(1) / 2
        for end in (1, 2)
    )
    torch.testing.assert_close(score(network, asked), wanted)


def test_the_detector_is_the_same_for_features_that_are_turned_and_scaled():
    (inputs, target), asked = data(), data(1)[0]
    turn = torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = []
    for map_ in (torch.eye(4, dtype=torch.float64), turn):
        network = nn.Sequential(nn.Linear(4, 4).double(), nn.Linear(4, 3).double())
        network[0].load_state_dict({"weight": map_, "bias": torch.ones(4)})
        found.append(MahalanobisDetector(["0"]).fit(network, [(inputs, target)])(network, asked))
    torch.testing.assert_close(*found)


def test_rounding_does_not_count_where_features_lie_in_a_subspace():
    (inputs, target), asked = data(), data(1)[0].float()
    torch.manual_seed(3)
    # Eight features of four numbers.
    network = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    whole = MahalanobisDetector(["0"]).fit(network, [(inputs.float(), target)])(network, asked)
    exact = MahalanobisDetector(["0"]).fit(network.double(), [(inputs, target)])(network, asked.double())
    torch.testing.assert_close(whole, exact, rtol=1e-3, atol=1e-3)


def test_the_detectors_step_goes_towards_a_class_and_unlabelled_samples_are_no_part_of_it():
    network, (inputs, target), asked = layered(), data(), data(1)[0]
    still = MahalanobisDetector(["1"]).fit(network, [(inputs, target)])
    target = torch.cat([target, torch.full((1,), -100)])
    stepping = MahalanobisDetector(["1"], epsilon=1e-3).fit(network, [(torch.cat([inputs, inputs[:1] + 9]), target)])
    assert (stepping(network, asked) > still(network, asked)).double().mean() > 0.9
    stepping.epsilon = 0.0
    torch.testing.assert_close(stepping(network, asked), still(network, asked))


def test_layers_are_combined_by_a_regression_and_the_best_step_is_kept():
    network, (inputs, target) = layered(), data()
    known, foreign = data(1)[0].split(20), data(2, shift=2.0)[0].split(20)
    score = MahalanobisDetector(["0", "1"], combination="logistic", epsilons=[0.0, 0.01]).fit(
        network, [(inputs, target)]
    )
    with pytest.raises(ValueError, match="it is not tuned; call tune"):
        score(network, inputs)
    with pytest.raises(ValueError, match="targets from 7 to 7 came for 3 classes"):
        MahalanobisDetector(["1"]).fit(network, [(inputs, target * 0 + 7)])
    with pytest.raises(ValueError, match="60 known and 0 foreign inputs came to tune"):
        score.tune(network, known, [])
    with torch.inference_mode():
        score.tune(network, known, foreign)
    assert score.epsilon in (0.0, 0.01)
    # Fitted to tell these apart.
    assert score(network, torch.cat(known)).mean() > 1 > -1 > score(network, torch.cat(foreign)).mean()


@pytest.mark.parametrize("layers", ["first", []], ids=["a name", "none"])
def test_a_detector_takes_a_list_of_layers(layers):
    with pytest.raises(ValueError, match="give a list of layers' names"):
        MahalanobisDetector(layers)


def test_a_detector_without_any_label_or_with_nan_is_refused():
    network, (inputs, target) = layered(), data()
    with pytest.raises(ValueError, match="no training sample has a class"):
        MahalanobisDetector(["1"]).fit(network, [(inputs, target * 0 - 100)])
    with pytest.raises(ValueError, match="training features of 0 hold NaN or inf"):
        MahalanobisDetector(["0"]).fit(network, [(inputs * torch.nan, target)])


def test_a_detector_is_tuned_on_what_data_loaders_give_and_keeps_its_step_where_that_fails():
    network, (inputs, target) = layered(), data()
    held, foreign = data(1), data(2, shift=8.0)
    detector = MahalanobisDetector(["0", "1"], 0.005, "logistic", epsilons=[0.0, 0.01]).fit(network, [(inputs, target)])
    with pytest.raises(ValueError, match="NaN"):
        detector.tune(network, [held[0]], [torch.nan * foreign[0]])
    assert detector.epsilon == 0.005 and detector.regression is None
    wanted = detector.tune(network, [held[0]], [foreign[0]])(network, inputs)
    pairs, mappings = [held], [{"inputs": foreign[0], "target": foreign[1]}]
    assert torch.equal(detector.tune(network, pairs, mappings)(network, inputs), wanted)


@pytest.mark.parametrize("epsilons", [[-0.1], [0.0, float("nan")]], ids=["negative", "nan"])
def test_a_detector_takes_no_step_backwards(epsilons):
    with pytest.raises(ValueError, match=r"epsilons=\[.*\] came; .* are not at least 0"):
        MahalanobisDetector(["0"], epsilons=epsilons)


@pytest.mark.parametrize(
    "score",
    [
        lambda: KNN("0", k=3),
        lambda: MahalanobisDetector(["0"]),
        lambda: MahalanobisDetector(["0"], epsilon=0.01),
    ],
    ids=["knn", "mahalanobis", "step"],
)
def test_a_layer_is_read_before_the_next_one_works_in_place(score):
    apart, (inputs, target) = layered(), data()
    in_place = layered()
    in_place[1].inplace = True
    wanted, found = (score().fit(network, [(inputs, target)])(network, inputs) for network in (apart, in_place))
    torch.testing.assert_close(found, wanted)
