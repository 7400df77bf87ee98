import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import EnergyNLL
from lightning_losses.losses.classification.energy_nll import ecbm

GENERATOR = torch.Generator().manual_seed(0)
ENERGIES, OTHERS = (3 * torch.randn(4, 5, dtype=torch.float64, generator=GENERATOR) for _ in range(2))
OF_CONCEPTS = torch.randn(4, 3, 2, dtype=torch.float64, generator=GENERATOR)
TARGET, CONCEPTS = torch.tensor([2, 0, 2, 3]), torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 1, 0]])


def test_it_is_cross_entropy_of_the_other_sign_and_no_constant_counts():
    value = EnergyNLL()(ENERGIES, TARGET)
    torch.testing.assert_close(value, F.cross_entropy(-ENERGIES, TARGET), rtol=1e-12, atol=0)
    torch.testing.assert_close(EnergyNLL()(ENERGIES + 1e3, TARGET), value)
    by_hand = ENERGIES[range(4), TARGET] + (-ENERGIES).exp().sum(dim=-1).log()
    torch.testing.assert_close(EnergyNLL(reduction="none")(ENERGIES, TARGET), by_hand)


def test_an_energy_of_inf_rules_a_class_out():
    energies = torch.tensor([[1e4, -1e4, torch.inf]], requires_grad=True)
    value = EnergyNLL()(energies, torch.tensor([1]))
    value.backward()
    assert value.item() == 0 and bool(energies.grad.isfinite().all())


def test_ecbm_is_the_weighted_sum_in_which_concepts_add_up():
    given = (ENERGIES, OF_CONCEPTS, OTHERS, TARGET, CONCEPTS)
    of_concepts = sum(F.cross_entropy(-OF_CONCEPTS[:, k], CONCEPTS[:, k]) for k in range(3))
    of_classes = [F.cross_entropy(-one, TARGET) for one in (ENERGIES, OTHERS)]
    torch.testing.assert_close(ecbm(*given), 3 * of_classes[0] + of_concepts + of_classes[1])
    halves = ecbm(*given, class_weight=0.0, concept_weight=2.0, concept_class_weight=0.5)
    torch.testing.assert_close(halves, 2 * of_concepts + 0.5 * of_classes[1])


def test_a_concept_that_is_not_known_leaves_its_own_mean_alone():
    concepts = CONCEPTS.clone()
    concepts[1, 0] = concepts[:, 2] = -100
    weights = {"class_weight": 0.0, "concept_class_weight": 0.0}
    value = ecbm(ENERGIES, OF_CONCEPTS, OTHERS, TARGET, concepts, **weights)
    kept = torch.tensor([0, 2, 3])
    first = F.cross_entropy(-OF_CONCEPTS[kept, 0], CONCEPTS[kept, 0])
    torch.testing.assert_close(value, first + F.cross_entropy(-OF_CONCEPTS[:, 1], CONCEPTS[:, 1]))


def test_a_sample_that_is_ignored_is_so_with_its_concepts():
    target = torch.cat([TARGET[:3], torch.tensor([-100])])
    value = ecbm(ENERGIES, OF_CONCEPTS, OTHERS, target, CONCEPTS)
    torch.testing.assert_close(value, ecbm(ENERGIES[:3], OF_CONCEPTS[:3], OTHERS[:3], TARGET[:3], CONCEPTS[:3]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"concept_energies": OF_CONCEPTS[..., 0]},
            "ecbm: concept_energies of shape [4, 3] came; give [batch, concepts, 2], the energies of each concept's "
            "absence and presence.",
        ),
        ({"concept_weight": -1.0}, "ecbm: concept_weight=-1.0 came; give a number at least 0."),
    ],
)
def test_what_ecbm_can_not_take_is_refused(change, message):
    given = {
        "energies": ENERGIES, "concept_energies": OF_CONCEPTS, "concept_class_energies": OTHERS, "target": TARGET,
        "concepts": CONCEPTS,
    }  # fmt: skip
    with pytest.raises(ValueError) as error:
        ecbm(**{**given, **change})
    assert str(error.value) == message
