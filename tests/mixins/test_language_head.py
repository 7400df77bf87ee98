import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lightning_losses import LanguageHeadMixin
from tests.distributed.processes import Sharded, one_step

WIDTH, VOCABULARY = 8, 11


class Model(LanguageHeadMixin, lightning.LightningModule):
    """A bigram model whose loss is the mean over the tokens of the step."""

    def __init__(self, tied=False, **options):
        super().__init__()
        torch.manual_seed(3)
        embedding, head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=not tied)
        if tied:
            head.weight = embedding.weight
        self.network = nn.Sequential(embedding, nn.Linear(WIDTH, WIDTH), nn.Tanh(), head)
        self.language_head = head
        self.objective = nn.Identity()
        self.options = options

    def forward(self, tokens):
        # Flat, because FSDP2 warns of a linear layer on [B, T, D], whose output is a view.
        return self.head_output(self.network[:3](tokens.flatten()).unflatten(0, tokens.shape))

    def training_step(self, batch, batch_idx):
        return {"loss": self.language_loss(self(batch["tokens"]), batch["target"], **self.options)}

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class ShardedModel(Sharded, Model):
    """The same, sharded by FSDP2, embedding and head among the layers."""

    def configure_model(self):
        if not getattr(self, "_sharded", False):
            fully_shard(self.network[0], mesh=self.device_mesh["data_parallel"])
        super().configure_model()
        assert isinstance(self.language_head.weight, DTensor)


def batch(rows):
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(VOCABULARY, (10, 5), generator=generator)
    target = torch.randint(VOCABULARY, (10, 5), generator=generator)
    # Uneven: some rows keep 1 token, others all.
    target[:4, 1:] = -100
    return {"tokens": tokens[rows], "target": target[rows]}


def plain_gradients(model, whole):
    logits = model.network(whole["tokens"])
    loss = F.cross_entropy(logits.flatten(0, 1), whole["target"].flatten())
    names, parameters = zip(*model.named_parameters(), strict=True)
    return loss.detach(), dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def assert_same_gradients(found, wanted):
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        # float32 sums in another order.
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_hidden_states_in_training_logits_in_evaluation():
    model, tokens = Model(), batch(slice(0, 2))["tokens"]
    assert model(tokens).shape == (2, 5, WIDTH)
    torch.testing.assert_close(model.eval()(tokens), model.network(tokens))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("impl", ["reference", "chunked", "recompute"])
def test_the_loss_is_cross_entropy_of_the_logits(impl, tied, tmp_path):
    whole = batch(slice(0, 10))
    result = one_step(lambda: Model(tied, impl=impl), [[whole]], tmp_path)
    loss, gradients = plain_gradients(Model(tied), whole)
    torch.testing.assert_close(result["loss"], loss)
    assert_same_gradients(result["gradients"], gradients)


@pytest.mark.parametrize("cuts", [[slice(0, 5), slice(5, 10)], [slice(0, 2), slice(2, 7), slice(7, 10)]])
@pytest.mark.parametrize("accumulate", [2, 3, 4])
def test_accumulated_batches_equal_one(accumulate, cuts, tmp_path):
    # With 4, the last window of the epoch is incomplete; with 2 of 3 batches, the second window is.
    model, seen = Model(), []

    class Recorder(lightning.Callback):
        def on_before_zero_grad(self, trainer, module, optimizer):
            if grads := {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}:
                seen.append(grads)

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        accumulate_grad_batches=accumulate,
        callbacks=[Recorder()],
        default_root_dir=tmp_path,
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loader = torch.utils.data.DataLoader([batch(cut) for cut in cuts], batch_size=None)
    trainer.fit(model, loader, loader)
    window = cuts[:accumulate]
    _, wanted = plain_gradients(Model(), batch(slice(window[0].start, window[-1].stop)))
    first = {name: (before[name] - p.detach()) / 0.1 for name, p in model.named_parameters()}
    if len(cuts) <= accumulate:
        assert_same_gradients(first, wanted)
    else:
        assert_same_gradients(seen[0], wanted)


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_uneven_processes_equal_one(strategy, tmp_path):
    model = ShardedModel if strategy == "fsdp2" else Model
    one = one_step(Model, [[batch(slice(0, 10))]], tmp_path)
    several = one_step(model, [[batch(slice(0, 3))], [batch(slice(3, 10))]], tmp_path, strategy)
    torch.testing.assert_close(several["loss"], one["loss"], rtol=1e-5, atol=1e-7)
    assert_same_gradients(several["gradients"], one["gradients"])


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_accumulation_on_uneven_processes_equals_one_step(strategy, tmp_path):
    kind = ShardedModel if strategy == "fsdp2" else Model
    shards = [[batch(slice(0, 1)), batch(slice(1, 4))], [batch(slice(4, 9)), batch(slice(9, 10))]]

    class Scaled(kind):
        """Checks on every process what its optimizer is about to see."""

        def on_before_optimizer_step(self, optimizer):
            super().on_before_optimizer_step(optimizer)
            _, wanted = plain_gradients(Model(), batch(slice(0, 10)))
            found = {
                n: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
                for n, p in self.named_parameters()
            }
            assert_same_gradients(found, wanted)
            self.checked = True

        def on_train_end(self):
            assert self.checked

    one_step(Scaled, shards, tmp_path, strategy, accumulate=2)


def test_autocast_gives_float32_gradients(tmp_path):
    whole = batch(slice(0, 10))
    result = one_step(Model, [[whole]], tmp_path, precision="bf16-mixed")
    _, gradients = plain_gradients(Model(), whole)
    for name, gradient in gradients.items():
        assert result["gradients"][name].dtype == torch.float32
        # bfloat16 products: some 0.4 % each.
        assert (result["gradients"][name] - gradient).norm() <= 0.05 * gradient.norm(), name


def test_a_shift_counts_the_tokens_that_are_left():
    model, whole = Model(), batch(slice(0, 10))
    loss = model.language_loss(model(whole["tokens"]), whole["target"], shift=1)
    logits = model.network(whole["tokens"])[:, :-1]
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), whole["target"][:, 1:].flatten()))


def test_two_shifts_of_one_target_are_means_over_their_own_tokens(tmp_path):
    class Both(Model):
        def training_step(self, tokens, batch_idx):
            return sum(self.language_loss(self(tokens), tokens, shift=shift) for shift in (1, 2))

    lengths, seen = (3, 9), {}
    batches = [torch.randint(VOCABULARY, (1, n), generator=torch.Generator().manual_seed(n)) for n in lengths]

    class Recorder(lightning.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            seen.update({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})

    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, accumulate_grad_batches=2, callbacks=[Recorder()], default_root_dir=tmp_path,
        limit_val_batches=0,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    trainer.fit(Both(), loader, loader)
    plain = Model()
    for shift in (1, 2):
        for tokens in batches:
            logits, target = plain.network(tokens)[:, :-shift], tokens[:, shift:]
            share = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum")
            (share / (sum(lengths) - 2 * shift)).backward()
    assert_same_gradients(seen, {name: p.grad for name, p in plain.named_parameters()})


def test_a_batch_without_tokens_is_zero():
    model, whole = Model(), batch(slice(0, 2))
    loss = model.language_loss(model(whole["tokens"]), torch.full_like(whole["target"], -100))
    loss.backward()
    assert loss == 0 and all((p.grad == 0).all() for p in model.parameters())


def test_heads_are_found_by_name_and_by_the_network_itself():
    class Plain(LanguageHeadMixin, lightning.LightningModule):
        pass

    module = Plain()
    with pytest.raises(ValueError, match="set self.language_head"):
        module.find_head()
    module.lm_head = nn.Linear(2, 3)
    assert module.find_head() is module.lm_head
    module.network = nn.Module()
    module.network.get_output_embeddings = lambda: module.tied
    module.tied = nn.Embedding(3, 2)
    assert module.find_head() is module.tied
    assert module.eval().head_output(torch.ones(4, 2)).shape == (4, 3)
    module.language_head = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(ValueError, match="plain nn.Linear"):
        module.find_head()
