"""Losses of preferences on categorical policies, where the policy of least loss is known: how near training comes.

    python benchmarks/exact_policies.py
    python benchmarks/exact_policies.py --plot policies.png

A policy chooses one of a few answers; expectations over all pairs of answers are taken exactly, so that what is left
between the trained policy and the known one is the optimizer's alone. Prints the total variation distance of both:

- preferences of a Bradley-Terry model with known rewards: DPO, robust DPO with flipped labels, CPO, and f-DPO by each
  of its divergences, each against its own optimum; IPO against that of its total preference; a reward model against
  the rewards;
- a cyclic preference (rock, paper, scissors): the iterates of INPO against the Nash policy and against the closed form
  of each step, and those of IPO and DPO on the same pairs;
- f-DPG: the largest entry of its expected gradient at the target, and what training by it reaches.
"""

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_losses import CPO, DPO, FDPG, FDPO, INPO, IPO, BradleyTerry, RobustDPO
from lightning_losses.environment.atomic_files import write_json
from lightning_losses.losses.base import Loss

# What each answer is worth, and how likely the reference is to give it.
REWARDS = torch.tensor([1.0, 0.2, -0.4, 0.7, -1.1], dtype=torch.float64)
REFERENCE = torch.tensor([0.1, 0.3, 0.25, 0.15, 0.2], dtype=torch.float64)
# Rock, paper, scissors: how often the row's answer is preferred to the column's.
CYCLE = torch.tensor([[0.5, 0.1, 0.9], [0.9, 0.5, 0.1], [0.1, 0.9, 0.5]], dtype=torch.float64)
SKEWED = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
F_DPO = ("reverse_kl", "forward_kl", "js", "alpha")
F_DPG = ("forward_kl", "reverse_kl", "js", "total_variation", "chi_square", "reverse_chi_square")
# In the picture.
_NAMES = {"reverse_kl": "reverse KL", "forward_kl": "forward KL", "js": "Jensen-Shannon", "alpha": "alpha"}
_MARKERS = ("o", "D", "s", "^")


class Row(NamedTuple):
    """A line of the table: a method, what it shall reach, the distance from it before and after training."""

    method: str
    optimum: str
    before: float
    after: float


def bradley_terry(rewards: Tensor) -> Tensor:
    """How often each answer is preferred to each other one."""
    return torch.sigmoid(rewards.unsqueeze(1) - rewards.unsqueeze(0))


def distance(policy: Tensor, other: Tensor) -> float:
    """Total variation."""
    return float((policy - other).abs().sum() / 2)


def trained(
    loss: Loss,
    preference: Tensor,
    reference: Tensor,
    sampled_by: Tensor | None = None,
    old: Tensor | None = None,
    steps: int = 500,
) -> Tensor:
    """The policy of least expected loss, found by L-BFGS from the reference.

    Args:
        loss: of pairs, with reduction "none".
        preference: [A, A] how often the row's answer is chosen, of a pair of both.
        reference: [A] the reference policy.
        sampled_by: [A] the policy that samples both answers of a pair; None: uniform.
        old: [A] the previous policy, where the loss takes it.
        steps: the most iterations.
    """
    answers = len(reference)
    chosen, rejected = torch.meshgrid(torch.arange(answers), torch.arange(answers), indexing="ij")
    chosen, rejected = chosen.flatten(), rejected.flatten()
    drawn = torch.full_like(reference, 1 / answers) if sampled_by is None else sampled_by
    weight = (drawn[chosen] * drawn[rejected]) * preference.flatten()
    constants = {"ref": reference.log(), "old": None if old is None else old.log()}
    logits = reference.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=steps, tolerance_grad=1e-13, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        log_p = logits.log_softmax(dim=0)
        offered = {"chosen_logps": log_p[chosen], "rejected_logps": log_p[rejected]}
        for name, log_q in constants.items():
            if log_q is not None:
                offered |= {f"{name}_chosen_logps": log_q[chosen], f"{name}_rejected_logps": log_q[rejected]}
        # A completion is one token.
        given = {name: logps.unsqueeze(1) for name, logps in offered.items() if name in loss.inputs()}
        value = (weight * loss(**given)).sum()
        value.backward()
        return value.detach()

    optimizer.step(closure)
    return logits.detach().softmax(dim=0)


def tilted(reference: Tensor, exponent: Tensor) -> Tensor:
    """``reference exp(exponent)``, normalised."""
    return (reference.log() + exponent).softmax(dim=0)


def optimum_of(divergence: str, reference: Tensor, rewards: Tensor, beta: float, alpha: float = 0.5) -> Tensor:
    """The policy with the largest mean reward less β times its f-divergence from the reference.

    ``f'(u) = r / β - c`` for each answer, with u its ratio to the reference, and c so that probabilities add up to 1.
    """
    inverse: dict[str, Callable[[Tensor], Tensor]] = {
        "reverse_kl": torch.exp,
        "forward_kl": lambda slope: 1 / (1 - slope),
        "js": lambda slope: 1 / (2 * torch.exp(-slope) - 1),
        "alpha": lambda slope: (1 - alpha * slope) ** (-1 / alpha),
    }
    # Above it a ratio is not defined.
    most = {"reverse_kl": math.inf, "forward_kl": 1.0, "js": math.log(2), "alpha": 1 / alpha}[divergence]
    scaled = rewards / beta
    low = float(scaled.max()) - min(most, 50.0)
    high = float(scaled.max()) + 50.0
    for _ in range(200):
        middle = (low + high) / 2
        total = float((reference * inverse[divergence](scaled - middle)).sum())
        low, high = (middle, high) if total > 1 else (low, middle)
    policy = reference * inverse[divergence](scaled - high)
    return policy / policy.sum()


def preferences(beta: float = 0.5) -> list[Row]:
    """The lines of losses of pairs that a Bradley-Terry model prefers."""
    preference, uniform = bradley_terry(REWARDS), torch.full_like(REFERENCE, 1 / len(REFERENCE))
    flipped = 0.8 * preference + 0.2 * preference.T
    goal = tilted(REFERENCE, REWARDS / beta)
    total = tilted(REFERENCE, preference.mean(dim=1) / beta)
    rows = [
        ("DPO", "ref exp(r/β)", goal, DPO(beta, reduction="none"), preference, REFERENCE),
        ("DPO, 20 % flipped", "ref exp(r/β)", goal, DPO(beta, reduction="none"), flipped, REFERENCE),
        ("robust DPO, 20 % flipped", "ref exp(r/β)", goal, RobustDPO(beta, label_smoothing=0.2, reduction="none"),
         flipped, REFERENCE),
        ("CPO without likelihood", "exp(r/β)", tilted(uniform, REWARDS / beta),
         CPO(beta, nll_weight=0.0, reduction="none"), preference, uniform),
        ("IPO", "ref exp(P(y > uniform)/β)", total, IPO(beta, over="sum", reduction="none"), preference, REFERENCE),
    ]  # fmt: skip
    for name in F_DPO:
        own = optimum_of(name, REFERENCE, REWARDS, beta)
        loss = FDPO(beta, divergence=name, reduction="none")
        rows.append((f"f-DPO, {name}", "f'(p/ref) = r/β - c", own, loss, preference, REFERENCE))
    return [
        Row(method, optimum, distance(start, aim), distance(trained(loss, given, start), aim))
        for method, optimum, aim, loss, given, start in rows
    ]


def reward_model() -> Row:
    """The line of the reward model: the largest distance of centred rewards."""
    preference = bradley_terry(REWARDS)
    aim = REWARDS - REWARDS.mean()
    rewards = torch.zeros_like(REWARDS, requires_grad=True)
    answers = len(REWARDS)
    chosen = torch.arange(answers).repeat_interleave(answers)
    rejected = torch.arange(answers).repeat(answers)
    optimizer = torch.optim.LBFGS(
        [rewards], max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        values = BradleyTerry(reduction="none")(rewards[chosen], rewards[rejected])
        value = (preference.flatten() * values).sum() / answers**2
        value.backward()
        return value.detach()

    optimizer.step(closure)
    found = rewards.detach() - rewards.detach().mean()
    return Row("Bradley-Terry", "r - mean r", float(aim.abs().max()), float((found - aim).abs().max()))


def nash(preference: Tensor, reference: Tensor, tau: float) -> Tensor:
    """The policy that is its own best answer, held to the reference: ``ref exp(P(y > π)/τ)``."""
    policy = reference
    for _ in range(4000):
        policy = torch.lerp(policy.log(), tilted(reference, preference @ policy / tau).log(), 0.05).softmax(dim=0)
    return policy


class Game(NamedTuple):
    """Distances from the Nash policy over the iterations, by method, and INPO's largest from its closed form."""

    distances: dict[str, list[float]]
    from_closed_form: float


def game(iterations: int = 60, tau: float = 0.1, eta: float = 0.5) -> Game:
    """Play rock, paper, scissors: in each iteration the last policy samples the pairs."""
    aim = nash(CYCLE, SKEWED, tau)
    losses: Mapping[str, Loss] = {
        "INPO": INPO(tau, eta, reduction="none"),
        "IPO": IPO(tau, over="sum", reduction="none"),
        "DPO": DPO(tau, reduction="none"),
    }
    distances: dict[str, list[float]] = {}
    worst = 0.0
    for name, loss in losses.items():
        policy = SKEWED
        distances[name] = [distance(policy, aim)]
        for _ in range(iterations):
            before, policy = policy, trained(loss, CYCLE, SKEWED, sampled_by=policy, old=policy)
            distances[name].append(distance(policy, aim))
            if name == "INPO":
                between = tau / eta * SKEWED.log() + (1 - tau / eta) * before.log()
                worst = max(worst, distance(policy, (between + CYCLE @ before / eta).softmax(dim=0)))
    return Game(distances, worst)


def f_dpg(divergence: str, beta: float = 0.5, steps: int = 3000) -> tuple[float, Row]:
    """The largest entry of the expected gradient at the target, and the line of training by it from the reference."""
    scores = REFERENCE.log() + REWARDS / beta
    target = scores.softmax(dim=0)
    loss = FDPG(divergence, window=0, reduction="none")

    def gradient(logits: Tensor, scores: Tensor | None = None) -> Tensor:
        logits = logits.detach().requires_grad_()
        log_p = logits.log_softmax(dim=0)
        # The total variation jumps at the target: rounding must not say on which side of it a policy is.
        values = loss(log_p.unsqueeze(1), log_p.detach() if scores is None else scores)
        return torch.autograd.grad((log_p.detach().exp() * values).sum(), logits)[0]

    at_target = float(gradient(target.log()).abs().max())
    # Z, as it is after many completions.
    loss.log_sum.copy_(scores.logsumexp(dim=0))
    loss.seen.fill_(1)
    logits = REFERENCE.log()
    for step in range(steps):
        # With ever smaller steps, since the gradient of a total variation gets no smaller.
        logits = logits - 0.5 * (1 - step / steps) * gradient(logits, scores)
    row = Row(f"f-DPG, {divergence}", "P/Z", distance(REFERENCE, target), distance(logits.softmax(dim=0), target))
    return at_target, row


def plot(path: Path, played: Game, beta: float = 0.5) -> None:
    """The optimum of each divergence beside what f-DPO reached, and the game's distances."""
    from lightning_losses.plots.style import draw_line, new_figure, paper_style, save_figure

    order = REWARDS.argsort(descending=True)
    places = range(len(order))
    with paper_style():
        figure, (left, right) = new_figure(columns=2, width=3.5, height=3.4)
        left.bar(places, REFERENCE[order].tolist(), 0.9, color="0.85", label="reference")
        for number, name in enumerate(F_DPO):
            at = [place + 0.18 * (number - 1.5) for place in places]
            aim = optimum_of(name, REFERENCE, REWARDS, beta)[order]
            reached = trained(FDPO(beta, divergence=name, reduction="none"), bradley_terry(REWARDS), REFERENCE)[order]
            # Whole also where a probability of nearly 0 lies on the axis.
            left.plot(at, reached.tolist(), _MARKERS[number], markersize=4, label=_NAMES[name], zorder=3, clip_on=False)
            closed = "in closed form" if number == len(F_DPO) - 1 else None
            left.plot(at, aim.tolist(), "_", color="black", markersize=9, label=closed, clip_on=False)
        left.set_xticks(places, [f"{float(REWARDS[answer]):g}" for answer in order])
        left.set(xlabel="an answer's reward", ylabel="probability", title="f-DPO and its optima")
        left.grid(visible=False, axis="x")
        for number, (name, distances) in enumerate(played.distances.items()):
            draw_line(right, range(len(distances)), distances, name, number)
        right.set(yscale="log", xlabel="iteration", ylabel="distance from the Nash policy")
        right.set_title("Rock, paper, scissors")
        for axis, ncols in ((left, 2), (right, 3)):
            # Below its panel, since inside it would hide points.
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=ncols, columnspacing=1.2)
    save_figure(figure, path)


def main() -> None:
    from measure import console, show

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=60, help="of the game")
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    parser.add_argument("--plot", type=Path, help="draw policies and distances")
    options = parser.parse_args()
    torch.set_num_threads(1)
    gradients, of_gradients = zip(*(f_dpg(name) for name in F_DPG), strict=True)
    rows = [*preferences(), reward_model(), *of_gradients]
    played = game(options.iterations)
    show(
        "Distance from the optimum",
        ["method", "optimum", "before", "after"],
        [[row.method, row.optimum, f"{row.before:.3f}", f"{row.after:.1e}"] for row in rows],
    )
    show(
        "f-DPG: the largest entry of the expected gradient at the target",
        list(F_DPG),
        [[f"{gradient:.1e}" for gradient in gradients]],
    )
    last = {name: distances[-10:] for name, distances in played.distances.items()}
    show(
        "Rock, paper, scissors: distance from the Nash policy in the last 10 iterations",
        ["method", "first", "least", "largest"],
        [[name, f"{played.distances[name][0]:.3f}", f"{min(d):.1e}", f"{max(d):.1e}"] for name, d in last.items()],
    )
    console.print(f"INPO's steps are within {played.from_closed_form:.1e} of their closed form.")
    if options.output:
        write_json(
            options.output, {"rows": rows, "gradients": dict(zip(F_DPG, gradients, strict=True)), "game": played}
        )
    if options.plot:
        plot(options.plot, played)


if __name__ == "__main__":
    main()
