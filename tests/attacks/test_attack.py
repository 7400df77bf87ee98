"""What holds of every attack: it stays in the ball and the box, and leaves everything else as it is."""

import warnings
from contextlib import nullcontext

import lightning as L
import pytest
import torch
from torch import nn

from lightning_losses.attacks import CWL2, FGSM, PGD, PMA, RowGenerator, attacking
from lightning_losses.attacks.gradient_attack import GradientAttack
from tests.attacks.networks import assert_same_state, batch, convolutional, state

EPSILON = {"linf": 0.05, "l2": 0.4}
ATTACKS = {
    "fgsm": FGSM(epsilon=0.05),
    "fgsm l2": FGSM(epsilon=0.4, norm="l2"),
    "pgd": PGD(epsilon=0.05, step_size=0.02, steps=4),
    "pgd l2": PGD(epsilon=0.4, step_size=0.2, steps=4, norm="l2"),
    "pgd restarts": PGD(epsilon=0.05, step_size=0.05, steps=2, restarts=3, loss="logit_margin"),
    "pgd leaving": PGD(epsilon=0.05, step_size=0.05, steps=3, restarts=2, stop_when_fooled=True),
    "pgd train": PGD(epsilon=0.05, step_size=0.02, steps=2, batch_norm="train"),
    "pgd kl": PGD(epsilon=0.05, step_size=0.02, steps=3, loss="kl_divergence", random_start="normal"),
    "pgd margins": PGD(epsilon=0.05, step_size=0.02, steps=3, loss="margin_vector_norm", schedule="cosine"),
    "pgd dlr": PGD(epsilon=0.05, step_size=0.02, steps=3, loss="dlr"),
    "pgd probability": PGD(epsilon=0.05, step_size=0.02, steps=3, loss="probability_margin"),
    "pma": PMA(epsilon=0.05, steps=4),
    "pma l2": PMA(epsilon=0.4, steps=4, norm="l2", stop_when_fooled=False),
    "cw": CWL2(c=5.0, steps=6, learning_rate=0.05, search_steps=2),
}
each_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


def farthest(attacked, inputs, norm):
    moved = (attacked - inputs).flatten(1)
    return (moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)).max().item()


@each_attack
@pytest.mark.parametrize("around", [nullcontext, torch.no_grad, torch.inference_mode])
def test_it_stays_in_the_ball_and_the_box_and_changes_nothing_else(attack, around):
    network = convolutional()
    network(batch()[0]).sum().backward()
    before = state(network)
    for seed in range(3):
        inputs, target = batch(seed=seed)
        target[3] = -100
        generator = torch.Generator().manual_seed(seed)
        with around():
            attacked = attack(network, inputs.clone(), target.clone(), generator)
        assert attacked.shape == inputs.shape and attacked.dtype == inputs.dtype and not attacked.requires_grad
        assert attacked.min() >= 0 and attacked.max() <= 1
        if isinstance(attack, GradientAttack):
            assert 0 < farthest(attacked, inputs, attack.norm) <= attack.epsilon * (1 + 1e-5)
        assert torch.equal(attacked[3], inputs[3])
    assert_same_state(before, state(network))


@each_attack
def test_the_same_generator_gives_the_same(attack):
    network, (inputs, target) = convolutional(), batch()
    first = attack(network, inputs, target, torch.Generator().manual_seed(1))
    assert torch.equal(first, attack(network, inputs, target, torch.Generator().manual_seed(1)))
    assert torch.equal(attack(network, inputs, target), attack(network, inputs, target))
    if getattr(attack, "random_start", attack.name) in ("uniform", "normal", "pma"):
        assert not torch.equal(first, attack(network, inputs, target, torch.Generator().manual_seed(2)))


@each_attack
def test_batches_without_rows_or_without_classes_stay(attack):
    network, (inputs, target) = convolutional(), batch()
    assert attack(network, inputs[:0], target[:0]).shape == (0, 2, 6, 6)
    assert torch.equal(attack(network, inputs, torch.full_like(target, -100)), inputs)


def test_a_ball_without_radius_holds_the_input_alone():
    network, (inputs, target) = convolutional(), batch()
    for attack in (FGSM(epsilon=0.0), PGD(epsilon=0.0), PGD(epsilon=0.0, norm="l2"), PMA(epsilon=0.0, steps=2)):
        assert torch.equal(attack(network, inputs, target), inputs)


def test_a_network_that_fails_is_left_as_it_was():
    network, (inputs, target) = convolutional(), batch()
    before = state(network)
    handle = network[5].register_forward_hook(lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        PGD(batch_norm="train")(network, inputs, target)
    handle.remove()
    assert_same_state(before, state(network))
    lazy = nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.LazyLinear(4))
    with pytest.raises(ValueError, match="uninitialized parameter"):
        PGD()(lazy, inputs, target)
    assert all(parameter.requires_grad for parameter in lazy.parameters())


@each_attack
def test_normalised_inputs_are_attacked_as_those_before_normalisation(attack):
    inputs, target = batch(dtype=torch.float64)
    mean, std = torch.tensor([0.3, 0.6]).double(), torch.tensor([0.2, 0.5]).double()
    network = convolutional(torch.float64)
    shaped = [values.view(-1, 1, 1) for values in (mean, std)]
    settings = {name: getattr(attack, name) for name in type(attack)._fields if type(attack)._fields[name].init}
    there = type(attack)(**{**settings, "mean": mean.tolist(), "std": std.tolist()})
    attacked = there(network, (inputs - shaped[0]) / shaped[1], target)
    # Given a function, an attack leaves modes to its caller.
    with attacking(network, attack.batch_norm) as victim:
        expected = attack(lambda x: victim((x - shaped[0]) / shaped[1]), inputs, target)
    torch.testing.assert_close(attacked * shaped[1] + shaped[0], expected, rtol=0, atol=1e-12)


@each_attack
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_attacked_up_to_its_rounding(attack, dtype):
    network, (inputs, target) = convolutional(dtype), batch(dtype=torch.float32)
    inputs = inputs.to(dtype)
    attacked = attack(network, inputs, target)
    assert attacked.dtype == dtype and attacked.min() >= 0 and attacked.max() <= 1
    rounding = torch.finfo(dtype).eps
    if isinstance(attack, GradientAttack):
        limit = rounding if attack.norm == "linf" else rounding * inputs[0].numel() ** 0.5
        assert 0 < farthest(attacked.double(), inputs.double(), attack.norm) <= attack.epsilon + limit


def test_fgsm_is_the_strongest_attack_on_a_linear_network_of_two_classes():
    network, (inputs, target) = nn.Sequential(nn.Flatten(), nn.Linear(72, 2)).double(), batch(classes=2)
    inputs = (0.2 + 0.6 * inputs).double()
    attacked = FGSM(epsilon=0.1)(network, inputs, target)
    linear = network[1]
    rise = (network(attacked) - network(inputs))[range(12), 1 - target]
    fall = (network(inputs) - network(attacked))[range(12), target]
    # No point of the ball moves the margin by more than ε ||w_1 - w_0||_1.
    most = 0.1 * (linear.weight[1] - linear.weight[0]).abs().sum()
    torch.testing.assert_close(rise + fall, most.expand(12), rtol=1e-9, atol=1e-12)


def test_pgd_ends_where_fgsm_does_on_a_linear_network_of_two_classes():
    network, (inputs, target) = nn.Sequential(nn.Flatten(), nn.Linear(72, 2)).double(), batch(classes=2)
    inputs = inputs.double()
    steps = PGD(epsilon=0.1, step_size=0.03, steps=4, random_start="none")
    torch.testing.assert_close(
        steps(network, inputs, target), FGSM(epsilon=0.1)(network, inputs, target), rtol=0, atol=1e-12
    )


def test_a_saturated_softmax_is_attacked_all_the_same():
    network, (inputs, target) = nn.Sequential(nn.Flatten(), nn.Linear(72, 4)), batch()
    target = network(inputs).argmax(dim=1)
    network[1].weight.data *= 2000
    network[1].bias.data *= 2000
    logits = network(inputs.requires_grad_())
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, target), inputs)
    assert (gradient.flatten(1).abs().amax(1) == 0).sum() > 3
    for loss in ("cross_entropy", "probability_margin"):
        attack = PGD(epsilon=0.05, step_size=0.05, steps=1, random_start="none", loss=loss)
        moved = attack(network, inputs.detach(), target) - inputs.detach()
        assert (moved.abs().flatten(1).amax(1) > 0).all()


def test_rows_that_fool_leave_the_batch_and_come_back_as_they_were():
    network, (inputs, target) = nn.Sequential(nn.Flatten(), nn.Linear(72, 4)), batch(rows=40)
    sizes = []
    network.register_forward_hook(lambda module, given, output: sizes.append(len(output)))
    attack = PGD(epsilon=0.3, step_size=0.01, steps=30, random_start="none", stop_when_fooled=True)
    attacked = attack(network, inputs, target)
    assert sizes[0] == 40 and sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[1] < 40
    wrong = network(inputs).argmax(1) != target
    assert wrong.any() and torch.equal(attacked[wrong], inputs[wrong])
    fooled = network(attacked).argmax(1) != target
    whole = PGD(epsilon=0.3, step_size=0.01, steps=30, random_start="none")(network, inputs, target)
    assert torch.equal(fooled | wrong, (network(whole).argmax(1) != target) | wrong)
    # No further than needed: a step less fools no row.
    assert ((attacked - inputs).abs().flatten(1).amax(1) <= (whole - inputs).abs().flatten(1).amax(1) + 1e-6).all()


def test_of_several_starts_the_best_end_is_kept():
    network, (inputs, target) = convolutional(), batch(rows=60)
    settings = {"epsilon": 0.1, "step_size": 0.03, "steps": 2, "loss": "logit_margin"}
    network.eval()

    def margins(attacked):
        logits = network(attacked)
        others = logits.scatter(1, target.unsqueeze(1), -torch.inf).amax(1)
        return others - logits.gather(1, target.unsqueeze(1)).squeeze(1)

    with torch.no_grad():
        one = margins(PGD(**settings)(network, inputs, target))
        four = margins(PGD(**settings, restarts=4)(network, inputs, target))
    assert ((four > 0) >= (one > 0)).all() and (four[one <= 0] >= one[one <= 0] - 1e-6).all() and (four > one).any()


@pytest.mark.parametrize("loss", ["kl_divergence", "margin_vector_norm"])
def test_a_class_that_the_network_masks_moves_no_prediction(loss):
    network, (inputs, target) = convolutional(classes=5), batch()
    masked = torch.arange(5) == 4

    def without_last(x):
        return network(x).masked_fill(masked, -torch.inf)

    attack = PGD(epsilon=0.05, steps=3, loss=loss)
    network.eval()
    assert torch.equal(attack(without_last, inputs, target), attack(lambda x: network(x)[:, :4], inputs, target))


@pytest.mark.parametrize("attack", [PGD(steps=3, mean=0.5, std=0.2), CWL2(steps=3, mean=0.5, std=0.2)])
def test_the_normalisation_is_put_on_the_device_once_a_call(attack, monkeypatch):
    calls, plain = [], torch.Tensor.new_tensor
    monkeypatch.setattr(torch.Tensor, "new_tensor", lambda *given: calls.append(0) or plain(*given))
    attack(convolutional(), *batch())
    assert len(calls) == 2


def test_what_hides_a_gradient_or_gives_nan_is_said():
    inputs, target = batch()
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 4))
    with pytest.raises(ValueError, match="pgd: the network's logits have no gradient"):
        PGD()(lambda x: network(x.detach()), inputs, target)
    with pytest.raises(ValueError, match="pgd: the network's logits have no gradient"):
        PGD()(torch.no_grad()(network), inputs, target)
    for loss in ("cross_entropy", "logit_margin"):
        for settings in ({}, {"restarts": 2}, {"stop_when_fooled": True}, {"stop_when_fooled": True, "restarts": 2}):
            with pytest.raises(ValueError, match="hold NaN in [2-9] of 12 rows"):
                PGD(loss=loss, steps=2, **settings)(
                    lambda x: network(x).masked_fill(torch.arange(len(x)).unsqueeze(1) < 2, torch.nan),
                    inputs,
                    target,
                )


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("call", range(1, 6))
def test_nan_of_one_pass_among_those_of_several_starts_is_said(call, stop):
    network, (inputs, target) = convolutional(), batch()
    network.eval()
    target, calls = network(inputs).argmax(1), []

    def fails_once(x):
        calls.append(0)
        return network(x) * (torch.nan if len(calls) == call else 1.0)

    with pytest.raises(ValueError, match="hold NaN in 12 of 12 rows"):
        PGD(epsilon=1e-4, steps=2, restarts=2, stop_when_fooled=stop)(fails_once, inputs, target)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": -1.0}, "epsilon=-1.0 came; give a number at least 0"),
        ({"norm": "l1"}, "norm='l1' came; choose one of 'linf', 'l2'"),
        ({"bounds": (1.0, 0.0)}, r"bounds=\(1.0, 0.0\) came; give the least and the largest"),
        ({"mean": (0.5,)}, "came with std=None; give both"),
        ({"mean": 0.5, "std": "wide"}, "std='wide' came; give numbers"),
        ({"bounds": 1.0}, r"bounds=\(1.0,\) came; give the least and the largest"),
        ({"mean": (0.5,), "std": (0.0,)}, "give numbers above 0"),
        ({"mean": (0.5,), "std": (torch.inf,)}, r"std=\(inf,\); give finite numbers"),
        ({"mean": torch.nan, "std": 1.0}, r"mean=\(nan,\) came .*; give finite numbers"),
        ({"stop_when_fooled": True, "batch_norm": "train"}, "rows that leave change the others"),
        ({"loss": "kl_divergence", "random_start": "none"}, "it has no gradient"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PGD(**settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y, 0), "generator came as a int; give a torch.Generator"),
        (lambda x, y: (x, y, RowGenerator(0, torch.arange(3))), "RowGenerator of 3 keys came with 12 rows"),
        (lambda x, y: (x, y > 1), "dtype torch.bool; give inputs"),
        (lambda x, y: (x * 255, y), "inputs from .* to .* came with bounds"),
        (lambda x, y: (x, y.float()), "dtype torch.float32; give inputs"),
        (lambda x, y: (x, y[:3]), "give inputs"),
        (lambda x, y: (x, y + 4), "for 12 rows and a target up to 7; give one that returns .* at least 8"),
        (lambda x, y: (x, y - 9), "target holds -[6-9], which is no class; give -100"),
        (lambda x, y: (x.long(), y), "inputs has dtype torch.int64; give floating-point inputs"),
    ],
)
def test_inputs_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PGD()(convolutional(), *change(*batch()))
    with pytest.raises(ValueError, match="std=.* came with inputs of shape"):
        PGD(mean=(0.0,) * 3, std=(1.0,) * 3)(convolutional(), *batch())
    with pytest.raises(ValueError, match="gave logits of shape"):
        PGD()(nn.Identity(), *batch())
    with pytest.raises(ValueError, match="loss='dlr' came with 2 classes"):
        PGD(loss="dlr")(convolutional(classes=2), *batch(classes=2))


def test_labels_may_be_bytes_and_one_mean_stands_for_all_channels():
    network, (inputs, target) = convolutional(), batch()
    attack = PGD(epsilon=0.05, mean=0.5, std=0.25)
    expected = PGD(epsilon=0.05, mean=(0.5, 0.5), std=(0.25, 0.25))(network, inputs, target)
    assert torch.equal(attack(network, inputs, target.to(torch.uint8)), expected)
    # As a byte, -100 is 156, which is a class like any other.
    many, target = convolutional(classes=200), target + 155
    assert torch.equal(attack(many, inputs, target.to(torch.uint8)), attack(many, inputs, target))
    assert PGD()(network, inputs[..., :0], target).shape == (12, 2, 6, 0)


def test_ignored_rows_may_hold_anything_and_hide_nothing():
    network, (inputs, target) = convolutional(), batch()
    expected = FGSM(epsilon=0.05)(network, inputs, target)
    target[3] = -100
    for padding in (torch.nan, -7.0):
        inputs[3] = padding
        attacked = FGSM(epsilon=0.05)(network, inputs, target)
        assert torch.equal(attacked[target >= 0], expected[target >= 0])
        assert torch.equal(attacked[3].nan_to_num(), inputs[3].nan_to_num())
        with pytest.raises(ValueError, match="came with bounds"):
            FGSM(epsilon=0.05)(network, inputs * 255, target)


def test_ignored_rows_count_for_none_of_those_that_share_their_batch_normalisation():
    network, (inputs, target) = convolutional(torch.float64), batch(dtype=torch.float64)
    order = torch.tensor([3, 1, 2, 0])
    # The same classes under other indices, so that 0 is another one.
    other = convolutional(torch.float64)
    other[5].weight.data, other[5].bias.data = network[5].weight.data[order], network[5].bias.data[order]
    ignored = torch.arange(12) < 6
    attack = PGD(epsilon=0.05, steps=2, batch_norm="train")
    attacked = [
        attack(victim, inputs, classes.masked_fill(ignored, -100))
        for victim, classes in ((network, target), (other, order[target]))
    ]
    assert torch.equal(*attacked) and not torch.equal(attacked[0][6:], inputs[6:])


def test_what_is_below_the_normal_numbers_has_a_sign_and_a_ball():
    network, (inputs, target) = nn.Sequential(nn.Flatten(), nn.Linear(72, 4)), batch()
    expected = FGSM(epsilon=0.05)(network, inputs, target)
    network[1].weight.data *= 1e-39
    network[1].bias.data *= 0
    attacked = FGSM(epsilon=0.05)(network, inputs, target)
    assert ((attacked - inputs).abs() >= 0.0499).sum() > 0.7 * inputs.numel()
    assert ((attacked - inputs).sign() == (expected - inputs).sign()).float().mean() > 0.7
    inputs = inputs * 1e-22
    attacked = PGD(epsilon=1e-24, step_size=1e-24, norm="l2", bounds=None)(convolutional(), inputs, target)
    assert 0.99e-24 < farthest(attacked.double(), inputs.double(), "l2") < 1.01e-24


class Mean(GradientAttack):
    """Climbs what is no value for each row."""

    def losses(self, logits, climbing, step, restart):
        return nn.functional.cross_entropy(logits, climbing.target)

    def step_length(self, step):
        return 0.1

    def start(self, clean, generator):
        return clean


def test_a_loss_of_ones_own_must_have_a_value_for_each_row():
    with pytest.raises(ValueError, match=r"the loss gave values of shape \[\], with gradient, for 12 rows"):
        Mean(restarts=2)(convolutional(), *batch())


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_autocast_may_have_kept_copies_of_weights_from_where_gradients_were_off(around):
    network, (inputs, target) = convolutional(), batch()
    network.eval()
    with torch.autocast("cpu", torch.bfloat16):
        alone = FGSM(epsilon=0.05)(network, inputs, target)
        with around():
            network(inputs)
            within = FGSM(epsilon=0.05)(network, inputs, target)
        assert torch.equal(alone, within)
        # A training step of the same context has its gradients, unless torch itself takes the copies there (2.6 does).
        layer = nn.Linear(2, 2)
        with around():
            layer(torch.ones(2))
        if layer(torch.ones(2)).requires_grad:
            nn.functional.cross_entropy(network(inputs), target).backward()
            assert all(parameter.grad is not None for parameter in network.parameters())


def test_what_underflows_in_half_precision_is_attacked_all_the_same():
    network, (inputs, _) = nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.Tanh(), nn.Linear(4, 4)), batch()
    network[1].weight.data *= 1e-3
    network[3].weight.data, network[3].bias.data = 60 * torch.eye(4), torch.tensor([15.0, 0.0, 0.0, 0.0])
    target = network(inputs).argmax(1)
    attack = FGSM(epsilon=0.05)
    exact = (attack(network, inputs, target) - inputs).sign()
    with torch.autocast("cpu", torch.float16):
        given = inputs.clone().requires_grad_()
        (plain,) = torch.autograd.grad(nn.functional.cross_entropy(network(given), target), given)
        moved = (attack(network, inputs, target) - inputs).sign()
    # Softmax's own gradient is 1e-7 of each row's share of the mean, below what float16 holds.
    assert (plain.sign() == exact).float().mean() < 0.5
    assert (moved == exact).float().mean() > 0.95


def test_a_compiled_network_is_attacked_as_it_is_and_trained_afterwards():
    network, (inputs, target) = convolutional(), batch()
    network.eval()
    attack = FGSM(epsilon=0.05)
    expected = attack(network, inputs, target)
    compiled = torch.compile(network, backend="aot_eager")
    with torch.inference_mode():
        assert torch.equal(attack(compiled, inputs, target), expected)
    nn.functional.cross_entropy(compiled(inputs), target).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


class Attacked(L.LightningModule):
    """Attacks in every step, between the forward and the backward pass, and in validation."""

    def __init__(self, attack):
        super().__init__()
        self.network, self.attack, self.moved = convolutional(), attack, []

    def forward(self, inputs):
        return self.network(inputs)

    def training_step(self, given, index):
        inputs, target = given
        if self.attack is None:
            return nn.functional.cross_entropy(self(inputs), target)
        logits = self(inputs)
        before = state(self)
        self.moved.append(farthest(self.attack(self, inputs, target), inputs, "linf"))
        assert_same_state(before, state(self))
        return nn.functional.cross_entropy(logits, target)

    def validation_step(self, given, index):
        if self.attack is not None:
            assert not (torch.is_grad_enabled() or self.training)
            self.inference = torch.is_inference_mode_enabled()
            self.moved.append(farthest(self.attack(self, *given), given[0], "linf"))
            self(given[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_works_in_every_step_of_a_trainer_and_leaves_the_training_as_it_is(precision, tmp_path):
    def trained(attack):
        L.seed_everything(0, verbose=False)
        data = torch.utils.data.TensorDataset(*batch(rows=24))
        loader = torch.utils.data.DataLoader(data, batch_size=12)
        trainer = L.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, precision=precision, default_root_dir=tmp_path,
        )  # fmt: skip
        module = Attacked(attack)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(module, loader, loader)
            trainer.validate(module, loader, verbose=False)
            assert attack is None or module.inference
        return module

    attacked = trained(PGD(epsilon=0.05, step_size=0.02, steps=3, random_start="none"))
    assert len(attacked.moved) >= 8 and min(attacked.moved) > 0.04 and max(attacked.moved) < 0.0501
    for one, other in zip(attacked.parameters(), trained(None).parameters(), strict=True):
        assert torch.equal(one, other)
