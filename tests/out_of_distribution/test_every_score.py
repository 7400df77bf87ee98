"""What holds for every score; they are found by walking the package, and one without an example here fails by name."""

import copy
import importlib
import os
import pkgutil

import pytest
import torch
from torch import nn

import lightning_losses.out_of_distribution as package
from lightning_losses.out_of_distribution import (
    KNN,
    MSP,
    ODIN,
    Energy,
    MahalanobisDetector,
    MaxLogit,
    OutOfDistributionScore,
    ReAct,
    fit_scores,
    scores_of,
)
from tests.distributed.processes import in_group, run_on_processes

SCORES = {
    "msp": lambda: MSP(2.0),
    "max_logit": MaxLogit,
    "energy": lambda: Energy(0.5),
    "knn": lambda: KNN("body", k=3),
    "react": lambda: ReAct("body", 80.0),
    "odin": lambda: ODIN(10.0, 0.05),
    "mahalanobis_detector": lambda: MahalanobisDetector(["first", "body"], epsilon=0.01),
}
each = pytest.mark.parametrize("name", SCORES)
learning = pytest.mark.parametrize("name", [name for name, make in SCORES.items() if make().learns])


class Network(nn.Module):
    """With maps, batch normalisation, dropout and a step that draws random numbers in evaluation too."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv1d(1, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.body = nn.Sequential(nn.ReLU(inplace=True), nn.Dropout())
        self.head = nn.Linear(4, 3)
        self.double()

    def forward(self, inputs):
        maps = self.body(self.norm(self.first(inputs)))
        return self.head(maps.mean(dim=2)) + 0 * torch.rand(1)


def batches(seed=0):
    random = torch.Generator().manual_seed(seed)
    target = torch.arange(24) % 3
    inputs = torch.randn(24, 1, 8, generator=random, dtype=torch.float64) + target.reshape(-1, 1, 1)
    return list(zip(inputs.split(7), target.split(7), strict=True))


def test_every_score_has_an_example():
    classes = {
        value
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
        for value in vars(importlib.import_module(info.name)).values()
        if isinstance(value, type) and issubclass(value, OutOfDistributionScore)
    } - {OutOfDistributionScore}
    assert {kind.name for kind in classes} == SCORES.keys()
    assert all(getattr(package, kind.__name__) is kind for kind in classes)


@each
def test_it_leaves_the_network_and_the_random_states_as_they_are_also_in_inference_mode(name):
    network = Network().train()
    network.norm.eval()
    network(batches()[0][0]).sum().backward()
    before = copy.deepcopy(network.state_dict())
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    modes, state = [part.training for part in network.modules()], torch.random.get_rng_state()
    score = SCORES[name]().fit(network, batches())
    with torch.inference_mode():
        # What the loop of an evaluation makes of a batch is an inference tensor.
        found = score(network, batches()[0][0] + 1)
        assert torch.is_inference_mode_enabled()
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(network.parameters(), gradients, strict=True))
    assert [part.training for part in network.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(part._forward_hooks for part in network.modules())
    assert found.shape == (7,) and found.isfinite().all() and not found.requires_grad
    assert torch.equal(found, score(network, batches()[0][0] + 1))


@each
def test_each_input_is_scored_by_itself_in_evaluation_mode(name):
    network = Network()
    score, inputs = SCORES[name]().fit(network, batches()), batches(1)[0][0]
    alone = torch.cat([score(network, one[None]) for one in inputs])
    torch.testing.assert_close(score(network, inputs), alone)
    torch.testing.assert_close(score(network.eval(), inputs), alone)


def test_several_are_fitted_and_scored_as_each_alone():
    network, together = Network(), {name: make() for name, make in SCORES.items()}
    fit_scores(list(together.values()), network, iter(batches()))
    inputs = batches(1)[0][0]
    for name, found in scores_of(together, network, inputs).items():
        assert torch.equal(found, SCORES[name]().fit(network, batches())(network, inputs)), name


@learning
def test_a_second_fit_forgets_the_first_and_no_fit_is_refused(name):
    network, score = Network(), SCORES[name]()
    with pytest.raises(ValueError, match=f"{name}: it is not fitted; call fit"):
        score(network, batches()[0][0])
    with pytest.raises(ValueError, match="no training batches came to fit"):
        score.fit(network, [])
    inputs = batches(1)[0][0]
    twice = score.fit(network, batches(2)).fit(network, batches())(network, inputs)
    assert torch.equal(twice, SCORES[name]().fit(network, batches())(network, inputs))


@learning
def test_it_learns_from_what_data_loaders_give(name):
    network, inputs = Network(), batches(1)[0][0]
    wanted = SCORES[name]().fit(network, batches())(network, inputs)
    mappings = [{"inputs": x, "target": y} for x, y in batches()]
    triples = [(x, y, y) for x, y in batches()]
    empty = [(inputs[:0], torch.zeros(0, dtype=torch.int64))]
    as_bytes = [(x, y.to(torch.uint8)) for x, y in batches()]
    for given in (mappings, triples, as_bytes, empty + batches()):
        assert torch.equal(SCORES[name]().fit(network, given)(network, inputs), wanted)
    assert SCORES[name]().fit(network, batches())(network, inputs[:0]).shape == (0,)


@learning
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x, y[:3]), r"a target of torch.int64 and shape \[3\] came for 7 inputs"),
        (lambda x, y: (x, y.double()), r"a target of torch.float64 and shape \[7\] came for 7 inputs"),
        (lambda x, y: x, "a batch of type Tensor came"),
        (lambda x, y: {"image": x, "label": y}, "a batch of type dict came"),
        (lambda x, y: (x[:0], y[:0]), "no training batches came to fit"),
        (lambda x, y: (x * torch.nan, y), "hold NaN or inf"),
    ],
    ids=["short", "numbers", "inputs alone", "other names", "empty", "nan"],
)
def test_what_can_not_be_learned_from_is_refused(name, change, words):
    with pytest.raises(ValueError, match=f"{name}: .*{words}"):
        SCORES[name]().fit(Network(), [change(*batches()[0])])


def fitted_apart(folder, shares):
    own = [batches()[number] for number in shares[int(os.environ["RANK"])]]
    scores = {name: make() for name, make in SCORES.items()}
    fit_scores(list(scores.values()), Network(), own)
    torch.save(scores_of(scores, Network(), batches(1)[0][0]), folder / f"{os.environ['RANK']}.pt")


@pytest.mark.distributed
@pytest.mark.parametrize("shares", [[[0, 2], [1, 3]], [[], [0, 1, 2, 3]]], ids=["shared", "one has none"])
def test_two_processes_learn_from_all_batches(tmp_path, shares):
    run_on_processes(in_group, 2, fitted_apart, tmp_path, shares)
    network, scores = Network(), {name: make() for name, make in SCORES.items()}
    fit_scores(list(scores.values()), network, batches())
    wanted = scores_of(scores, network, batches(1)[0][0])
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["odin", "mahalanobis_detector"])
def test_inputs_without_a_gradient_are_refused(name):
    network = nn.Sequential()
    network.first, network.body = nn.Embedding(5, 4), nn.Flatten()
    tokens = torch.arange(6).reshape(3, 2) % 5
    score = SCORES[name]().fit(network, [(tokens, torch.tensor([0, 1, 2]))])
    with pytest.raises(ValueError, match=f"{name}: inputs of torch.int64 came, which have no gradient"):
        score(network, tokens)


@pytest.mark.parametrize(
    ("score", "network", "words"),
    [
        (KNN("head"), nn.Sequential(nn.Linear(2, 3)), r"knn: \['head'\] came, but Sequential has no such layers"),
        (MSP(), nn.Linear(2, 1), r"msp: logits of shape \[5, 1\] came"),
        (MaxLogit(), nn.Flatten(0), r"max_logit: logits of shape \[10\] came"),
    ],
    ids=["layer", "one class", "no classes"],
)
def test_what_has_no_score_is_refused(score, network, words):
    with pytest.raises(ValueError, match=words):
        score.fit(network, [(torch.ones(5, 2), torch.zeros(5, dtype=torch.int64))])(network, torch.ones(5, 2))
