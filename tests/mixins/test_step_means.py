"""The gradient of an optimizer step is that of the mean over all its samples, however many batches these come in."""

import copy
from functools import partial

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from lightning_losses import KD, CrossEntropy, DistillationMixin, LanguageHeadMixin, Objective, ObjectiveMixin, Term
from lightning_losses.callbacks import Grokfast
from lightning_losses.losses.adapted import Adapted
from lightning_losses.modules import Classifier, Distiller
from lightning_losses.modules.full_batch_learner import FullBatchLearner
from lightning_losses.modules.language_model import LanguageModel
from lightning_losses.networks.transformer import Transformer
from tests.distributed.processes import Sharded, one_step

ROWS, CLASSES = 12, 5
# Uneven batches, of uneven numbers of targets; the second has none.
CUTS = [slice(0, 5), slice(5, 7), slice(7, 12)]
IGNORED = [0, 1, 2, 5, 6, 11]


def rows(cut=slice(None)):
    generator = torch.Generator().manual_seed(4)
    target = torch.randint(CLASSES, (ROWS,), generator=generator)
    target[IGNORED] = -100
    return {"inputs": torch.randn(ROWS, 4, generator=generator)[cut], "target": target[cut]}


class Margin(nn.Module):
    """A loss that nobody can count."""

    def forward(self, logits):
        return logits.square().mean()


OBJECTIVES = {
    "ignored targets": lambda: {"ce": CrossEntropy()},
    "class weights": lambda: {"ce": CrossEntropy(class_weight=[1.0, 5.0, 0.5, 2.0, 3.0])},
    "class weights of torch's losses": lambda: {
        "module": Adapted(nn.CrossEntropyLoss(torch.tensor([1.0, 5.0, 0.5, 2.0, 3.0])), {"input": "logits"}),
        "function": Term(partial(F.cross_entropy, weight=torch.arange(1.0, 6.0)), 0.5, {"input": "logits"}),
    },
    "probabilities": lambda: {"kd": Term(KD(2.0), 0.7, {"target": "labels"})},
    "targets and all rows": lambda: {"ce": CrossEntropy(), "kd": Term(KD(2.0), 0.7, {"target": "labels"})},
    "three kinds": lambda: {
        "weighted": CrossEntropy(class_weight=[1.0, 5.0, 0.5, 2.0, 3.0]),
        "ce": Term(nn.CrossEntropyLoss(label_smoothing=0.1), 0.5, {"input": "logits"}),
        "kd": Term(KD(2.0), 0.7, {"target": "labels"}),
    },
}


class Student(DistillationMixin, L.LightningModule):
    def __init__(self, objective, manual=False):
        super().__init__()
        torch.manual_seed(1)
        self.network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES))
        self.teacher = nn.Linear(4, CLASSES)
        self.objective = Objective(objective)
        self.automatic_optimization = not manual
        self.seen = []

    def training_step(self, batch, batch_idx):
        output = self.apply_objective(logits=self.network(batch["inputs"]), **batch)
        if self.automatic_optimization:
            return output
        optimizer = self.optimizers()
        self.manual_backward(output["loss"] / len(CUTS))
        if batch_idx == len(CUTS) - 1:
            self.seen.append(gradients(self))
            optimizer.step()
            optimizer.zero_grad()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Seen(L.Callback):
    """The gradients that a callback finds after the backward pass of a step's last batch."""

    def __init__(self):
        self.gradients = []

    def on_after_backward(self, trainer, module):
        self.gradients.append(gradients(module))


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def fit(module, batches, folder, **options):
    seen = Seen()
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, limit_val_batches=0,
        **{"callbacks": [seen], **options},
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    trainer.fit(module, loader, loader)
    return seen.gradients


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    difference = sum(float((found[name] - wanted[name]).square().sum()) for name in wanted) ** 0.5
    assert difference <= 1e-6 * sum(float(one.square().sum()) for one in wanted.values()) ** 0.5


def test_a_sum_is_the_mean_over_the_batches_of_each_step_also_of_the_short_last_one(tmp_path):
    batches, student = [rows(cut) for cut in CUTS], Student({"ce": CrossEntropy(reduction="sum")})
    student.configure_optimizers = lambda: torch.optim.SGD(student.parameters(), 0.0)
    found = fit(student, batches, tmp_path, accumulate_grad_batches=len(batches) + 1)[-1]
    student.zero_grad()
    for batch in batches:
        loss = CrossEntropy(reduction="sum")(student.network(batch["inputs"]), batch["target"])
        (loss / len(batches)).backward()
    assert_same(found, gradients(student))


@pytest.mark.parametrize("accumulate", [3, 5])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_accumulated_batches_equal_one(objective, accumulate, tmp_path):
    # With 5, the last window of the epoch is not full.
    whole = fit(Student(OBJECTIVES[objective]()), [rows()], tmp_path)[-1]
    parts = fit(
        Student(OBJECTIVES[objective]()), [rows(cut) for cut in CUTS], tmp_path, accumulate_grad_batches=accumulate
    )
    assert_same(parts[-1], whole)
    assert float(whole["network.0.weight"].norm()) > 1e-3


def test_every_window_begins_anew(tmp_path):
    class Still(Student):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.0)

    batches = [rows(cut) for cut in CUTS] * 2
    found = fit(Still(OBJECTIVES["three kinds"]()), batches, tmp_path, accumulate_grad_batches=3)
    assert all(torch.equal(found[2][name], found[5][name]) for name in found[2])


def test_a_term_that_nobody_can_count_weighs_each_batch_alike(tmp_path):
    module = Student({"margin": Margin()})
    found = fit(module, [rows(cut) for cut in CUTS], tmp_path, accumulate_grad_batches=3)[-1]
    plain = Student({"margin": Margin()})
    torch.stack([plain.network(rows(cut)["inputs"]).square().mean() for cut in CUTS]).mean().backward()
    assert_same(found, gradients(plain))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_batches_of_one_size_are_those_of_lightning_to_the_bit(objective, tmp_path):
    even = [{**rows(slice(n, n + 3)), "target": torch.tensor([0, 1, 2])} for n in (0, 3, 6, 9)]

    class Plain(Student):
        """Averages the batches, as Lightning does."""

        def share_of_step(self, part, count):
            return part

    found = fit(Student(OBJECTIVES[objective]()), even, tmp_path, accumulate_grad_batches=4)
    wanted = fit(Plain(OBJECTIVES[objective]()), even, tmp_path, accumulate_grad_batches=4)
    assert all(torch.equal(found[-1][name], wanted[-1][name]) for name in wanted[-1])


def test_gradients_have_their_scale_before_a_callback_sees_them(tmp_path):
    def trained(batches, accumulate):
        torch.manual_seed(0)
        network = Transformer(9, context_length=8, width=8, depth=1, heads=2)
        module = LanguageModel(
            network, Objective({"ce": CrossEntropy()}), lambda parameters: torch.optim.SGD(parameters, 0.1)
        )
        fit(module, batches, tmp_path, accumulate_grad_batches=accumulate, callbacks=[Grokfast("ema", alpha=0.5)])
        return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])

    generator = torch.Generator().manual_seed(0)
    tokens, target = torch.randint(9, (2, 8, 8), generator=generator).unbind()
    target = torch.where(torch.arange(8) < torch.arange(8).unsqueeze(1), -100, target)
    batches = [{"inputs": tokens[n : n + 2], "target": target[n : n + 2]} for n in range(0, 8, 2)]
    whole = [{name: torch.cat([a[name], b[name]]) for name in a} for a, b in (batches[:2], batches[2:])]
    torch.testing.assert_close(trained(batches, 2), trained(whole, 1), rtol=0, atol=5e-8)


@pytest.mark.parametrize("objective", ["ignored targets", "class weights"])
def test_manual_optimization_that_accumulates_takes_the_step_of_the_whole_batch(objective, tmp_path):
    module = Student(OBJECTIVES[objective](), manual=True)
    fit(module, [rows(cut) for cut in CUTS], tmp_path)
    assert_same(module.seen[0], fit(Student(OBJECTIVES[objective]()), [rows()], tmp_path)[-1])


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("factors", [(1.0, 3.0, 0.5), (0.0, -2.0, 1.0)])
def test_a_factor_of_one_batch_s_loss_stays(factors, manual, tmp_path):
    class Weighted(Student):
        def apply_objective(self, **tensors):
            output = super().apply_objective(**tensors)
            self.batches = (getattr(self, "batches", -1) + 1) % 3
            return {**output, "loss": output["loss"] * factors[self.batches]}

    batches = [rows(cut) for cut in CUTS]
    batches[1]["target"][:] = 1
    module = Weighted(OBJECTIVES["ignored targets"](), manual=manual)
    plain = copy.deepcopy(module)
    seen = fit(module, batches, tmp_path, **({} if manual else {"accumulate_grad_batches": 3}))
    found = module.seen[0] if manual else seen[-1]
    kept = sum(int((batch["target"] != -100).sum()) for batch in batches)
    for factor, batch in zip(factors, batches, strict=True):
        loss = F.cross_entropy(plain.network(batch["inputs"]), batch["target"], reduction="sum")
        (factor * loss / kept).backward()
    assert_same(found, gradients(plain))


def test_manual_optimization_refuses_to_accumulate_what_it_can_not_tell_apart(tmp_path):
    module = Student(OBJECTIVES["three kinds"](), manual=True)
    with pytest.raises(ValueError, match="^manual optimization: several backward passes came .* step after each batch"):
        fit(module, [rows(cut) for cut in CUTS], tmp_path)


def test_two_losses_of_a_manual_step_are_added(tmp_path):
    class Both(Student):
        def training_step(self, batch, batch_idx):
            for objective, cut in ((self.objective, CUTS[0]), (self.other, CUTS[2])):
                part = {name: value[cut] for name, value in batch.items()}
                tensors = {"logits": self.network(part["inputs"]), **part}
                self.manual_backward(self.evaluate_objective(objective, None, tensors))
            self.seen.append(gradients(self))
            self.optimizers().step()

    module = Both({"ce": CrossEntropy()}, manual=True)
    module.other = Objective({"ce": CrossEntropy()})
    plain = copy.deepcopy(module)
    fit(module, [rows()], tmp_path)
    for cut in (CUTS[0], CUTS[2]):
        part = rows(cut)
        F.cross_entropy(plain.network(part["inputs"]), part["target"]).backward()
    assert_same(module.seen[0], gradients(plain))


def test_two_views_in_one_step_are_means_of_their_own(tmp_path):
    class Views(Student):
        def training_step(self, batch, batch_idx):
            halves = [{name: value[half] for name, value in batch.items()} for half in (slice(0, 1), slice(1, None))]
            losses = [self.apply_objective(logits=self.network(half["inputs"]), **half)["loss"] for half in halves]
            return losses[0] + losses[1]

    module = Views({"ce": CrossEntropy()})
    batches = [{**rows(cut), "target": torch.arange(cut.stop - cut.start)} for cut in CUTS]
    plain = copy.deepcopy(module)
    found = fit(module, batches, tmp_path, accumulate_grad_batches=3)[-1]
    for half in (slice(0, 1), slice(1, None)):
        inputs, target = (torch.cat([batch[name][half] for batch in batches]) for name in ("inputs", "target"))
        F.cross_entropy(plain.network(inputs), target).backward()
    assert_same(found, gradients(plain))


def test_a_scaled_loss_of_float16_is_averaged_likewise(tmp_path):
    def float16():
        # On a CPU the trainer itself would take bfloat16.
        return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))

    scaled = [Student(OBJECTIVES["targets and all rows"]()) for _ in range(2)]
    whole, parts = (
        fit(module, batches, tmp_path, accumulate_grad_batches=len(batches), plugins=float16())[-1]
        for module, batches in zip(scaled, ([rows()], [rows(cut) for cut in CUTS]), strict=True)
    )
    for name, gradient in whole.items():
        # Products in float16.
        assert float((parts[name] - gradient).norm()) <= 0.01 * float(gradient.norm())


def test_a_full_batch_learner_and_a_classifier_accumulate_alike(tmp_path):
    def made(kind, **options):
        torch.manual_seed(1)
        return kind(network=nn.Linear(4, CLASSES), objective=Objective({"ce": CrossEntropy()}), **options)

    for kind, options in (
        (FullBatchLearner, {}),
        (Classifier, {"num_classes": CLASSES}),
        (Distiller, {"num_classes": CLASSES}),
    ):
        whole = fit(made(kind, **options), [rows()], tmp_path)[-1]
        parts = fit(made(kind, **options), [rows(cut) for cut in CUTS], tmp_path, accumulate_grad_batches=3)[-1]
        assert_same(parts, whole)


@pytest.mark.distributed
@pytest.mark.parametrize("objective", ["class weights", "three kinds"])
def test_batches_of_two_processes_equal_one(objective, tmp_path):
    one = one_step(lambda: Student(OBJECTIVES[objective]()), [[rows()]], tmp_path)
    shards = [[rows(slice(0, 1)), rows(slice(1, 4))], [rows(slice(4, 9)), rows(slice(9, 12))]]

    class Checked(Student):
        def on_before_optimizer_step(self, optimizer):
            assert_same(gradients(self), one["gradients"])

    one_step(lambda: Checked(OBJECTIVES[objective]()), shards, tmp_path, accumulate=2)


@pytest.mark.distributed
def test_fsdp2_refuses_what_it_can_not_keep_apart(tmp_path):
    class Shards(Sharded, Student):
        pass

    shards = [[rows(slice(0, 1)), rows(slice(1, 4))], [rows(slice(4, 9)), rows(slice(9, 12))]]
    with pytest.raises(AssertionError, match="FSDP2 can't keep apart; use DDP, or accumulate_grad_batches=1"):
        one_step(lambda: Shards(OBJECTIVES["three kinds"]()), shards, tmp_path, "fsdp2", accumulate=2)


def test_a_mixin_behind_the_lightning_module_is_refused_where_the_class_is_written():
    with pytest.raises(
        ValueError, match=r"^Late: LightningModule comes before ObjectiveMixin .* Late\(ObjectiveMixin, L"
    ):

        class Late(L.LightningModule, ObjectiveMixin):
            pass

    with pytest.raises(ValueError, match="^Later: LightningModule comes before DistillationMixin"):

        class Later(LanguageHeadMixin, L.LightningModule, DistillationMixin):
            pass
