import lightning as L
import pytest
import torch
import torch.nn.functional as F

from lightning_losses.data.language_batch import LanguageBatch
from lightning_losses.losses import AOT, DPO, KTO, SimPO
from lightning_losses.mixins.preference import PreferenceMixin, mismatched
from lightning_losses.modules.preference_learner import PreferenceLearner
from lightning_losses.networks.transformer import Transformer
from lightning_losses.objective import Objective
from lightning_losses.teachers import load_cached_teacher
from lightning_losses.teachers.reference_records import cache_reference
from tests.distributed.processes import one_step


def network(seed, width=8):
    torch.manual_seed(seed)
    return Transformer(vocabulary_size=11, context_length=12, width=width, depth=1, heads=2).double()


def text(rows, width, seed, prompt=2):
    """Rows of a prompt and a completion, whose lengths differ."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 11, (rows, width + 1), generator=generator)
    place = torch.arange(width)
    lengths = width - torch.arange(rows).unsqueeze(1) % 3
    kept = (place >= prompt - 1) & (place < lengths)
    return {"inputs": tokens[:, :-1], "target": tokens[:, 1:].masked_fill(~kept, -100)}


def pairs(rows=4, seed=0, chosen=8, rejected=6):
    return {
        "chosen": text(rows, chosen, seed),
        "rejected": text(rows, rejected, seed + 100),
        "index": torch.arange(rows),
    }


def part(batch, rows):
    return {
        name: {key: tensor[rows] for key, tensor in value.items()} if isinstance(value, dict) else value[rows]
        for name, value in batch.items()
    }


class Double(PreferenceLearner):
    """Trained by plain gradient descent in float64."""

    def __init__(self, loss, reference=None):
        super().__init__(
            network(1) if reference is None else reference,
            network=network(2),
            objective=Objective({"loss": loss}),
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        )


def logps(model, side):
    """Each token's log-probability from all logits, and which count."""
    log_p = F.log_softmax(model(side["inputs"]), dim=-1)
    kept = side["target"] != -100
    own = log_p.gather(-1, side["target"].clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return own.masked_fill(~kept, 0.0), kept


def test_dpo_is_its_definition_on_all_logits():
    model, batch = Double(DPO(beta=0.3)), pairs()
    loss = model.training_step(batch, 0)["loss"]
    sums = [
        [logps(one, batch[side])[0].sum(dim=1) for side in ("chosen", "rejected")]
        for one in (model.network, model.teacher)
    ]
    margin = (sums[0][0] - sums[1][0]) - (sums[0][1] - sums[1][1])
    torch.testing.assert_close(loss, -F.logsigmoid(0.3 * margin).mean())
    parameters = list(model.network.parameters())
    expected = torch.autograd.grad(-F.logsigmoid(0.3 * margin).mean(), parameters)
    torch.testing.assert_close(torch.autograd.grad(loss, parameters), expected)


def test_the_reference_is_asked_only_where_a_loss_takes_it():
    class Reference(torch.nn.Module):
        def forward(self, *arguments, **named):
            raise AssertionError("it ran")

    assert Double(SimPO(), Reference()).training_step(pairs(), 0)["loss"].isfinite()


def test_without_a_reference_the_message_says_what_to_set():
    model = Double(DPO())
    model.teacher = None
    with pytest.raises(ValueError, match="set self.teacher to the frozen reference"):
        model.training_step(pairs(), 0)


def test_a_cached_reference_gives_what_the_live_one_gives(tmp_path):
    batch = pairs()
    data = [part(batch, row) for row in range(4)]
    cached = load_cached_teacher(cache_reference(network(1), data, tmp_path, batch_size=3))
    live = Double(DPO()).training_step(batch, 0)["loss"]
    torch.testing.assert_close(Double(DPO(), cached).training_step(batch, 0)["loss"], live, rtol=1e-6, atol=1e-7)
    # Another order, by the samples' index.
    turned = part(batch, torch.tensor([3, 0, 2, 1]))
    torch.testing.assert_close(Double(DPO(), cached).training_step(turned, 0)["loss"], live, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="needs 'index' in the batch"):
        Double(DPO(), cached).training_step({side: batch[side] for side in ("chosen", "rejected")}, 0)
    with pytest.raises(ValueError, match="pad every sample of the data set to the same number"):
        Double(DPO(), cached).training_step(pairs(rejected=5), 0)


def test_a_cache_serves_single_completions_and_refuses_mismatched_ones(tmp_path):
    batch = pairs()
    data = [part(batch, row) for row in range(4)]
    cached = load_cached_teacher(cache_reference(network(1), data, tmp_path))
    loss = KTO(form="apo_zero_unpaired")
    live = Double(loss).training_step(batch, 0)["loss"]
    torch.testing.assert_close(Double(loss, cached).training_step(batch, 0)["loss"], live, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="which no cache holds; give a live reference"):
        Double(KTO(), cached).training_step(batch, 0)


def test_a_cache_is_made_anew_for_another_reference_and_other_texts(tmp_path):
    data = [part(pairs(), row) for row in range(4)]
    first = cache_reference(network(1), data, tmp_path)
    assert cache_reference(network(1), data, tmp_path) == first
    others = [
        cache_reference(network(3), data, tmp_path),
        cache_reference(network(1), data[:3], tmp_path),
        cache_reference(network(1), data, tmp_path, texts=["rejected", "chosen"]),
    ]
    assert len({first, *others}) == 4


def test_reference_log_probabilities_in_the_batch_are_taken():
    model, batch = Double(DPO()), pairs()
    live = model.training_step(batch, 0)["loss"]
    given = {f"ref_{side}_logps": logps(model.teacher, batch[side])[0].detach() for side in ("chosen", "rejected")}
    model.teacher = None
    torch.testing.assert_close(model.training_step(batch | given, 0)["loss"], live)


def test_a_loss_of_single_completions_takes_pairs_and_single_ones_alike():
    model, batch = Double(KTO()), pairs(chosen=8, rejected=8)
    paired = model.preference_tensors(batch)
    completion = {
        name: torch.cat([batch[side][name] for side in ("chosen", "rejected")]) for name in ("inputs", "target")
    }
    single = model.preference_tensors({"completion": completion, "desirable": torch.arange(8) < 4})
    assert paired.keys() == single.keys()
    for name, value in paired.items():
        torch.testing.assert_close(value, single[name], msg=name)


def test_a_batch_of_another_form_is_refused():
    with pytest.raises(ValueError, match=r"\['inputs', 'target'\] came as a batch; give a mapping of 'chosen'"):
        Double(DPO()).training_step(text(2, 6, 0), 0)


class TestMismatched:
    def test_each_prompt_gets_the_completion_before_it(self):
        # Prompts 1 2, 3 and 4 5 6; completions 7 8, 9 9 9 and 10.
        tokens = torch.tensor([[1, 2, 7, 8, 0, 0], [3, 9, 9, 9, 0, 0], [4, 5, 6, 10, 0, 0]])
        target = torch.tensor([[-100, 7, 8, -100, -100], [9, 9, 9, -100, -100], [-100, -100, 10, -100, -100]])
        moved = mismatched(LanguageBatch(tokens[:, :-1], {}, target))
        assert moved.target.tolist() == [[-100, 10, -100, -100, -100], [7, 8, -100, -100, -100], [-100, -100, 9, 9, 9]]
        assert [row[: row_length] for row, row_length in zip(moved.inputs.tolist(), (2, 2, 5), strict=True)] == [
            [1, 2], [3, 7], [4, 5, 6, 9, 9],
        ]  # fmt: skip

    def test_what_does_not_fit_is_cut_off(self):
        tokens = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
        target = torch.tensor([[-100, -100, 4, 9], [6, 7, 8, 9]])
        moved = mismatched(LanguageBatch(tokens, {}, target))
        assert moved.target[0].tolist() == [-100, -100, 6, 7]

    def test_log_probabilities_are_those_of_the_sequences_written_out(self):
        model, batch = Double(KTO()), text(3, 8, 4)
        tensors = model.preference_tensors({"completion": batch, "desirable": torch.tensor([True, False, True])})
        for row in range(3):
            prompt = batch["inputs"][row, :2]
            kept = batch["target"][row - 1] != -100
            completion = batch["target"][row - 1][kept]
            whole = torch.cat([prompt, completion]).unsqueeze(0)
            log_p = F.log_softmax(model.network(whole[:, :-1]), dim=-1)[0, 1:]
            expected = log_p.gather(-1, completion.unsqueeze(-1)).sum()
            torch.testing.assert_close(tensors["mismatched_logps"][row].sum(), expected)

    def test_an_attention_mask_moves_along(self):
        tokens = torch.tensor([[1, 2, 7, 0], [3, 9, 9, 9]])
        mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
        target = torch.tensor([[-100, 7, -100, -100], [9, 9, 9, -100]])
        moved = mismatched(LanguageBatch({"input_ids": tokens, "attention_mask": mask}, {}, target))
        assert moved.inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
        assert moved.inputs["input_ids"].tolist() == [[1, 2, 9, 9], [3, 7, 0, 0]]

    def test_a_sample_alone_has_none(self):
        alone = LanguageBatch(torch.tensor([[1, 2, 7]]), {}, torch.tensor([[-100, 7, 8]]))
        assert (mismatched(alone).target == -100).all()

    def test_packed_rows_are_refused(self):
        tokens = torch.ones(2, 3, dtype=torch.long)
        with pytest.raises(ValueError, match="without packing"):
            mismatched(LanguageBatch(tokens, {"documents": tokens}, tokens))


@pytest.mark.parametrize("loss", [DPO, AOT, KTO], ids=lambda loss: loss.__name__)
def test_two_processes_with_uneven_batches_equal_one(loss, tmp_path):
    batch = pairs(rows=6)
    rows = [slice(0, 2), slice(2, 6)]
    # The second process's texts are narrower.
    shards = [[part(batch, rows[0])], [part(batch, rows[1])]]
    shards[1][0]["rejected"] = {name: tensor[:, :5] for name, tensor in shards[1][0]["rejected"].items()}
    whole = {name: dict(value) if isinstance(value, dict) else value for name, value in batch.items()}
    whole["rejected"]["target"] = batch["rejected"]["target"].clone()
    whole["rejected"]["target"][2:, 5:] = -100
    if loss is KTO:
        # As pairs, one process would have all chosen ones first.
        shards, whole = single(shards), single([[part(whole, rows[0])], [part(whole, rows[1])]])
        whole = joined_rows(*(shard[0] for shard in whole))
    several = one_step(lambda: Double(loss()), shards, tmp_path)
    one = one_step(lambda: Double(loss()), [[whole]], tmp_path)
    torch.testing.assert_close(several["loss"], one["loss"])
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(several["gradients"][name], gradient, msg=name)


def single(shards):
    return [
        [{"completion": batch["chosen"], "desirable": torch.arange(len(batch["index"])) % 2 == 0}]
        for (batch,) in shards
    ]


def joined_rows(first, second):
    return {
        "completion": {
            name: torch.cat([first["completion"][name], second["completion"][name]]) for name in ("inputs", "target")
        },
        "desirable": torch.cat([first["desirable"], second["desirable"]]),
    }


def test_accumulated_batches_equal_one(tmp_path):
    batch = pairs(rows=6)
    parts = [part(batch, slice(0, 1)), part(batch, slice(1, 6))]
    several = one_step(lambda: Double(DPO()), [parts], tmp_path, accumulate=2)
    one = one_step(lambda: Double(DPO()), [[batch]], tmp_path)
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(several["gradients"][name], gradient, msg=name)


def test_what_is_logged_of_the_pairs(tmp_path):
    model, batch = Double(DPO()), pairs()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, num_sanity_val_steps=0,
    )  # fmt: skip
    chosen, rejected = (
        logps(model.network, batch[side])[0].sum(dim=1) - logps(model.teacher, batch[side])[0].sum(dim=1)
        for side in ("chosen", "rejected")
    )
    loader = torch.utils.data.DataLoader([batch], batch_size=None)
    trainer.fit(model, loader, loader)
    logged = trainer.callback_metrics
    torch.testing.assert_close(logged["train/preference_accuracy"].double(), (chosen > rejected).double().mean())
    torch.testing.assert_close(logged["train/log_ratio_chosen"].double(), chosen.mean().detach(), rtol=1e-5, atol=1e-6)


def test_a_network_of_another_shape_cannot_start_from_the_reference():
    with pytest.raises(ValueError, match="PreferenceLearner: the weights of a Transformer don't fit"):
        PreferenceLearner(
            network(1, width=16), network=network(2), objective=Objective({"dpo": DPO()}), start_from_reference=True
        )


def test_the_reference_is_no_part_of_the_module():
    model = Double(DPO())
    assert all(name.startswith("network.") for name in model.state_dict())
    assert isinstance(model, PreferenceMixin)
