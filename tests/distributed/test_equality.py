"""Every loss gives on several processes the value and the gradients of one with the whole batch.

The losses are found by walking the package, and fed with the examples that all tests of losses use: a new one is
covered by being there. One fit has a step for every loss, so that hundreds of cases cost one start of the processes.
"""

import zlib

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from lightning_losses import CrossEntropy, Objective
from lightning_losses.losses import loss_classes
from lightning_losses.mixins import GradCache, ObjectiveMixin
from lightning_losses.parallel.fsdp2 import FSDP2Strategy
from lightning_losses.parallel.processes import whole_parameter
from lightning_losses.similarities import tiles
from tests.distributed.processes import run_on_processes
from tests.losses.examples import build, takes, tensors, trained

pytestmark = pytest.mark.distributed

ROWS = 10
SHARES = {1: [slice(0, 10)], 2: [slice(0, 6), slice(6, 10)], 4: [slice(0, 3), slice(3, 7), slice(7, 8), slice(8, 10)]}
# On four processes the third has nothing but ignored samples.
IGNORED = [1, 7]

LOSSES = {loss.identifier(): loss for loss in loss_classes()}

# Losses of sequences, which can't be cut inside of one: how many tokens to make of each row.
TOKENS = {"span_correlation": 3}
# Cases beside the defaults: a loss, and other examples for it. The first is weighed by its classes' mass, which is no
# number of samples; the second needs no projector unless the features are of different widths; the third's is another
# layer where they are vectors.
FURTHER = {
    # Bags of which each process has a part; those of the example lie within one.
    "aggregate_loss_parted": ("aggregate_loss", {"spans": lambda: torch.arange(ROWS) // 4}),
    "cross_entropy_weighted": ("cross_entropy", {}),
    "aot_unpaired": ("aot", {}),
    "dpo_weighted": ("dpo", {}),
    "grpo_by_completion": ("grpo", {}),
    "grpo_top_entropy": ("grpo", {}),
    "hard_contrastive_three": ("hard_contrastive", {}),
    "nd_loss_wider": ("nd_loss", {"features": lambda: torch.randn(ROWS, 6)}),
    "fitnet_hint_vectors": (
        "fitnet_hint",
        {"feature_maps": lambda: torch.randn(ROWS, 5), "teacher_feature_maps": lambda: torch.randn(ROWS, 3)},
    ),
}


def wider_nd_loss():
    loss = LOSSES["nd_loss"](num_classes=5, dropout=0.0)
    loss.set_class_means(torch.randn(5, 4))
    return loss


# With an option, or with shapes that aren't known before the example.
MADE = {
    "cross_entropy_weighted": lambda: CrossEntropy(class_weight=[0.2, 1.0, 3.0, 0.5, 2.0]),
    "aot_unpaired": lambda: LOSSES["aot"](paired=False, label_smoothing=0.1),
    "dpo_weighted": lambda: LOSSES["dpo"](weighting=True, tail_weight=0.5),
    "grpo_by_completion": lambda: LOSSES["grpo"](aggregation="seq_mean", beta=0.1),
    # The share is that of the tokens of all processes.
    "grpo_top_entropy": lambda: LOSSES["grpo"](top_entropy=0.4, beta=0.1, entropy_weight=0.01),
    "hard_contrastive_three": lambda: LOSSES["hard_contrastive"](hardest=3),
    "nd_loss_wider": wider_nd_loss,
    "fitnet_hint_vectors": lambda: LOSSES["fitnet_hint"](),
    # At its default threshold every row of the example is truncated.
    "truncated_gce": lambda: LOSSES["truncated_gce"](threshold=0.01),
}
# A graph's rows can't be cut without its columns: each process has graphs of its own.
OF_A_PROCESS = {"pamc"}
CASES = sorted([*(LOSSES.keys() - OF_A_PROCESS), *FURTHER])
# What is tried beside DDP: every loss that couples the batch or reads parameters, and means in which one process has no
# part. FSDP2 shards parameters, and a loss of rows sees nothing of that.
FEW = sorted(
    [*(name for name, loss in LOSSES.items() if loss.batch_coupled), *FURTHER, "cross_entropy", "kd", "wdr_loss"]
)


def loss_of(case):
    """The class of a case's loss."""
    return LOSSES[FURTHER[case][0] if case in FURTHER else case]


def example(case):
    """What a loss takes, in float32, with some targets ignored where it can ignore."""
    loss = loss_of(case)
    try:
        values = tensors(loss, batch=ROWS * TOKENS.get(case, 1))
    except ValueError as error:
        raise AssertionError(
            f"{case} takes a tensor without an example: add it to the glossary of losses ({error.args[0]})"
        ) from None
    if case in TOKENS:
        values = {name: value.unflatten(0, (ROWS, TOKENS[case])) for name, value in values.items()}
    if case in FURTHER:
        torch.manual_seed(5)
        values |= {name: make() for name, make in FURTHER[case][1].items()}
    if takes(loss, "ignore_index") and "target" in values and not values["target"].is_floating_point():
        values["target"][IGNORED] = -100
    if "attention_mask" in values:
        values["attention_mask"][IGNORED] = False
    for mask in values.keys() & {"completion_mask", "chosen_mask", "rejected_mask", "forget_mask"}:
        values[mask][IGNORED] = False
    if "multi_hot" in values:
        values["multi_hot"][IGNORED] = -100
    return {name: v.float() if isinstance(v, Tensor) and v.is_floating_point() else v for name, v in values.items()}


class Outputs(nn.Module):
    """Makes every tensor that losses train of the same inputs."""

    def __init__(self, names):
        super().__init__()
        self.shapes = {}
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        self.heads = nn.ModuleDict()
        for name in names:
            made = {key: value for key, value in trained(example(name)).items() if key != "weights"}
            self.shapes[name] = {key: value.shape[1:] for key, value in made.items()}
            for key, shape in self.shapes[name].items():
                # Drawn by its name: a further loss changes none of the others.
                torch.manual_seed(zlib.crc32(f"{name}/{key}".encode()))
                self.heads[f"{name}/{key}"] = nn.Linear(8, shape.numel())

    def forward(self, inputs, name):
        hidden = self.trunk(inputs)
        made = {
            key: 2 * self.heads[f"{name}/{key}"](hidden).unflatten(1, shape or (1,)).reshape(-1, *shape)
            for key, shape in self.shapes[name].items()
        }
        # What must be probabilities is, and what must be above 0, or 1.
        ranges = {
            "mixup_target": lambda value: value.softmax(dim=-1),
            "attentions": lambda value: value.softmax(dim=-1),
            "ratio": torch.sigmoid,
            "variance": torch.exp,
            "standard_deviation": torch.exp,
            "evidential": lambda value: 1 + value.exp(),
        }
        return {key: ranges.get(key, lambda value: value)(value) for key, value in made.items()}


class EveryLoss(GradCache, ObjectiveMixin, L.LightningModule):
    """Trains one network by another loss at each step."""

    def __init__(self, names, gather_batches=True):
        super().__init__()
        torch.manual_seed(5)
        self.gather_batches, self.micro_batch = gather_batches, 2
        self.network = Outputs(names)
        for name in names:
            options = {"dropout": 0.0} if takes(loss_of(name), "dropout") else {}
            loss = MADE[name]() if name in MADE else build(loss_of(name), **options)
            objective = Objective({name: loss.float()})
            objective.materialize(**example(name))
            self.add_module(f"objective_{name}", objective)

    def embed(self, rows):
        return self.network(rows, "nt_xent")["embeddings"]

    def training_step(self, batch, batch_idx):
        name, given = batch["name"], dict(batch["given"])
        made = self.network(batch["inputs"], name)
        if name == "nt_xent" and self.trainer.world_size > 1:
            # A few samples at a time: one process embeds them at once.
            made["embeddings"] = self.embedded(self.embed, batch["inputs"])
        if "weights" in given:
            # Not of samples: parameters, the same on every process.
            given["weights"] = {"layer": whole_parameter(self.network.trunk[0].weight)}
        value = self.evaluate_objective(getattr(self, f"objective_{name}"), f"train/{name}", {**given, **made})
        return {"loss": value}

    def configure_optimizers(self):
        # Every step has the same weights.
        return torch.optim.SGD(self.parameters(), 0.0)


class Recorder(L.Callback):
    """Keeps the values and whole gradients of every step, and writes them on the first process."""

    def __init__(self, path):
        self.path = path
        self.found = {}

    def on_after_backward(self, trainer, module):
        whole = {name: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
                 for name, p in module.named_parameters() if p.grad is not None}  # fmt: skip
        self.gradients = {name: gradient.clone() for name, gradient in whole.items() if bool((gradient != 0).any())}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        value = trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean")
        self.found[batch["name"]] = {"loss": value, "gradients": self.gradients}

    def on_train_end(self, trainer, module):
        if trainer.global_rank == 0:
            torch.save(self.found, self.path)


class Shares(L.LightningDataModule):
    """One batch for every loss, or two with `twice`, of which each process has its rows."""

    def __init__(self, names, twice):
        super().__init__()
        self.names = names
        self.twice = twice

    def train_dataloader(self):
        rows = SHARES[self.trainer.world_size][self.trainer.global_rank]
        inputs = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1))
        batches = []
        for name in self.names:
            values = example(name)
            given = {key: value for key, value in values.items() if key not in trained(values) or key == "weights"}
            for order in (range(ROWS), reversed(range(ROWS)))[: 2 if self.twice else 1]:
                own = torch.tensor(list(order))[rows]
                chosen = {
                    key: value[own] if isinstance(value, Tensor) and value.ndim and len(value) == ROWS else value
                    for key, value in given.items()
                }
                batches.append({"name": name, "inputs": inputs[own], "given": chosen})
        return torch.utils.data.DataLoader(batches, batch_size=None)


def fit(path, names, processes=1, strategy="ddp", precision="32-true", twice=False, gather_batches=True):
    """One step for each loss; its value and gradients."""

    def train():
        options = {}
        if processes > 1:
            # Similarities in tiles, of which each process computes some: one process computes all at once.
            tiles.DENSE, tiles._width = 0, lambda device: 4
        if processes > 1 and strategy == "ddp":
            # A step leaves the other losses' heads without gradients.
            options["strategy"] = DDPStrategy(
                start_method="popen", process_group_backend="gloo", find_unused_parameters=True
            )
        elif processes > 1:
            options["strategy"] = FSDP2Strategy(process_group_backend="gloo", blocks=["Linear"])
        trainer = L.Trainer(
            accelerator="cpu", devices=processes, max_epochs=1, logger=False, enable_progress_bar=False,
            enable_checkpointing=False, enable_model_summary=False, use_distributed_sampler=False, precision=precision,
            accumulate_grad_batches=2 if twice else 1, callbacks=[Recorder(path)], default_root_dir=path.parent,
            limit_val_batches=0, **options,
        )  # fmt: skip
        trainer.fit(EveryLoss(names, gather_batches), Shares(names, twice))

    if processes == 1:
        train()
    else:
        run_on_processes(train, processes)
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Fits by their settings, each done once."""
    found = {}

    def get(few=False, **settings):
        key = (few, *sorted(settings.items()))
        if key not in found:
            names = FEW if few else CASES
            found[key] = fit(tmp_path_factory.mktemp("fit") / "found.pt", names, **settings)
        return found[key]

    return get


def differences(several, one, relative, absolute):
    """The names of the tensors that differ by more: relatively, or beside the largest of the gradients."""
    largest = max(float(gradient.norm()) for gradient in one["gradients"].values())
    absolute *= max(largest, 0.1)
    pairs = {"loss": (several["loss"], one["loss"])}
    for name in several["gradients"].keys() | one["gradients"].keys():
        missing = torch.zeros_like((several["gradients"] | one["gradients"])[name])
        pairs[name] = several["gradients"].get(name, missing), one["gradients"].get(name, missing)
    return {
        name: (float((a - b).norm()), float(b.norm()))
        for name, (a, b) in pairs.items()
        if float((a - b).norm()) > absolute + relative * float(b.norm())
    }


# Of sums in float32 in another order, whose terms may cancel; a wrong factor would be off by 100%.
ROUNDING = 1e-5
WAYS = {
    "ddp": {"processes": 2, "strategy": "ddp"},
    "fsdp2": {"processes": 2, "strategy": "fsdp2", "few": True},
    "four": {"processes": 4, "strategy": "ddp", "few": True},
}


@pytest.mark.parametrize(("name", "way"), [(n, way) for way in WAYS for n in (CASES if way == "ddp" else FEW)])
def test_several_processes_equal_one(name, way, results):
    one, several = results(few=way != "ddp")[name], results(**WAYS[way])[name]
    assert differences(several, one, 1e-4, ROUNDING) == {}
    assert any(float(gradient.norm()) > 1e-5 for gradient in one["gradients"].values())


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_accumulated_batches_equal_on_one_and_on_two_processes(strategy, results):
    one, two = results(few=True, twice=True), results(few=True, processes=2, strategy=strategy, twice=True)
    wrong = {name: differences(two[name], one[name], 1e-4, ROUNDING) for name in one}
    assert {name: found for name, found in wrong.items() if found} == {}
    # The two batches of a step are cut in different places: their gradients are no multiple of one batch's.
    once = results(few=True)
    assert differences(one["sinkd"], once["sinkd"], 1e-3, ROUNDING)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_mixed_precision_equals_on_one_and_on_two_processes(strategy, results):
    one = results(few=True, precision="bf16-mixed")
    two = results(few=True, processes=2, strategy=strategy, precision="bf16-mixed")
    # Each process rounds its sums over rows to bfloat16's 8 bits: some parts in 256 of what was added up, which may be
    # larger than the sum, as the largest gradient is beside a bias whose gradient cancels.
    wrong = {name: differences(two[name], one[name], 0.03, 0.01) for name in one}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_local_batches_differ(results):
    """Without the gather and the weights of means the losses are others: the tests above can fail."""
    one, local = results(few=True), results(few=True, processes=2, gather_batches=False)
    same = {name for name in FEW if differences(local[name], one[name], 1e-3, 1e-5) == {}}
    # Parameters are no samples: each process has all of them. Of the bags each has as many, and those whole.
    assert same == {"wdr_loss", "aggregate_loss"}


def test_a_loss_without_an_example_says_what_to_add(monkeypatch):
    class Novel(CrossEntropy):
        def forward(self, logits, moods):
            return super().forward(logits, moods)

    monkeypatch.setitem(LOSSES, "novel", Novel)
    with pytest.raises(
        AssertionError, match="novel takes a tensor without an example: add it to the glossary of losses"
    ):
        example("novel")
