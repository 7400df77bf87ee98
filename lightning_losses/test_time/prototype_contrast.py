"""The contrast of a robust mean teacher: a feature, its view's and the source's nearest prototype belong together."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from lightning_losses.losses.contrastive.supcon import SupCon
from lightning_losses.parallel.processes import gather_batch
from lightning_losses.teachers.feature_taps import FeatureTap, pooled
from lightning_losses.test_time.adaptation import Adaptation

# What the names of its projector's parameters begin with; none of a network's begins with a dot.
PROJECTOR = ".projector."
_WIDTH, _TEMPERATURE = 128, 0.1


@torch.no_grad()
def prepare_contrast(
    run: Adaptation, layer: str, source: Sequence[tuple[Tensor, Int[Tensor, " rows"]]], seed: int
) -> None:
    """Measure the mean feature of each class of the source, and draw a projector that learns with the network.

    Args:
        run: the adaptation, which keeps both.
        layer: whose outputs are the features.
        source: batches of inputs and their classes.
        seed: of the projector, two layers with ReLU between them.
    """
    rows = []
    with FeatureTap(run.network, [layer], "robust_mean_teacher") as tap:
        for inputs, _ in source:
            run.logits(inputs)
            rows.append(pooled(tap.latest()[layer]))
    features, target = torch.cat(rows), torch.cat([target for _, target in source]).to(rows[0].device)
    classes = [target == one for one in range(int(target.max()) + 1)]
    run.fixed["prototypes"] = torch.stack([features[own].mean(dim=0) for own in classes if own.any()])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = nn.Sequential(nn.Linear(features.shape[1], _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH))
    for name, parameter in projector.to(features).named_parameters():
        run.learn(f"{PROJECTOR}{name}", parameter)


def prototype_contrast(run: Adaptation, views: Sequence[Float[Tensor, "batch ..."]]) -> Float[Tensor, ""]:
    """`SupCon` of projected features of each view and of the prototypes that are nearest to the first, by cosine.

    Each sample is a class; the value is of the batch of all processes, and the same on every one of them.

    Args:
        run: the adaptation, after `prepare_contrast`.
        views: the layer's outputs for the samples, and for views of them.
    """
    features, prototypes = [pooled(view) for view in views], run.fixed["prototypes"]
    with torch.no_grad():
        nearest = (normalize(features[0], dim=1) @ normalize(prototypes, dim=1).T).argmax(dim=1)
    together = torch.stack([prototypes[nearest], *features], dim=1)
    own = (parameter for name, parameter in run.adapted.items() if name.startswith(PROJECTOR))
    first, first_bias, last, last_bias = own
    projected = linear(linear(together, first, first_bias).relu(), last, last_bias)
    projected = projected if run.rank_local else gather_batch(projected)
    sample = torch.arange(len(projected), device=projected.device).repeat_interleave(projected.shape[1])
    value: Tensor = SupCon(_TEMPERATURE, _TEMPERATURE)(projected.flatten(0, 1), sample)
    return value
