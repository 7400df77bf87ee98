"""Optimal transport."""

from typing import Any

from torch import Tensor

from lightning_losses.transport import entropic_cost, kl_cost, sharp_cost, sinkhorn
from tests.golden.adapter import Adapter, Params, gradients, leaf

# A converged case is iterated until the column sums are this close, or to rounding where that is not reached.
CONVERGED = {"n_iters": 20000, "tolerance": 1e-14, "annealing": 12}

ORDER = "per iteration: column potential then row potential, start at zero; loss <P_K,C>"


def entropic_transport(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        epsilon, n_iters = given.take("epsilon"), given.take("n_iters", None)
        given.take("converged_to", None)  # we go further
        if n_iters is not None:
            given.choice(
                "order", {"per iteration: column potential then row potential, start at zero; loss <P_K,C>": 0}
            )
        given.choice("loss", {"<P*(C),C> (sharp Sinkhorn cost), converged": sharp_cost}, sharp_cost)
    cost = leaf(inputs["C"])
    a, b = (leaf(inputs[name].to(cost.dtype)) for name in ("a", "b"))
    if n_iters is not None:
        result = sinkhorn(cost, a, b, epsilon=epsilon, n_iters=n_iters, gradient="unrolled")
    else:
        result = sinkhorn(cost, a, b, epsilon=epsilon, gradient="implicit", **CONVERGED)
    sharp = sharp_cost(result)
    shift = (a * result.f).sum() / a.sum()
    return {
        "plan": result.plan,
        "loss": sharp,
        "transport_cost": sharp,
        "ot_eps_kl": kl_cost(result),
        "ot_eps_entropy": entropic_cost(result),
        "f_centred": result.f - shift,
        "g_shifted": result.g + shift,
        **gradients(sharp, C=cost, a=a, b=b),
    }


ADAPTERS: dict[str, Adapter] = {"sinkhorn": entropic_transport}
