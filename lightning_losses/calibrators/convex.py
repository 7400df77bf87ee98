"""Deterministic solvers for the convex problems that calibrators pose, in float64 and to the optimum."""

import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

# With a larger gradient, in the solver's scaled coordinates, there is no optimum.
_CONVERGED = 1e-6
# With a smaller mean cross-entropy the scores separate the classes.
_SEPARATED = 1e-6
_CHUNK = 1 << 20

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]


def minimize(
    calibrator: str,
    objective: Objective,
    start: Float[Tensor, "..."],
    *,
    rough: bool = False,
    max_iterations: int = 2000,
) -> Float[Tensor, "..."]:
    """The minimum of a smooth convex function, by L-BFGS with a strong Wolfe line search.

    Args:
        calibrator: the name that a warning begins with.
        objective: a function from parameters to the value and its gradient, scaled so that curvatures are near 1.
        start: the first parameters, float64.
        rough: stop at a gradient of 1e-4 without a warning; the result is a start for the next call.
        max_iterations: the largest number of iterations.

    Warns:
        UserWarning: no optimum was reached, for example for separable data without a penalty.
    """
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=max_iterations,
        max_eval=4 * max_iterations,
        history_size=20,
        tolerance_grad=1e-4 if rough else 1e-7,
        tolerance_change=1e-9 if rough else 1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        value, gradient = objective(parameters.detach())
        parameters.grad = gradient
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    solution = parameters.detach()
    if rough:
        return solution
    value, gradient = objective(solution)
    largest = float(gradient.abs().max())
    if not largest < _CONVERGED or float(value) < _SEPARATED:
        warnings.warn(
            f"{calibrator}: the fit stopped at a gradient of {largest:.1e}, short of its optimum; data whose classes "
            "can be separated perfectly have none: increase the penalty, or fit on more data.",
            stacklevel=5,
        )
    return solution


def warn_of_absent(calibrator: str, target: Int[Tensor, " rows"], classes: int) -> None:
    """Warn of classes that no row is of: without a penalty the likelihood then has no maximum."""
    absent = (torch.bincount(target, minlength=classes) == 0).nonzero().flatten().tolist()
    if absent:
        named = ", ".join(map(str, absent[:10])) + (" and others" if len(absent) > 10 else "")
        warnings.warn(
            f"{calibrator}: no row is of class {named}, so that nothing but a penalty bounds how improbable it is; "
            "fit on rows of every class, or by TemperatureScaling.",
            stacklevel=4,
        )


def affine_softmax(
    logits: Float[Tensor, "rows features"],
    target: Int[Tensor, " rows"],
    coefficients: Float[Tensor, "classes extended"],
    precision: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of ``W x + b``, and its gradient with respect to ``[W | b]``, in chunks of bounded memory.

    Sums are in float64, their summands in `precision`.
    """
    weight, bias = coefficients[:, :-1].to(precision), coefficients[:, -1].to(precision)
    value = torch.zeros((), dtype=torch.float64, device=logits.device)
    gradient = torch.zeros_like(coefficients)
    rows = max(_CHUNK // logits.shape[-1], 1)
    for chunk, labels in zip(torch.split(logits, rows), torch.split(target, rows), strict=True):
        features = chunk.to(precision)
        scores = torch.addmm(bias, features, weight.T)
        loss, residual = softmax_residual(scores, labels)
        value += loss
        gradient[:, :-1] += residual.T @ features
        gradient[:, -1] += residual.sum(dim=0, dtype=torch.float64)
    return value / len(logits), gradient.div_(len(logits))


def softmax_residual(
    scores: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "rows classes"]]:
    """The summed cross-entropy, and its gradient with respect to the scores, which are overwritten."""
    chosen = target.unsqueeze(-1)
    scores -= scores.amax(dim=-1, keepdim=True)
    at_target = scores.gather(-1, chosen).sum(dtype=torch.float64)
    mass = scores.exp_()
    norm = mass.sum(dim=-1, keepdim=True)
    residual = mass.div_(norm)
    residual.scatter_add_(-1, chosen, -torch.ones_like(chosen, dtype=residual.dtype))
    return norm.log().sum(dtype=torch.float64) - at_target, residual


def evenly_spaced(logits: Tensor, target: Tensor, rows: int = 1 << 12) -> tuple[Tensor, Tensor] | None:
    """About `rows`, or a sixteenth, evenly spaced rows for a cheap first solution; None if that isn't worthwhile."""
    if len(logits) < 2 * rows:
        return None
    every = len(logits) // max(rows, len(logits) // 16)
    return logits[::every].contiguous(), target[::every].contiguous()


def is_constant(values: Float[Tensor, " rows"], least: float = 0.0) -> bool:
    """Whether values differ only by rounding in their precision, relative to their size or to `least`."""
    low, high = (float(end) for end in torch.aminmax(values))
    return high - low <= 4 * torch.finfo(values.dtype).eps * max(abs(low), abs(high), least)


def logistic_regression(
    calibrator: str, features: Float[Tensor, "rows inputs"], target: Float[Tensor, " rows"]
) -> Float[Tensor, " inputs"]:
    """Coefficients of the logistic regression of targets in [0, 1] without penalty, by damped Newton steps.

    Warns:
        UserWarning: the classes are separable, so that the likelihood has no maximum.
    """
    features, target = features.double(), target.double()
    # Scale the columns equally; the end undoes the effect of this on the solution.
    scale = features.square().mean(dim=0).sqrt().clamp(min=1e-300)
    features = features / scale
    coefficients = features.new_zeros(features.shape[-1])
    value = _logistic_value(features, target, coefficients)
    for _ in range(200):
        probability = torch.sigmoid(features @ coefficients)
        gradient = features.T @ (probability - target) / len(target)
        if float(gradient.abs().max()) < 1e-13:
            break
        curvature = features.T @ (features * (probability * (1 - probability)).unsqueeze(-1)) / len(target)
        curvature += torch.eye(len(curvature), dtype=curvature.dtype, device=curvature.device) * 1e-14
        step = -torch.linalg.solve(curvature, gradient)
        length = 1.0
        while length > 1e-10:
            following = _logistic_value(features, target, coefficients + length * step)
            if float(following) <= float(value):
                break
            length /= 2
        if length <= 1e-10 or float(step.abs().max()) < 1e-14:
            break
        coefficients, value = coefficients + length * step, following
        if float(coefficients.abs().max()) > 1e4:
            break
    probability = torch.sigmoid(features @ coefficients)
    largest = float((features.T @ (probability - target)).abs().max() / len(target))
    if largest > _CONVERGED or float(value) < _SEPARATED:
        warnings.warn(
            f"{calibrator}: the scores separate the classes, so that the best fit is infinitely steep; it "
            "was stopped: smooth the targets, or fit on more data.",
            stacklevel=6,
        )
    return coefficients / scale


def _logistic_value(features: Tensor, target: Tensor, coefficients: Tensor) -> Tensor:
    scores = features @ coefficients
    return (torch.nn.functional.softplus(scores) - target * scores).mean()
