from functools import partial

import lightning as L
import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import GRPO, RLOO, PPOClip, PPOValueLoss
from lightning_losses.modules.policy_gradient_learner import PolicyGradientLearner
from lightning_losses.numerics.group_advantage import group_advantage
from lightning_losses.numerics.rloo_advantage import rloo_advantage
from lightning_losses.objective import Objective, Term
from tests.distributed.processes import one_step
from tests.mixins.test_preference import logps, network, part, text

REWARDS = torch.tensor([1.0, 0.0, 0.0, 3.0, 2.0, 2.0], dtype=torch.float64)


def threes(tokens, mask):
    """The share of threes in each completion."""
    return ((tokens == 3) & mask).sum(dim=1) / mask.sum(dim=1)


class Double(PolicyGradientLearner):
    """Trained by plain gradient descent in float64, on completions that it is given."""

    def __init__(self, objective, group_size=2, reference=None, **options):
        if isinstance(objective, torch.nn.Module) and not isinstance(objective, Objective):
            objective = Objective({"loss": objective})
        super().__init__(
            reference,
            network=network(2),
            objective=objective,
            reward=threes,
            group_size=group_size,
            max_new_tokens=4,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
            **options,
        )
        self.double()


class Given(Double):
    """Its batches are completions with rewards, not prompts."""

    def training_step(self, batch, batch_idx):
        return self.policy_step(batch)


def completions(rows=6):
    return text(rows, 8, seed=5) | {"rewards": REWARDS[:rows]}


def test_an_on_policy_step_has_the_gradient_of_reinforce():
    model, batch = Given(GRPO()), completions()
    loss = model.training_step(batch, 0)["loss"]
    advantages = group_advantage(REWARDS, group_size=2)
    log_p, kept = logps(model.network, batch)
    expected = -(advantages.unsqueeze(1) * log_p)[kept].mean()
    parameters = list(model.network.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), rtol=1e-6, atol=1e-9
    )
    torch.testing.assert_close(loss, -(advantages.unsqueeze(1).expand_as(kept))[kept].mean())


def test_old_log_probabilities_and_the_reference_are_read():
    batch = completions()
    model = Given(GRPO(beta=0.1), reference=network(3))
    old, kept = logps(network(4), batch)
    reference, _ = logps(model.teacher, batch)
    loss = model.training_step(batch | {"old_logps": old.detach()}, 0)["loss"]
    log_p, _ = logps(model.network, batch)
    ratio, difference = (log_p - old).exp(), reference - log_p
    advantages = group_advantage(REWARDS, group_size=2).unsqueeze(1)
    policy = torch.maximum(-ratio * advantages, -ratio.clamp(0.8, 1.2) * advantages)
    kl = difference.exp() - 1 - difference
    torch.testing.assert_close(loss, (policy + 0.1 * kl)[kept].mean())


def test_a_reference_that_no_setting_asks_for_does_not_run():
    class Reference(torch.nn.Module):
        def forward(self, *arguments, **named):
            raise AssertionError("it ran")

    assert Given(GRPO(), reference=Reference()).training_step(completions(), 0)["loss"].isfinite()


def test_an_entropy_bonus_gets_entropies_of_the_tempered_distribution():
    model, batch = Given(GRPO(entropy_weight=0.5), temperature=0.7), completions()
    loss = model.training_step(batch, 0)["loss"]
    log_p = F.log_softmax(model.network(batch["inputs"]) / 0.7, dim=-1)
    kept = batch["target"] != -100
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    advantages = group_advantage(REWARDS, group_size=2).unsqueeze(1).expand_as(kept)
    torch.testing.assert_close(loss, -advantages[kept].mean() - 0.5 * entropy[kept].mean())


def test_a_batch_without_rewards_is_refused():
    with pytest.raises(ValueError, match="give a mapping with 'advantages' or 'rewards'"):
        Given(GRPO()).training_step(text(2, 6, 0), 0)


@pytest.mark.parametrize("strategy", ["accumulated", "two processes"])
def test_uneven_batches_equal_one_of_all_tokens(strategy, tmp_path):
    """The groups of two lie across the parts, whose completions are of different lengths."""
    batch = completions()
    advantages = group_advantage(REWARDS, group_size=2)
    parts = [part(batch, slice(0, 3)), part(batch, slice(3, 6))]
    if strategy == "accumulated":
        # Rewards of batches to come are not known.
        parts = [each | {"advantages": own} for each, own in zip(parts, advantages.split(3), strict=True)]
        several = one_step(lambda: Given(GRPO()), [parts], tmp_path, accumulate=2)
    else:
        several = one_step(lambda: Given(GRPO()), [[each] for each in parts], tmp_path)
    one = one_step(lambda: Given(GRPO()), [[batch]], tmp_path)
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(several["gradients"][name], gradient, msg=name)


class TestSampling:
    PROMPTS = {"prompts": torch.tensor([[1, 2, 0], [4, 5, 6]]), "prompt_lengths": torch.tensor([2, 3])}

    def test_groups_follow_each_other_and_are_rewarded_by_what_was_drawn(self):
        model = Double(GRPO(), group_size=3)
        drawn = model.sample(self.PROMPTS, 3, step=0)
        assert drawn["inputs"].shape == (6, 6)
        assert (drawn["inputs"][:3, :2] == torch.tensor([1, 2])).all()
        assert ((drawn["target"] != -100).sum(dim=1) == 4).all()
        kept = drawn["target"] != -100
        torch.testing.assert_close(
            drawn["rewards"], ((drawn["target"] == 3).sum(dim=1) / kept.sum(dim=1)).to(drawn["rewards"])
        )
        own, _ = logps(model.network, drawn)
        torch.testing.assert_close(drawn["old_logps"], own)

    def test_a_step_decides_what_is_drawn(self):
        model = Double(GRPO())
        first, again, next_step = (model.sample(self.PROMPTS, 8, step)["target"] for step in (0, 0, 1))
        assert (first == again).all() and (first != next_step).any()

    def test_completions_are_used_as_often_as_asked(self):
        model = Double(GRPO(), updates=2)
        model.training_step(self.PROMPTS, 0)
        (first,) = model._samples
        model.training_step(self.PROMPTS, 1)
        assert model._samples[0] is first
        model.training_step(self.PROMPTS, 2)
        assert model._samples[0] is not first

    def test_accumulated_batches_draw_by_themselves_and_are_used_by_the_step(self, tmp_path):
        seen = []

        class Seeing(Double):
            def policy_step(self, batch):
                seen.append((self.global_step, batch["inputs"].clone()))
                return super().policy_step(batch)

        loader = torch.utils.data.DataLoader([self.PROMPTS] * 8, batch_size=None)
        L.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path, num_sanity_val_steps=0, limit_val_batches=1,
            accumulate_grad_batches=2,
        ).fit(Seeing(GRPO(), updates=2), loader, loader)  # fmt: skip
        assert [step for step, _ in seen] == [0, 0, 1, 1, 2, 2, 3, 3]
        drawn = [tokens.tolist() for _, tokens in seen]
        assert drawn[0] != drawn[1] and drawn[:2] == drawn[2:4] and drawn[4:6] == drawn[6:8]
        assert drawn[4] not in drawn[:4] and drawn[4] != drawn[5]

    @pytest.mark.parametrize("critic", [False, True])
    def test_a_completion_without_a_reward_is_left_out(self, critic):
        objective = Objective({"ppo": PPOClip(), "value": PPOValueLoss()}) if critic else GRPO()
        model = Double(objective)
        model.reward = lambda tokens, mask: torch.tensor([1.0, torch.nan, 0.0, 1.0], dtype=torch.float64)
        step = model.training_step(self.PROMPTS, 0)
        assert step["loss"].isfinite() and not step["completion_mask"][1].any() and step["completion_mask"][0].any()

    def test_several_rewards_beside_a_kl_are_refused(self):
        model = Double(GRPO(), reference=network(3), kl_weight=0.1)
        model.reward = lambda tokens, mask: torch.zeros(4, 2, dtype=torch.float64)
        with pytest.raises(ValueError, match="give one reward for each completion"):
            model.training_step(self.PROMPTS, 0)

    def test_a_resumed_run_goes_on_with_the_samples_that_are_left(self):
        model = Double(GRPO(), updates=2)
        model.training_step(self.PROMPTS, 0)
        checkpoint = {}
        model.on_save_checkpoint(checkpoint)
        resumed = Double(GRPO(), updates=2)
        resumed.on_load_checkpoint(checkpoint)
        torch.testing.assert_close(resumed.training_step({}, 1)["loss"], model.training_step({}, 1)["loss"])

    def test_the_kl_to_the_reference_lowers_the_reward(self):
        advantage = partial(rloo_advantage, group_size=2)
        plain, shaped = (
            Double(RLOO(), reference=network(3), advantage=advantage, kl_weight=weight) for weight in (0.0, 0.5)
        )
        drawn = plain.sample(self.PROMPTS, 2, step=0)
        assert plain.judged(drawn).keys() == {"target"}
        judged = shaped.judged(drawn)
        kl = (drawn["old_logps"] - judged["ref_logps"]).masked_fill(drawn["target"] == -100, 0.0).sum(dim=1)
        torch.testing.assert_close(judged["advantages"], advantage(drawn["rewards"] - 0.5 * kl))

    def test_a_critic_learns_the_returns(self):
        objective = Objective({"ppo": PPOClip(), "value": Term(PPOValueLoss(), weight=0.1)})
        model = Double(objective)
        model.reward = lambda tokens, mask: 1 + threes(tokens, mask)
        step = model.training_step(self.PROMPTS, 0)
        step["loss"].backward()
        assert model.value_head.weight.grad.abs().sum() > 0
        (samples,) = model._samples
        kept = samples["target"] != -100
        # The critic begins at 0, so that a return is the reward discounted by 0.95 a token.
        behind = kept.flip(1).cumsum(dim=1).flip(1) - 1
        expected = (samples["rewards"].unsqueeze(1) * 0.95**behind)[kept]
        torch.testing.assert_close(samples["returns"][kept], expected.to(samples["returns"]), rtol=1e-5, atol=1e-6)

    def test_rewards_of_another_shape_are_refused(self):
        model = Double(GRPO())
        model.reward = lambda tokens, mask: torch.zeros(3)
        with pytest.raises(ValueError, match=r"rewards of shape \[3\] came for 4 completions"):
            model.sample(self.PROMPTS, 2, 0)

    def test_a_batch_without_prompts_is_refused(self):
        with pytest.raises(ValueError, match="give a mapping with 'prompts'"):
            Double(GRPO()).training_step({"inputs": torch.zeros(1, 2)}, 0)


def test_training_raises_the_reward(tmp_path):
    torch.manual_seed(0)
    prompts = {"prompts": torch.randint(1, 11, (16, 3), generator=torch.Generator().manual_seed(0))}
    model = PolicyGradientLearner(
        network=network(2).float(),
        objective=Objective({"grpo": GRPO()}),
        reward=threes,
        group_size=8,
        max_new_tokens=4,
        optimizer=partial(torch.optim.Adam, lr=0.02),
    )
    before = model.sample(prompts, 16, step=1000)["rewards"].mean()
    loader = torch.utils.data.DataLoader([prompts] * 12, batch_size=None)
    L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, num_sanity_val_steps=0, limit_val_batches=1,
    ).fit(model, loader, loader)  # fmt: skip
    after = model.sample(prompts, 16, step=1000)["rewards"].mean()
    assert before < 0.15 and after > 2 * before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kl_weight": 0.1}, "kl_weight=0.1 came without a teacher"),
        ({"start_from_reference": True}, "start_from_reference=True came without a teacher"),
        ({"group_size": 0}, "group_size"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(options, message):
    with pytest.raises(ValueError, match=message):
        Double(GRPO(), **options)
