"""What every policy keeps: at the edges of its inputs, and by its definition."""

import copy
import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import lightning_losses.balancing as balancing
from lightning_losses import CrossEntropy, MbLS, Objective, Term
from lightning_losses.balancing import (
    DWA,
    IMTLG,
    IMTLL,
    MGDA,
    RLW,
    AlignedMTL,
    Balancing,
    CAGrad,
    GradientBalancing,
    GradNorm,
    NashMTL,
    PCGrad,
    ReLoBRaLo,
    TorchJDWeighting,
    UncertaintyWeighting,
    UPGrad,
    term_gradients,
)
from lightning_losses.balancing.base import Step
from lightning_losses.balancing.term_gradients import TermGradients
from lightning_losses.mixins.balanced_step import BalancedStep
from lightning_losses.objective import balanced_backward
from tests.kernels.on_cuda import fake_cuda  # noqa: F401 - the fixture is used by its name
from tests.losses.test_no_waiting import Waits

OFFERED = [value for value in vars(balancing).values() if isinstance(value, type) and issubclass(value, Balancing)]
OWN = [kind for kind in OFFERED if kind not in (Balancing, GradientBalancing, TorchJDWeighting)]
OF_GRADIENTS = [kind for kind in OWN if issubclass(kind, GradientBalancing)]
OF_VALUES = [kind for kind in OWN if not issubclass(kind, GradientBalancing)]
by_name = {"ids": lambda kind: kind.__name__}


def rows(terms=3, seed=0, numbers=6):
    return torch.randn(terms, numbers, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direction(policy, jacobian, present=None):
    if not policy.terms:
        policy.begin(len(jacobian))
    everybody = torch.ones(len(jacobian), dtype=torch.bool)
    return policy.combined(jacobian @ jacobian.T, everybody if present is None else present) @ jacobian


def test_there_are_seven_of_gradients_and_six_of_values():
    assert (len(OF_GRADIENTS), len(OF_VALUES)) == (7, 6)


@pytest.mark.parametrize("kind", OF_GRADIENTS, **by_name)
def test_gradients_at_the_edges(kind):
    g = rows(1)
    # What a lone term's gradient is multiplied by; Nash-MTL's is then of length 1.
    alone = {CAGrad: 1.5, NashMTL: 1 / g.norm()}.get(kind, 1.0)
    torch.testing.assert_close(direction(kind(), g), alone * g[0])
    # Two that are equal point where each does.
    equal = direction(kind(), torch.cat([g, g]))
    torch.testing.assert_close(equal / equal.norm(), g[0] / g.norm())
    # Exactly opposite ones of one length have no direction in common.
    assert direction(kind(), torch.cat([g, -g])).norm() <= 1e-6 * g.norm()
    # A term whose gradient is 0 has no say, but under MGDA, which takes no step that could hurt it.
    with_zero = direction(kind(), torch.cat([g, 0 * g]))
    assert with_zero.norm() < 1e-9 if kind is MGDA else with_zero @ g[0] > 0
    # One that is absent has none under any.
    whole = torch.cat([rows(2), 100 * g])
    torch.testing.assert_close(direction(kind(), whole, torch.tensor([True, True, False])) - 100 * g[0],
                               direction(kind(), rows(2)))  # fmt: skip
    for factor in (1e-30, 1e-12, 1e12, 1e30):
        for jacobian in (factor * rows(), torch.diag(torch.tensor([factor, 1.0, 1 / factor])).double() @ rows()):
            assert direction(kind(), jacobian).isfinite().all()
    assert direction(kind(), 0 * rows()).tolist() == [0.0] * 6


@pytest.mark.parametrize("kind", OF_GRADIENTS, **by_name)
@pytest.mark.parametrize("terms", [2, 4])
def test_scale_and_order_of_gradients(kind, terms):
    jacobian = rows(terms, seed=terms)
    plain = direction(kind(), jacobian)
    if kind is not NashMTL:
        torch.testing.assert_close(direction(kind(), 1e-6 * jacobian), 1e-6 * plain, rtol=1e-6, atol=1e-18)
    else:
        torch.testing.assert_close(direction(kind(), 7 * jacobian), plain)
    if kind is not PCGrad or terms == 2:
        # PCGrad visits the others in an order that is drawn.
        torch.testing.assert_close(direction(kind(), jacobian.flip(0)), plain)
    if kind in (IMTLG, NashMTL):
        scaled = direction(kind(), torch.arange(1.0, terms + 1).double().unsqueeze(-1) * jacobian)
        torch.testing.assert_close(scaled / scaled.norm(), plain / plain.norm())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("terms", [2, 3, 5])
def test_directions_are_what_defines_them(seed, terms):
    jacobian = rows(terms, seed=seed, numbers=terms + 1)
    products = {kind: jacobian @ direction(kind(), jacobian) for kind in OF_GRADIENTS}
    short = direction(MGDA(), jacobian)
    assert (products[MGDA] >= short @ short - 1e-10).all()
    assert (products[UPGrad] >= -1e-10).all()
    units = products[IMTLG] / jacobian.norm(dim=1)
    torch.testing.assert_close(units, units.mean().expand(terms), rtol=1e-6, atol=1e-9)
    unclipped = NashMTL(max_norm=0.0)
    weights = unclipped.coefficients(jacobian @ jacobian.T)
    torch.testing.assert_close(jacobian @ jacobian.T @ weights, 1 / weights, rtol=1e-6, atol=0)
    mean = jacobian.mean(dim=0)
    chosen = direction(CAGrad(c=0.5), jacobian)
    torch.testing.assert_close((chosen - mean).norm(), 0.5 * mean.norm())
    generator = torch.Generator().manual_seed(seed)
    for _ in range(50):
        other = torch.randn(terms + 1, generator=generator, dtype=torch.float64)
        other = mean + 0.5 * mean.norm() * other / other.norm()
        assert (jacobian @ other).min() <= (jacobian @ chosen).min() + 1e-9
    values = torch.linalg.svdvals(jacobian)
    aligned = torch.linalg.svd(jacobian, full_matrices=False)
    torch.testing.assert_close(
        direction(AlignedMTL(), jacobian), values[-1] * (aligned[0] @ aligned[2]).sum(dim=0), rtol=1e-6, atol=1e-9
    )


def test_duplicated_gradients_change_no_shortest_direction():
    jacobian = rows(3, seed=4)
    twice = torch.cat([jacobian, jacobian])
    torch.testing.assert_close(direction(MGDA(), twice), direction(MGDA(), jacobian))
    torch.testing.assert_close(direction(UPGrad(), twice), direction(UPGrad(), jacobian))


def test_nash_bargains_every_so_many_steps():
    """As the authors' code does: new weights in steps 0, 3, 6, ..., a direction of length 1 at most in every step."""
    policy = NashMTL(update_weights_every=3)
    policy.begin(3)
    for number in range(7):
        jacobian = (1 + number % 3) * rows(3, seed=number)
        if number % 3 == 0:
            agreed = NashMTL(max_norm=0.0).coefficients(jacobian @ jacobian.T)
        if number == 5:
            other = NashMTL(update_weights_every=3)
            other.begin(3)
            other.load_state_dict(policy.state_dict())
            policy = other
        wanted = agreed @ jacobian
        torch.testing.assert_close(direction(policy, jacobian), wanted / max(1.0, wanted.norm()))
        torch.testing.assert_close(policy.head_weights(), agreed)
        policy.update(Step(torch.ones(3)))
    # A term that no shared parameter helps keeps its weight, so that its head learns.
    headed = NashMTL()
    direction(headed, torch.cat([rows(2), 0 * rows(1)]))
    assert headed.head_weights()[2] == 1
    with pytest.raises(ValueError, match="nash_mtl: update_weights_every=0 came; give a whole number of at least 1"):
        NashMTL(update_weights_every=0)


@pytest.mark.parametrize("kind", OF_VALUES, **by_name)
@pytest.mark.parametrize("value", [0.0, 1e-30, 1.0, 1e30])
def test_weights_stay_finite_and_absent_terms_change_nothing(kind, value):
    policy = kind()
    policy.begin(3)
    norms = torch.full((3,), value, dtype=torch.float64)
    for epoch in range(4):
        policy.at_epoch(epoch)
        for losses in ([value, 1.0, 2.0], [1.0, math.nan, value], [1.0, 2.0, math.inf]):
            step = Step(torch.tensor(losses, dtype=torch.float64), norms)
            assert policy.weights(step.losses).isfinite().all(), (epoch, losses)
            policy.update(step)
    assert policy.weights(step.losses).isfinite().all()
    alone = kind()
    alone.begin(1)
    for _ in range(3):
        alone.update(Step(torch.tensor([2.0]), torch.tensor([3.0])))
    expected = {UncertaintyWeighting: 0.5}.get(kind, 1.0)
    assert alone.weights(torch.tensor([2.0])).tolist() == pytest.approx([expected])


@pytest.mark.parametrize(
    "policy", [DWA(), GradNorm(), GradNorm(parametrisation="softmax"), ReLoBRaLo(alpha=0.5, look_back=0.5)]
)
def test_weights_add_up_to_the_number_of_terms(policy):
    policy.begin(3)
    for epoch in range(4):
        policy.at_epoch(epoch)
        losses = rows(1, seed=epoch, numbers=3)[0].abs()
        policy.update(Step(losses, losses.flip(0)))
        assert policy.weights(losses).sum().item() == pytest.approx(3)


def test_a_resumed_policy_draws_and_weighs_as_the_one_that_went_on():
    for kind in [*OF_VALUES, PCGrad]:
        went_on = kind(**({"look_back": 0.5, "alpha": 0.5} if kind is ReLoBRaLo else {}))
        resumed = kind(**({"look_back": 0.5, "alpha": 0.5} if kind is ReLoBRaLo else {}))
        resumed.begin(3)
        went_on.begin(3)
        for number in range(5):
            if number == 3:
                resumed.load_state_dict(went_on.state_dict())
            for policy in (went_on, resumed):
                losses = rows(1, seed=number, numbers=3)[0].abs()
                policy.at_epoch(number // 2)
                policy.update(Step(losses, losses.flip(0)))
        for name, value in went_on.state_dict().items():
            assert torch.equal(value.nan_to_num(), resumed.state_dict()[name].nan_to_num()), (kind, name)
        if isinstance(went_on, RLW):
            assert torch.equal(went_on.weights(losses), resumed.weights(losses))


@pytest.mark.parametrize("kind", [RLW, ReLoBRaLo, PCGrad, NashMTL], **by_name)
def test_the_number_of_steps_is_that_of_its_buffer(kind):
    policy = kind()
    policy.begin(3)
    for number in range(3):
        assert policy.steps_done == number
        policy.update(Step(torch.ones(3)))
    policy.steps.data.fill_(7)
    assert policy.steps_done == 7
    copied = copy.deepcopy(policy)
    copied.update(Step(torch.ones(3)))
    assert (policy.steps_done, copied.steps_done, int(copied.steps)) == (7, 8, 8)
    copied.load_state_dict({**copied.state_dict(), "steps": torch.tensor(2)}, assign=True)
    assert copied.steps_done == 2
    assert {name for name in policy.state_dict() if name.endswith("steps")} == {"steps"}


@pytest.mark.usefixtures("fake_cuda")
def test_on_a_card_the_number_of_steps_is_read_only_after_something_else_has_written_it():
    policy = PCGrad()
    policy.begin(3)
    # A fake tensor has no number to read: that raises.
    with FakeTensorMode():
        policy.steps = torch.zeros((), dtype=torch.int64, device="cuda")
        with pytest.raises(DataDependentOutputException):
            _ = policy.steps_done
        known = policy._known
        known.buffer, known.version, known.number = policy.steps, policy.steps._version, 4
        policy.count_step()
        policy.count_step()
        assert policy.steps_done == 6
        policy.steps.fill_(7)
        with pytest.raises(DataDependentOutputException):
            _ = policy.steps_done


def test_what_uses_loss_values_waits_for_no_device():
    losses = torch.empty(3, dtype=torch.float64, device="meta")
    for kind in (DWA, GradNorm, IMTLL, UncertaintyWeighting):
        policy, step = kind(), object.__new__(BalancedStep)
        policy.begin(3)
        policy.to("meta")
        step._rows, step._several = None, False
        with Waits(losses, *policy.parameters(), *policy.buffers()) as mode:
            policy.at_epoch(1)
            step._apply(policy, losses, None)
            policy.update(Step(losses, losses))
        assert mode.waits == [], kind


@pytest.mark.parametrize("kind", [IMTLL, UncertaintyWeighting])
def test_a_learned_weight_comes_back_from_its_bound(kind):
    policy = kind()
    policy.begin(1)
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    weights = []
    for value in [1e-12] * 40 + [1e3]:
        losses = torch.tensor([value])
        weights.append(policy.weights(losses))
        optimizer.zero_grad()
        (weights[-1] * losses + policy.penalties()).sum().backward()
        optimizer.step()
    assert weights[-1].item() == pytest.approx(math.exp(10) * {UncertaintyWeighting: 0.5}.get(kind, 1.0))
    assert policy.weights(losses).item() < 1e-3


def test_half_precision_leaves_the_state_in_full_precision():
    objective = Objective({"ce": CrossEntropy(), "mbls": MbLS()}, balancing=DWA()).to(torch.bfloat16)
    assert objective.balancing.sums.dtype is torch.float64
    learned = Objective({"ce": CrossEntropy()}, balancing=UncertaintyWeighting()).half()
    assert learned.balancing.log_variance.dtype is torch.float32


def test_what_an_objective_refuses():
    with pytest.raises(ValueError, match=r"balancing='pcgrad' came; give a policy of lightning_losses.balancing"):
        Objective({"ce": CrossEntropy()}, balancing="pcgrad")
    policy = PCGrad()
    Objective({"ce": CrossEntropy()}, balancing=policy)
    with pytest.raises(ValueError, match="pcgrad: it balances another objective already"):
        Objective({"ce": CrossEntropy()}, balancing=policy)
    with pytest.raises(ValueError, match="kinds=.* came for 1 terms"):
        Objective({"ce": CrossEntropy()}, balancing=UncertaintyWeighting(kinds=["regression", "classification"]))
    with pytest.raises(ValueError, match="cagrad: c=1.0 came; give a number at least 0 and below 1"):
        CAGrad(c=1.0)
    with pytest.raises(ValueError, match="give a weighting by products"):
        TorchJDWeighting("upgrad")
    objective = Objective({"ce": CrossEntropy()}, balancing=MGDA())
    given = {"logits": torch.zeros(2, 3, requires_grad=True), "target": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match="MGDA needs the terms' gradients, which a plain call does not compute"):
        objective(**given)
    # In evaluation there is nothing to balance.
    assert objective.eval()(**given).total > 0
    with pytest.raises(ValueError, match="an objective without balancing= came"):
        balanced_backward(Objective({"ce": CrossEntropy()}), nn.Linear(4, 3), **given)


def test_values_in_a_loop_of_ones_own():
    objective = Objective({"ce": CrossEntropy(), "mbls": Term(MbLS(margin=0.0), 2.0)}, balancing=UncertaintyWeighting())
    given = {"logits": torch.randn(4, 3, requires_grad=True), "target": torch.tensor([0, 1, 2, -100])}
    value = objective(**given)
    value.total.backward()
    ce, mbls = value.parts["ce"].item(), value.parts["mbls"].item()
    torch.testing.assert_close(objective.balancing.log_variance.grad, torch.tensor([0.5 - 0.5 * ce, 0.5 - mbls]))
    assert value.total.item() == pytest.approx(0.5 * ce + mbls)
    assert objective.eval()(**given).total.item() == pytest.approx(ce + 2 * mbls)


@pytest.mark.parametrize("kind", [*OF_GRADIENTS, GradNorm], **by_name)
def test_gradients_in_a_loop_of_ones_own(kind):
    torch.manual_seed(2)
    network = nn.ModuleDict({"trunk": nn.Linear(4, 5), "a": nn.Linear(5, 3), "b": nn.Linear(5, 3)}).double()
    terms = {name: Term(CrossEntropy(), 1.0, {"logits": name}) for name in ("a", "b")}
    objective = Objective(terms, balancing=kind())
    hidden = network["trunk"](torch.randn(6, 4, dtype=torch.float64)).tanh()
    target = torch.arange(6) % 3
    logits = {name: network[name](hidden) for name in ("a", "b")}
    losses = [nn.functional.cross_entropy(logits[name], target) for name in logits]
    trunk, heads = list(network["trunk"].parameters()), [p for name in logits for p in network[name].parameters()]
    jacobian = torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(loss, trunk, retain_graph=True)]) for loss in losses]
    )
    own = torch.autograd.grad(sum(losses), heads, retain_graph=True)
    balanced_backward(objective, network, **logits, target=target)
    found = torch.cat([parameter.grad.flatten() for parameter in trunk])
    weights = torch.ones(2).double()
    if kind is not GradNorm:
        policy = kind()
        policy.begin(2)
        weights = policy.coefficients(jacobian @ jacobian.T)
    torch.testing.assert_close(found, weights @ jacobian)
    # The authors clip the gradient of the shared parameters alone.
    bargain = NashMTL(max_norm=0.0).coefficients(jacobian @ jacobian.T)
    for number, (parameter, gradient) in enumerate(zip(heads, own, strict=True)):
        weight = bargain[number // 2] if kind is NashMTL else 1.0
        torch.testing.assert_close(parameter.grad, weight * gradient)


@pytest.mark.parametrize("scale", [1e-25, 1e20])
def test_products_of_gradients_neither_underflow_nor_overflow(scale, monkeypatch):
    monkeypatch.setattr(term_gradients, "_PART", 3)
    weight, slopes = nn.Parameter(torch.ones(7)), torch.randn(2, 7) * scale
    gathered = TermGradients("test", {"weight": weight}, terms=2)
    gathered.add(list(slopes @ weight), torch.ones(()), None)
    torch.testing.assert_close(gathered.gram(), slopes.double() @ slopes.double().T, rtol=1e-12, atol=0)


def test_torchjd_agrees():
    aggregation = pytest.importorskip("torchjd.aggregation", reason="the extra balancing is not installed")
    jacobian = rows(3, seed=9)
    pairs = [
        (IMTLG(), aggregation.IMTLGWeighting()),
        (AlignedMTL(reduction="mean"), aggregation.AlignedMTLWeighting()),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(direction(TorchJDWeighting(theirs), jacobian), direction(ours, jacobian))
