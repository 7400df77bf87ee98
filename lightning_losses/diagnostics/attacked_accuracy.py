"""Which rows a network tells right as they are, under attacks, and under changes made without its gradient."""

import copy
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightning_losses.attacks.attack import Attack
from lightning_losses.attacks.gradient_attack import GradientAttack
from lightning_losses.attacks.pgd import PGD
from lightning_losses.networks.calls import logits_of
from lightning_losses.numerics.row_generator import Randomness, RowGenerator

A = TypeVar("A", bound=GradientAttack)
# An attack, or a function that is called as one.
Attacking = Callable[[nn.Module, Tensor, Tensor, Randomness | None], Tensor]


class AttackedRows(NamedTuple):
    """What a network makes of rows and of their attacked versions.

    Attributes:
        right: by name, which rows are told right: "clean"; each attack; "worst", those that all of these leave right;
            "transfer/<network>"; "random".
        logits: of the rows as they are.
    """

    right: dict[str, Bool[Tensor, " rows"]]
    logits: Float[Tensor, "rows classes"]


def attacked_rows(
    network: nn.Module,
    inputs: Float[Tensor, "rows ..."],
    target: Int[Tensor, " rows"],
    attacks: Mapping[str, Attacking],
    *,
    surrogates: Mapping[str, nn.Module] | None = None,
    random: Attacking | None = None,
    keys: Int[Tensor, " rows"] | None = None,
) -> AttackedRows:
    """Which rows a network in evaluation mode tells right as they are, and under attacks.

    Args:
        network: maps inputs to logits [rows, C].
        inputs, target: the rows and their classes.
        attacks: those that see the network's gradient, by name; at least one.
        surrogates: other networks, by name. The first attack is made on each of them, and the network is tried on what
            it gives.
        random: an attack that needs no gradient, such as that of `random_draws`.
        keys: the rows' positions in their data set, by which random starts are drawn; None draws them by the rows'
            places in the batch.

    Raises:
        ValueError: no attacks.

    Example:
        >>> network = nn.Linear(2, 2, bias=False)
        >>> network.weight.data = torch.eye(2)
        >>> attacks = {"pgd": PGD(epsilon=0.25, step_size=0.25, steps=1, random_start="none")}
        >>> rows = attacked_rows(network, torch.tensor([[0.5, 0.4], [0.9, 0.1]]), torch.tensor([0, 0]), attacks)
        >>> {name: right.tolist() for name, right in rows.right.items()}
        {'clean': [True, True], 'pgd': [False, True], 'worst': [False, True]}
    """
    if not attacks:
        raise ValueError("attacked_rows: no attacks came; give at least one by name, such as {'pgd': PGD()}.")

    @torch.no_grad()
    def logits(changed: Tensor) -> Tensor:
        return logits_of(f"attacked_rows: {type(network).__name__}", network(changed))

    def told(changed: Tensor) -> Tensor:
        return logits(changed).argmax(dim=-1) == target

    def start() -> Randomness | None:
        return None if keys is None else RowGenerator(0, keys)

    clean = logits(inputs)
    right = {"clean": clean.argmax(dim=-1) == target}
    right |= {name: told(attack(network, inputs, target, start())) for name, attack in attacks.items()}
    right["worst"] = torch.stack(list(right.values())).all(dim=0)
    first = next(iter(attacks.values()))
    for name, other in (surrogates or {}).items():
        # It may be of another precision than the network.
        parameter = next((one for one in other.parameters() if one.is_floating_point()), inputs)
        transferred = first(other, inputs.to(parameter.dtype), target, start())
        right[f"transfer/{name}"] = told(transferred.to(inputs.dtype))
    if random is not None:
        right["random"] = told(random(network, inputs, target, start()))
    return AttackedRows(right, clean)


def random_draws(attack: GradientAttack, draws: int) -> PGD:
    """Of several points drawn within an attack's ball, one that fools the network, if there is any.

    Example:
        >>> random_draws(PGD(epsilon=0.1), draws=5).restarts
        5
    """
    return PGD(
        epsilon=attack.epsilon,
        norm=attack.norm,
        steps=1,
        step_size=0.0,
        restarts=draws,
        bounds=attack.bounds,
        mean=attack.mean,
        std=attack.std,
        seed=attack.seed,
        ignore_index=attack.ignore_index,
    )


def with_epsilon(attack: A, epsilon: float) -> A:
    """The attack within another ball; the length of its steps, if it has one, keeps its share of the radius.

    Example:
        >>> with_epsilon(PGD(epsilon=0.1, step_size=0.02), 0.2).step_size
        0.04
    """
    changed = copy.copy(attack)
    changed.epsilon = epsilon
    if isinstance(changed, PGD) and isinstance(attack, PGD) and attack.epsilon > 0:
        changed.step_size = attack.step_size / attack.epsilon * epsilon
    return changed


def within_distance(attack: Attack, radius: float) -> Attacking:
    """An attack that leaves a row as it is where it would move it farther than a Euclidean distance.

    Such as `CWL2`, which looks for the nearest mistake, wherever that is.

    Args:
        attack: the attack.
        radius: in units of the data before normalisation.

    Example:
        >>> far = PGD(epsilon=0.5, step_size=0.5, steps=1, random_start="none", bounds=None)
        >>> network = nn.Linear(2, 2, bias=False)
        >>> within_distance(far, 0.4)(network, torch.tensor([[0.5, 0.5]]), torch.tensor([0]), None)
        tensor([[0.5000, 0.5000]])
    """

    def bounded(network: nn.Module, inputs: Tensor, target: Tensor, generator: Randomness | None) -> Tensor:
        attacked = attack(network, inputs, target, generator)
        moved = attacked - inputs
        if attack.std is not None:
            moved = moved * moved.new_tensor(attack.std).view(-1, *[1] * (moved.ndim - 2))
        near = torch.linalg.vector_norm(moved.flatten(1), dim=1) <= radius
        return torch.where(near.view(-1, *[1] * (inputs.ndim - 1)), attacked, inputs)

    return bounded


def masked_gradient(accuracy: Mapping[str, float], tolerance: float = 0.0) -> str | None:
    """A sentence, where an attack without a network's gradient does more harm than those that have it; else None.

    Such a network hides its gradient, and its accuracy under white-box attacks says nothing.

    Args:
        accuracy: by the names of `AttackedRows`.
        tolerance: by how much "worst" may be above the others.

    Source:
        Athalye, Carlini, Wagner, 2018, "Obfuscated Gradients Give a False Sense of Security", arXiv:1802.00420.

    Example:
        >>> masked_gradient({"worst": 0.9, "transfer/plain": 0.1, "random": 0.95}).partition(":")[0]
        'the accuracy under white-box attacks, 90.0 %, is above that of attacks by transfer from plain, 10.0 %'
    """
    others = {name: value for name, value in accuracy.items() if name.startswith("transfer/") or name == "random"}
    if not others:
        return None
    strongest = min(others, key=others.__getitem__)
    if accuracy["worst"] <= others[strongest] + tolerance:
        return None
    by = "random points" if strongest == "random" else strongest.replace("transfer/", "transfer from ")
    shown, believed = (f"{100 * number:.1f} %" for number in (accuracy["worst"], others[strongest]))
    return (
        f"the accuracy under white-box attacks, {shown}, is above that of attacks by {by}, {believed}: the "
        "network hides its gradient, and the first number says nothing of its robustness; report the second, and "
        "attack through the whole of it with more steps or another loss."
    )
