"""The same attack, with the same steps, gives what torchattacks and foolbox give, in float64."""

import pytest
import torch

from lightning_losses.attacks import CWL2, FGSM, PGD
from tests.attacks.networks import batch, convolutional

EPSILON, STEP = 0.06, 0.02


@pytest.fixture(scope="module")
def attacked():
    """A network in evaluation mode whose logits are above 0, since torchattacks' CW takes the largest of 0 and them."""
    network = convolutional(torch.float64).eval()
    network[-1].weight.data *= 4
    network[-1].bias.data += 50
    inputs, _ = batch(rows=8, dtype=torch.float64)
    target = network(inputs).argmax(1)
    # One row is misclassified from the beginning.
    target[0] = (target[0] + 1) % 4
    return network, inputs, target


def agree(ours, theirs, atol=1e-8):
    assert theirs.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def test_torchattacks(attacked):
    torchattacks = pytest.importorskip("torchattacks")
    network, inputs, target = attacked
    for ours, theirs in (
        (FGSM(epsilon=EPSILON), torchattacks.FGSM(network, eps=EPSILON)),
        (
            PGD(epsilon=EPSILON, step_size=STEP, steps=7, random_start="none"),
            torchattacks.PGD(network, eps=EPSILON, alpha=STEP, steps=7, random_start=False),
        ),
        (
            PGD(epsilon=0.5, step_size=0.2, steps=7, norm="l2", random_start="none"),
            torchattacks.PGDL2(network, eps=0.5, alpha=0.2, steps=7, random_start=False),
        ),
        (
            CWL2(c=2.0, steps=60, learning_rate=0.02, early_stop=True),
            torchattacks.CW(network, c=2.0, kappa=0, steps=60, lr=0.02),
        ),
    ):
        agree(ours(network, inputs, target), theirs(inputs, target))


def test_foolbox(attacked):
    foolbox = pytest.importorskip("foolbox")
    network, inputs, target = attacked
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    attacks = foolbox.attacks
    for ours, theirs, epsilon in (
        (FGSM(epsilon=EPSILON), attacks.FGSM(random_start=False), EPSILON),
        (FGSM(epsilon=0.5, norm="l2"), attacks.FGM(random_start=False), 0.5),
        (
            PGD(epsilon=EPSILON, step_size=STEP, steps=7, random_start="none"),
            attacks.LinfPGD(abs_stepsize=STEP, steps=7, random_start=False),
            EPSILON,
        ),
        (
            PGD(epsilon=0.5, step_size=0.2, steps=7, norm="l2", random_start="none"),
            attacks.L2PGD(abs_stepsize=0.2, steps=7, random_start=False),
            0.5,
        ),
    ):
        # Their last argument projects onto the ball, which a bounded step in the box does not need.
        raw, _, _ = theirs(model, inputs, target, epsilons=epsilon)
        agree(ours(network, inputs, target), raw)
    # They shrink inputs before the inverse of tanh by a millionth, and so all that follows.
    settings = {"steps": 60, "stepsize": 0.02, "initial_const": 0.5, "abort_early": False}
    theirs = attacks.L2CarliniWagnerAttack(binary_search_steps=4, confidence=0, **settings)
    raw, _, fooled = theirs(model, inputs, target, epsilons=None)
    ours = CWL2(c=0.5, steps=60, learning_rate=0.02, search_steps=4)(network, inputs, target)
    assert fooled.any() and torch.equal(network(ours).argmax(1) != target, fooled)
    distances = [(x - inputs).flatten(1).norm(dim=1)[fooled] for x in (ours, raw)]
    torch.testing.assert_close(*distances, rtol=2e-2, atol=1e-3)
