"""Every policy sees the gradient of the optimizer step, of all batches and all processes, and goes on where it was."""

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from lightning_losses import CrossEntropy, Objective, ObjectiveMixin, Term
from lightning_losses.balancing import MGDA
from lightning_losses.balancing.term_gradients import TermGradients
from lightning_losses.callbacks import GradientConflict
from lightning_losses.parallel.fsdp2 import FSDP2Strategy
from tests.balancing.test_policies import OWN
from tests.distributed.processes import run_on_processes

STEPS, ROWS = 2, 12
# By name: a policy that is added is in all of them.
POLICIES = {kind.__name__: kind for kind in OWN}
OPTIONS = {
    "ReLoBRaLo": {"alpha": 0.5, "look_back": 0.5},
    "GradNorm": {"shared": ["*GradNorm.trunk.weight"], "lr": 0.5},
    "NashMTL": {"shared": ["*NashMTL.trunk*"], "update_weights_every": 5},
}


class TwoTasks(nn.Module):
    """A trunk, and a head for each task."""

    def __init__(self):
        super().__init__()
        self.trunk, self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, inputs):
        hidden = self.trunk(inputs).tanh()
        return {"logits_a": self.a(hidden), "logits_b": self.b(hidden)}


def objective(name):
    terms = {
        "a": Term(CrossEntropy(), 1.0, {"logits": "logits_a", "target": "target_a"}),
        "b": Term(CrossEntropy(), 3.0, {"logits": "logits_b", "target": "target_b"}),
    }
    return Objective(terms, balancing=POLICIES[name](**OPTIONS.get(name, {})))


def whole_of(gradient):
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient


class EveryPolicy(ObjectiveMixin, L.LightningModule):
    """Trains a network by each policy in the same steps, and notes the gradients."""

    logged_as = None
    path = None

    def __init__(self, names=tuple(POLICIES), **attributes):
        super().__init__()
        torch.manual_seed(3)
        first = TwoTasks().state_dict()
        self.networks, self.objectives = nn.ModuleDict(), nn.ModuleDict()
        for name in names:
            self.networks[name] = TwoTasks()
            self.networks[name].load_state_dict(first)
            self.objectives[name] = objective(name)
        self.objective = self.objectives[names[0]]
        self.noted, self.recorded = [], {}
        for key, value in attributes.items():
            setattr(self, key, value)

    def training_step(self, batch, batch_idx):
        losses = [
            self.objective_value(self.objectives[name], {**network(batch["inputs"]), **batch}).total
            for name, network in self.networks.items()
        ]
        return torch.stack(losses).sum()

    def on_before_optimizer_step(self, optimizer):
        self.noted.append({n: whole_of(p.grad).clone() for n, p in self.named_parameters() if p.grad is not None})

    def on_train_end(self):
        if self.path is not None and self.trainer.global_rank == 0:
            torch.save({"noted": self.noted, "state": self.state_dict(), "recorded": self.recorded}, self.path)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.3, momentum=0.5)


def batches(cuts=(ROWS,), ranks=1):
    """The batches of every step, cut into so many rows each, by turns for each process."""
    generator = torch.Generator().manual_seed(5)
    shares = [[] for _ in range(ranks)]
    for step in range(STEPS):
        whole = {
            "inputs": torch.randn(ROWS, 4, generator=generator),
            "target_a": torch.randint(3, (ROWS,), generator=generator),
            "target_b": torch.randint(3, (ROWS,), generator=generator),
        }
        # The second task has targets for some rows, and for none in the first step of an epoch.
        whole["target_b"][:: 3 if step else 1] = -100
        begin = 0
        for number, size in enumerate(cuts):
            shares[number % ranks].append({name: value[begin : begin + size] for name, value in whole.items()})
            begin += size
    return shares


class Shares(L.LightningDataModule):
    def __init__(self, shares):
        super().__init__()
        self.shares = shares

    def train_dataloader(self):
        return Resumable(self.shares[self.trainer.global_rank])


class Resumable:
    """Batches that go on within an epoch."""

    def __init__(self, share):
        self.share, self.taken = share, 0

    def __len__(self):
        return len(self.share)

    def __iter__(self):
        begin = self.taken % len(self.share)
        for number in range(begin, len(self.share)):
            self.taken = number + 1
            yield self.share[number]

    def state_dict(self):
        return {"taken": self.taken % len(self.share)}

    def load_state_dict(self, state):
        self.taken = state["taken"]


def fit(module, shares, checkpoint=None, monitor=None, **options):
    monitor = monitor or GradientConflict(every_n_steps=1)
    module.recorded = monitor.values
    options["callbacks"] = [*options.get("callbacks", []), monitor]
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, min_epochs=0,
        enable_checkpointing=False, use_distributed_sampler=False, **{"max_epochs": 3, "devices": 1, **options},
    )  # fmt: skip
    trainer.fit(module, Shares(shares), ckpt_path=checkpoint)
    return module


class Save(L.Callback):
    """Writes a checkpoint in the middle of the second epoch."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 3:
            trainer.save_checkpoint(self.path)


@pytest.fixture(scope="module")
def middle(tmp_path_factory):
    return tmp_path_factory.mktemp("balancing") / "middle.ckpt"


@pytest.fixture(scope="module")
def whole(middle):
    return fit(EveryPolicy(), batches(), callbacks=[Save(middle)])


def assert_same(noted, state, recorded, whole):
    """Gradients, states and records are those of the whole, which may have other policies besides."""
    assert len(noted) == len(whole.noted) > 0
    for step, (one, other) in enumerate(zip(noted, whole.noted, strict=True)):
        for name, gradient in one.items():
            torch.testing.assert_close(
                gradient, other[name], rtol=1e-4, atol=3e-6, msg=lambda text, at=f"{step}, {name}": f"{at}: {text}"
            )
    for name, values in recorded.items():
        assert values == pytest.approx(whole.recorded[name], rel=1e-3, abs=1e-5), name
    for name, value in state.items():
        torch.testing.assert_close(value, whole.state_dict()[name], rtol=1e-4, atol=1e-5, equal_nan=True)


def test_each_policy_makes_something_else_of_the_same_gradients(whole):
    trunks = [{name: whole.noted[-1][f"networks.{name}.trunk.weight"] for name in POLICIES}]
    for number, one in enumerate(trunks):
        assert all(not torch.allclose(one, other) for other in trunks[:number])


def test_a_term_that_is_absent_has_no_say(whole):
    """The first step is the first task's alone."""

    def first(policy, part):
        return whole.noted[0][f"networks.{policy}.{part}.weight"]

    for policy in ("MGDA", "PCGrad", "UPGrad", "IMTLG", "DWA"):
        torch.testing.assert_close(first(policy, "trunk"), first("GradNorm", "trunk"))
    # Nash's bargain weighs the head as it does the trunk; others leave it.
    weight = first("NashMTL", "trunk").norm() / first("MGDA", "trunk").norm()
    assert abs(weight - 1) > 0.1
    torch.testing.assert_close(first("NashMTL", "a"), weight * first("MGDA", "a"))
    assert whole.objectives["DWA"].balancing.before_last.isfinite().all()


def test_several_batches_are_one(whole):
    module = fit(EveryPolicy(), batches((7, 2, 3)), accumulate_grad_batches=3)
    assert_same(module.noted, module.state_dict(), module.recorded, whole)


@pytest.mark.distributed
def test_several_processes_are_one(whole, tmp_path):
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    shares = batches((4, 3, 2, 3), ranks=2)
    module = EveryPolicy(path=tmp_path / "two.pt")
    fit(module, shares, devices=2, accumulate_grad_batches=2, strategy=strategy)
    found = torch.load(tmp_path / "two.pt", weights_only=True)
    assert_same(found["noted"], found["state"], found["recorded"], whole)


def test_a_run_goes_on_to_the_bit(whole, middle):
    resumed = fit(EveryPolicy(), batches(), checkpoint=middle)
    assert len(resumed.noted) == 3
    for name, value in whole.state_dict().items():
        assert torch.equal(value.nan_to_num(), resumed.state_dict()[name].nan_to_num()), name


def test_a_scale_of_the_precision_changes_nothing(whole):
    class Scaled(EveryPolicy):
        """Does what half precision's scaler does."""

        def backward(self, loss, *arguments):
            super().backward(1024.0 * loss, *arguments)

        def on_before_optimizer_step(self, optimizer):
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad /= 1024.0
            super().on_before_optimizer_step(optimizer)

    module = fit(Scaled(["AlignedMTL", "NashMTL", "GradNorm", "UncertaintyWeighting"]), batches())
    assert_same(module.noted, module.state_dict(), module.recorded, whole)


class Twice(EveryPolicy):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EveryPolicy(["PCGrad"], automatic_optimization=False), "pcgrad: automatic_optimization=False came"),
        (lambda: Twice(["MGDA"]), "Twice: an objective with a policy was evaluated twice in a batch"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        fit(make(), batches(), max_steps=1)


def train_sharded(path):
    module = EveryPolicy(["UncertaintyWeighting", "ReLoBRaLo"])
    trainer = L.Trainer(
        accelerator="cpu", devices=2, max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, strategy=FSDP2Strategy(process_group_backend="gloo"),
    )  # fmt: skip
    trainer.fit(module, Shares(batches((7, 5), ranks=2)))
    if trainer.global_rank == 0:
        torch.save(module.noted, path)
    # Of a term alone they have no gradient.
    with pytest.raises(ValueError, match=r"pcgrad: FSDP2 shards \S*weight, .*; use DDP, or a policy that uses loss"):
        TermGradients("pcgrad", dict(module.networks.named_parameters()), 2)


@pytest.mark.distributed
def test_policies_of_values_take_shards(whole, tmp_path):
    run_on_processes(train_sharded, 2, tmp_path / "two.pt")
    noted = torch.load(tmp_path / "two.pt", weights_only=True)
    for one, other in zip(noted, whole.noted[:STEPS], strict=True):
        assert any("log_variance" in name for name in one)
        for name, gradient in one.items():
            torch.testing.assert_close(gradient, other[name], rtol=1e-4, atol=3e-6)


def test_what_else_a_loss_holds_keeps_its_gradient(whole):
    class Penalised(EveryPolicy):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + 0.1 * self.networks["MGDA"].trunk.weight.square().sum()

    module = Penalised(["MGDA"])
    name, weight = "networks.MGDA.trunk.weight", module.networks["MGDA"].trunk.weight.detach().clone()
    fit(module, batches(), max_steps=1)
    torch.testing.assert_close(module.noted[0][name], whole.noted[0][name] + 0.2 * weight)


def test_gradients_that_are_not_finite_are_left_to_who_looks_at_them():
    class Broken(EveryPolicy):
        def training_step(self, batch, batch_idx):
            return super().training_step({**batch, "inputs": batch["inputs"] * float("inf")}, batch_idx)

    module = fit(Broken(["PCGrad"]), batches(), max_steps=1)
    assert not module.noted[0]["networks.PCGrad.trunk.weight"].isfinite().all()
    assert module.objective.balancing.steps == 0


class Failing(ObjectiveMixin, L.LightningModule):
    """Its second batch fails."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(4, 3)
        self.objective = Objective({"a": CrossEntropy(), "b": CrossEntropy(label_smoothing=0.9)}, MGDA())

    def training_step(self, batch, batch_idx):
        return self.apply_objective(logits=self.network(batch * (1 / (1 - batch_idx))), target=torch.arange(6) % 3)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.5)


def test_a_step_that_an_exception_ended_is_none_of_the_next_fit():
    module = Failing()
    fitter = L.Trainer(
        accelerator="cpu", max_epochs=1, accumulate_grad_batches=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        fitter.fit(module, torch.utils.data.DataLoader(torch.randn(2, 6, 4), batch_size=None))
    assert vars(module)["_balanced_steps"]
    module.setup("fit")
    assert not vars(module).get("_balanced_steps")
