import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_losses.test_time import (
    EATA,
    SAR,
    Adaptation,
    DeYO,
    RobustMeanTeacher,
    Tent,
    occluded,
    permuted_pixels,
    plpd,
    shuffled_patches,
)
from lightning_losses.test_time.prototype_contrast import prototype_contrast

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [2 * torch.randn(12, 1, 8, 8, generator=GENERATOR) + 1 for _ in range(4)]
SGD = torch.optim.SGD


def shifted(image, generator):
    return image.roll(int(torch.randint(3, (), generator=generator)), dims=-1)


METHODS = {
    "tent": Tent(lr=0.05),
    "sar": SAR(1.0, lr=0.05, reset_below=0.0),
    "eata": EATA(0.9, 0.9, 1.0, source=BATCHES[:2], lr=0.05),
    "deyo": DeYO(1.0, plpd_threshold=-0.5, lr=0.05),
    "robust_mean_teacher": RobustMeanTeacher(lr=0.01, momentum=0.9, augmentation=shifted),
    "replayed": RobustMeanTeacher(source=[(BATCHES[3], torch.arange(12) % 5)], layer="2", lr=0.01, momentum=0.9),
    "statistics": None,
}


def network(norm=nn.BatchNorm2d):
    torch.manual_seed(1)
    made = nn.Sequential(
        nn.Conv2d(1, 8, 3), norm(8) if norm is nn.BatchNorm2d else norm(2, 8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(288, 5),
    )  # fmt: skip
    if norm is nn.BatchNorm2d:
        made.train()(torch.randn(64, 1, 8, 8))
    return made.eval()


def predictions(made, method, batches=BATCHES, **settings):
    with Adaptation(made, method, **settings):
        return torch.stack([made(batch) for batch in batches])


def tent_by_hand(made, batches, lr):
    """A copy in training mode without running statistics, as its authors configure it."""
    other = copy.deepcopy(made)
    norm = other[1]
    norm.train()
    norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    optimizer = torch.optim.Adam([norm.weight, norm.bias], lr=lr)
    logits = []
    for batch in batches:
        logits.append(other(batch))
        optimizer.zero_grad()
        torch.distributions.Categorical(logits=logits[-1]).entropy().mean().backward()
        optimizer.step()
    return torch.stack(logits).detach(), norm.weight.detach()


def test_tent_is_as_its_authors_have_it():
    made = network()
    expected, weight = tent_by_hand(made, BATCHES, 0.05)
    with Adaptation(made, METHODS["tent"]):
        torch.testing.assert_close(torch.stack([made(batch) for batch in BATCHES]), expected)
        torch.testing.assert_close(made[1].weight.detach(), weight)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_network_is_as_before_to_the_bit(method, context):
    made = network().train()
    made[0].bias.requires_grad_(False)
    made[5].weight.grad = torch.ones_like(made[5].weight)
    before = copy.deepcopy(made)
    state = torch.get_rng_state()
    with context(), Adaptation(made, METHODS[method]) as run:
        logits = [made(batch) for batch in BATCHES]
        moved = {name for name, value in made.named_parameters() if (value != before.get_parameter(name)).any()}
        assert moved == {name for name in run.adapted if "projector" not in name}
    assert not any(each.requires_grad for each in logits) and all(each.shape == (12, 5) for each in logits)
    assert torch.equal(torch.get_rng_state(), state)
    for (name, value), (_, old) in zip(made.named_parameters(), before.named_parameters(), strict=True):
        assert torch.equal(value, old) and value.requires_grad == old.requires_grad, name
        assert (value.grad is None) == (name != "5.weight")
    assert all(torch.equal(*pair) for pair in zip(made.buffers(), before.buffers(), strict=True))
    assert made[1].track_running_stats and all(part.training for part in made.modules())
    made.eval(), before.eval()
    assert torch.equal(made(BATCHES[0]), before(BATCHES[0]))


@pytest.mark.parametrize("method", METHODS)
def test_a_first_prediction_is_from_before_the_step(method):
    made = network()
    alone = predictions(made, None, BATCHES[:1])
    # The teacher's logits are added to the student's, which are the same at first.
    factor = 2 if isinstance(METHODS[method], RobustMeanTeacher) else 1
    torch.testing.assert_close(predictions(made, METHODS[method], BATCHES[:1]), factor * alone)


@pytest.mark.parametrize("method", METHODS)
def test_episodes_know_nothing_of_each_other(method):
    made = network()
    forward = predictions(made, METHODS[method], episodic=True)
    if not isinstance(METHODS[method], RobustMeanTeacher):
        torch.testing.assert_close(forward, predictions(made, None))
    assert torch.equal(predictions(made, METHODS[method], BATCHES[::-1], episodic=True).flip(0), forward)
    if method != "statistics":
        assert not torch.equal(predictions(made, METHODS[method]), forward)


def test_without_their_filters_and_weights_methods_are_tent():
    made = network()
    expected = predictions(made, Tent(lr=0.05))
    deyo = DeYO(1.0, plpd_threshold=-1.0, reweight_entropy=False, reweight_plpd=False, lr=0.05)
    assert torch.equal(predictions(made, deyo), expected)
    sar = SAR(1.0, rho=0.0, reset_below=0.0, lr=0.05)
    plain = Tent(lr=0.05, optimizer=lambda parameters, lr: SGD(parameters, lr=lr, momentum=0.9))
    torch.testing.assert_close(predictions(made, sar), predictions(made, plain))


def test_a_mean_teacher_begins_with_half_of_tents_gradient():
    made = network()
    settings = {"optimizer": SGD, "include": ["1.*"]}
    both = []
    for method in (Tent(lr=0.1, **settings), RobustMeanTeacher(lr=0.2, momentum=0.75, **settings)):
        with Adaptation(made, method) as run:
            made(BATCHES[0])
            both.append(made[1].weight.detach().clone())
    torch.testing.assert_close(*both)
    teacher = run.state["teacher.1.weight"]
    torch.testing.assert_close(teacher, 0.75 * made[1].weight.detach() + 0.25 * both[1])


def test_a_mean_teacher_moves_in_half_precision_too():
    layer = nn.Linear(2, 3, dtype=torch.bfloat16)
    with Adaptation(layer, RobustMeanTeacher(lr=0.01)) as run:
        before = run.state["teacher.weight"].clone()
        layer(torch.ones(4, 2, dtype=torch.bfloat16))
        moved = run.state["teacher.weight"] - before
        torch.testing.assert_close(moved, 0.001 * (layer.weight.float() - before), rtol=1e-2, atol=1e-7)
    assert (moved != 0).all()


def test_a_mean_teacher_replays_source_batches_in_turn():
    made, target = network(nn.GroupNorm), torch.arange(12) % 5
    moved = {}
    for weight in (0.0, 2.0):
        source = [(BATCHES[2], target), (BATCHES[3], target)]
        method = RobustMeanTeacher(source=source, source_weight=weight, contrast_weight=0.0, lr=0.1, optimizer=SGD)
        with Adaptation(made, method):
            before = made[5].weight.detach().clone()
            made(BATCHES[0])
            moved[weight] = made[5].weight.detach() - before
    (gradient,) = torch.autograd.grad(functional.cross_entropy(made(BATCHES[2]), target), made[5].weight)
    torch.testing.assert_close(moved[2.0] - moved[0.0], -0.1 * 2.0 * gradient, atol=1e-6, rtol=1e-4)


def test_a_mean_teacher_contrasts_features_with_the_sources_prototypes():
    made, target = network(), torch.arange(12) % 5
    source = [(BATCHES[2], target), (BATCHES[3], target)]
    method = RobustMeanTeacher(source=source, layer="2", augmentation=shifted, lr=0.1, optimizer=SGD)
    with Adaptation(made, method) as run:
        outputs = [made[:3](inputs).mean(dim=(2, 3)) for inputs, _ in source]
        means = [torch.cat(outputs)[torch.cat([target, target]) == one].mean(dim=0) for one in range(5)]
        torch.testing.assert_close(run.fixed["prototypes"], torch.stack(means))
        before = run.adapted[".projector.0.weight"].detach().clone()
        # By the formula, of views that are the samples themselves: 24 pairs of the same sample, and its prototype.
        features = made[:3](BATCHES[0])
        value = prototype_contrast(run, [features, features])
        rows = features.mean(dim=(2, 3))
        nearest = torch.stack(means)[functional.cosine_similarity(rows[:, None], torch.stack(means), dim=2).argmax(1)]
        given = torch.cat([nearest, rows, rows])
        first, first_bias, last, last_bias = list(run.adapted.values())[-4:]
        unit = functional.normalize((given @ first.T + first_bias).relu() @ last.T + last_bias, dim=1)
        scores = (unit @ unit.T / 0.1).masked_fill(torch.eye(36, dtype=torch.bool), -torch.inf)
        same = (torch.arange(36)[:, None] - torch.arange(36)).remainder(12) == 0
        positives = same & ~torch.eye(36, dtype=torch.bool)
        expected = -(scores.log_softmax(dim=1).masked_fill(~positives, 0.0).sum(dim=1) / 2).mean()
        torch.testing.assert_close(value, expected)
        made(BATCHES[0])
        assert not torch.equal(run.adapted[".projector.0.weight"], before)
        run.reset()
        assert torch.equal(run.adapted[".projector.0.weight"], before)


def test_a_mean_teacher_leaves_a_networks_own_projector_alone():
    own = nn.ModuleDict({"body": nn.Linear(2, 8), "projector": nn.Sequential(nn.Linear(8, 3))})
    own.forward = lambda inputs: own["projector"](own["body"](inputs))
    inputs = torch.randn(6, 2, generator=GENERATOR)
    want = 2 * own(inputs)
    with Adaptation(own, RobustMeanTeacher(source=[(inputs, torch.arange(6) % 3)], layer="body")) as run:
        torch.testing.assert_close(own(inputs), want)
        assert run.state["teacher.projector.0.weight"].shape == (3, 8)


def test_eata_holds_on_to_its_weights_and_leaves_out_what_is_like_before():
    made = network()
    entropies = torch.distributions.Categorical(logits=predictions(made, None, BATCHES[:1])[0]).entropy()
    assert 0 < (entropies < 0.9 * torch.tensor(5.0).log()).sum() < 12
    moved = []
    for weight in (0.0, 1e3):
        with Adaptation(made, EATA(0.9, 0.9, weight, source=BATCHES[:2], lr=0.001, optimizer=SGD)) as run:
            start = made[1].weight.detach().clone()
            for batch in BATCHES:
                made(batch)
            moved.append((made[1].weight - start).norm().item())
    assert 0 < moved[1] < moved[0]
    # Nothing is unlike an average to within 0: the first batch alone makes a step.
    with Adaptation(made, EATA(0.9, 0.0, lr=0.05)) as run:
        made(BATCHES[0])
        weight, average = made[1].weight.detach().clone(), run.state["average"].clone()
        made(BATCHES[1])
        assert torch.equal(made[1].weight, weight) and torch.equal(run.state["average"], average)


def test_fishers_information_is_that_of_each_batchs_own_classes():
    made, other = network(), network()
    other[1].train()
    other[1].track_running_stats, other[1].running_mean, other[1].running_var = False, None, None
    squares = []
    for batch in BATCHES[:2]:
        logits = other(batch)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, logits.argmax(dim=1)), other[1].bias)
        squares.append(gradient.square())
    with Adaptation(made, METHODS["eata"]) as run:
        torch.testing.assert_close(run.fixed["fisher.1.bias"], sum(squares) / 2)
        run.reset()
        assert "fisher.1.bias" in run.fixed


def test_sar_looks_from_a_moved_place_and_goes_back_when_all_is_certain():
    made = network(nn.GroupNorm)
    assert not torch.equal(*(predictions(made, SAR(1.0, rho, lr=0.05, reset_below=0.0)) for rho in (0.0, 0.5)))
    with Adaptation(made, SAR(1.0, lr=0.05, reset_below=5.0)) as run:
        before = made[1].weight.detach().clone()
        made(BATCHES[0])
        assert torch.equal(made[1].weight, before) and run.state == {}


@pytest.mark.parametrize("method", [SAR(0.0), EATA(0.0), DeYO(0.0), DeYO(plpd_threshold=1.0)], ids=lambda m: m.name)
def test_where_nothing_is_selected_nothing_moves(method):
    made = network()
    with Adaptation(made, method):
        before = made[1].weight.detach().clone()
        made(BATCHES[0])
        assert torch.equal(made[1].weight, before)


def test_a_batch_that_is_not_finite_does_no_harm():
    made = network(nn.GroupNorm)
    broken = BATCHES[0].clone()
    broken[3] = torch.nan
    with Adaptation(made, Tent(lr=0.05)):
        with pytest.warns(UserWarning, match="not finite"):
            logits = made(broken)
        assert logits[3].isnan().all() and logits[:3].isfinite().all()
        assert made(BATCHES[1]).isfinite().all()


@torch.no_grad()
def test_statistics_of_batch_normalisation():
    made = network()
    source = made(BATCHES[0]).detach()
    norm = copy.deepcopy(made)
    norm[1].train()
    batch = norm(BATCHES[0]).detach()
    torch.testing.assert_close(predictions(made, None, BATCHES[:1])[0], batch)
    for samples, expected in ((0.0, batch), (1e9, source)):
        mixed = predictions(made, None, BATCHES[:1], statistics="mixed", source_samples=samples)[0]
        torch.testing.assert_close(mixed, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(predictions(made, None, BATCHES[:1], statistics="source")[0], source)
    # Half of each: as many samples as the batch has.
    inputs = made[0](BATCHES[0])
    mean = (inputs.mean(dim=(0, 2, 3)) + made[1].running_mean) / 2
    variance = (inputs.var(dim=(0, 2, 3), correction=0) + made[1].running_var) / 2
    expected = functional.batch_norm(inputs, mean, variance, made[1].weight, made[1].bias)
    mixed = predictions(made, None, BATCHES[:1], statistics="mixed", source_samples=12)[0]
    torch.testing.assert_close(mixed, made[2:](expected).detach())


def test_a_batch_of_one():
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    with pytest.raises(ValueError, match="one value for each channel.* give larger batches"):
        predictions(made, Tent(), [torch.randn(1, 3)])
    for statistics in ("mixed", "source"):
        assert predictions(made, Tent(), [torch.randn(1, 3)] * 2, statistics=statistics).isfinite().all()
    assert predictions(network(), Tent(), [BATCHES[0][:1]] * 2).isfinite().all()


def test_what_can_not_adapt_is_refused_and_left_as_it_was():
    plain = nn.Linear(3, 4)
    with pytest.raises(ValueError, match=r"tent: the network has no normalisation layer.*include="):
        predictions(plain, Tent(), [torch.randn(2, 3)])
    with pytest.raises(ValueError, match="matches none of the parameters"):
        predictions(plain, Tent(include=["norm*"]), [torch.randn(2, 3)])
    assert "forward" not in vars(plain) and plain.weight.requires_grad
    assert predictions(plain, Tent(include=["*"]), [torch.randn(2, 3)]).shape == (1, 2, 4)
    with pytest.raises(ValueError, match=r"deyo: inputs of shape \[2, 3\] came; give images"):
        predictions(plain, DeYO(include=["*"]), [torch.randn(2, 3)])
    with Adaptation(plain) as run, pytest.raises(ValueError, match="has begun"):
        run.__enter__()


@pytest.mark.parametrize("method", METHODS)
def test_a_stream_goes_on_from_a_state_without_pickle(method, tmp_path):
    made = network()
    whole = predictions(made, METHODS[method])
    with Adaptation(made, METHODS[method]) as run:
        first = [made(batch) for batch in BATCHES[:2]]
        torch.save(run.state_dict(), tmp_path / "state.pt")
    with Adaptation(made, METHODS[method]) as run:
        run.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        rest = [made(batch) for batch in BATCHES[2:]]
    assert torch.equal(torch.stack(first + rest), whole)


@pytest.mark.parametrize("method", METHODS)
def test_a_state_in_hand_stays_as_the_stream_goes_on(method):
    made = network()
    with Adaptation(made, METHODS[method]) as run:
        made(BATCHES[0])
        state = run.state_dict()
        rest = []
        for _ in range(3):
            rest.append(torch.stack([made(batch) for batch in BATCHES[1:3]]))
            run.load_state_dict(state)
    assert torch.equal(rest[0], rest[1]) and torch.equal(rest[0], rest[2])


def test_a_state_loads_onto_another_device():
    with Adaptation(nn.Linear(2, 3), RobustMeanTeacher()) as run:
        run.network(torch.zeros(4, 2))
        state = run.state_dict()
    with Adaptation(nn.Linear(2, 3, device="meta"), RobustMeanTeacher()) as run:
        run.load_state_dict(state)
        kinds = {name: tensor.device.type for name, tensor in run.state.items()}
    assert kinds == {"teacher.weight": "meta", "teacher.bias": "meta", "batches": "cpu"}


def test_a_kept_state_is_what_resets_go_back_to():
    made = network()
    with Adaptation(made, Tent(lr=0.05)) as run:
        made(BATCHES[0])
        run.keep()
        kept = made[1].weight.detach().clone()
        made(BATCHES[1])
        run.reset()
        assert torch.equal(made[1].weight, kept)
    assert torch.equal(made[1].weight, kept)


def test_networks_of_others_by_keywords_under_autocast_and_with_hooks_of_gradients():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network(nn.GroupNorm)

        def forward(self, *, pixels, scale):
            return {"logits": scale * self.inner(pixels)}

    made = Named()
    made.inner[1].weight.register_post_accumulate_grad_hook(lambda parameter: pytest.fail("a gradient's hook ran"))
    # All weights, of which autocast keeps copies in half precision.
    method = SAR(1.0, lr=1.0, include=["*"], reset_below=0.0)
    with Adaptation(made, method), warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = torch.stack([made(pixels=batch, scale=0.5) for batch in BATCHES])
    with Adaptation(made, method), torch.autocast("cpu", torch.bfloat16):
        half = torch.stack([made(pixels=batch, scale=0.5) for batch in BATCHES])
    # bfloat16 has 8 bits, of logits around 1.
    torch.testing.assert_close(half.float(), plain, atol=0.02, rtol=0.02)
    still = torch.stack([made(pixels=batch, scale=0.5)["logits"] for batch in BATCHES])
    assert (plain - still).abs().max() > 0.2


def test_plpd_and_what_destroys_shapes():
    images = torch.rand(3, 2, 10, 12, generator=torch.Generator().manual_seed(0))
    logits = 3 * torch.randn(50, 4, generator=GENERATOR)
    assert torch.equal(plpd(logits, logits), torch.zeros(50))
    other = plpd(logits, 3 * torch.randn(50, 4, generator=GENERATOR))
    assert other.min() >= -1 and other.max() <= 1 and other.std() > 0.1
    shuffled = shuffled_patches(images[..., :8, :], 4, torch.Generator().manual_seed(0))
    assert not torch.equal(shuffled, images[..., :8, :])
    assert torch.equal(shuffled.flatten(2).sort().values, images[..., :8, :].flatten(2).sort().values)
    assert shuffled_patches(images, 4, torch.Generator()).shape == images.shape
    torch.testing.assert_close(shuffled_patches(images, 1, torch.Generator()), images)
    with torch.device("meta"):
        # Whatever device is the default.
        again = shuffled_patches(images[..., :8, :], 4, torch.Generator("cpu").manual_seed(0))
        permuted = permuted_pixels(images, torch.Generator("cpu").manual_seed(0))
    assert torch.equal(again, shuffled)
    assert torch.equal(permuted.flatten(2).sort().values, images.flatten(2).sort().values)
    covered = occluded(images, 4, 1, 2)
    torch.testing.assert_close(covered[:, :, 1:5, 2:6], images.mean(dim=(2, 3), keepdim=True).expand(3, 2, 4, 4))
    assert torch.equal(covered[:, :, 5:], images[:, :, 5:])


def test_a_state_within_the_context_is_whole_and_loads():
    made = network()
    keys = made.state_dict().keys()
    with Adaptation(made, Tent(lr=0.05)):
        made(BATCHES[0])
        with pytest.raises(RuntimeError, match="channels"):
            made(BATCHES[0].expand(-1, 2, -1, -1))
        state = made.state_dict()
    assert state.keys() == keys
    network().load_state_dict(state)


@pytest.mark.parametrize("name", METHODS)
def test_an_empty_batch_has_no_logits(name):
    assert predictions(network(), METHODS[name], [BATCHES[0][:0]]).shape == (1, 0, 5)


def test_source_inputs_come_from_any_device():
    made = nn.Linear(2, 3, device="meta")
    with Adaptation(made) as run:
        assert run.logits(torch.zeros(4, 2)).device == made.weight.device


def test_weights_in_which_adam_divides_by_zero_are_refused():
    with pytest.raises(ValueError, match="tent: weights in float16 came"):
        Adaptation(network().half(), Tent()).__enter__()


def test_plpd_refuses_logits_of_other_images_and_pixels_of_no_image_have_an_order():
    with pytest.raises(ValueError, match=r"plpd: logits of shape \[2, 3\] came with .* of shape \[2, 4\]"):
        plpd(torch.zeros(2, 3), torch.zeros(2, 4))
    assert predictions(network(), DeYO(destroy="pixel"), [BATCHES[0][:0]]).shape == (1, 0, 5)
