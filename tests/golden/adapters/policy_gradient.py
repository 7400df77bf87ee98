"""Policy-gradient losses, advantages, and estimates of KL and entropy."""

import torch

from lightning_losses.losses import CISPO, GMPO, GRPO, GSPO, LUSPO, RLOO, SAPO, VESPO, PPOClip, PPOValueLoss
from lightning_losses.losses.policy_gradient.completion_loss import with_normalizer
from lightning_losses.numerics.divergences import entropy_from_logits
from lightning_losses.numerics.gae import gae, kl_shaped_reward
from lightning_losses.numerics.group_advantage import group_advantage
from lightning_losses.numerics.kl_estimate import kl_estimate
from lightning_losses.numerics.reinforce_pp_advantage import reinforce_pp_advantage, reinforce_pp_baseline_advantage
from lightning_losses.numerics.rloo_advantage import rloo_advantage
from lightning_losses.numerics.token_returns import whiten
from tests.golden.adapter import Params, gradients, leaf

# TRL's loss types; those of the second set divide by the tokens of the whole optimizer step.
OF_TRL = {
    "grpo": "seq_mean",
    "sapo": "seq_mean",
    "bnpo": "token_mean",
    "dr_grpo": "max_length",
    "luspo": "seq_sum",
    "dapo": "token_mean",
    "cispo": "token_mean",
    "vespo": "token_mean",
}
WHOLE_STEP = {"dapo", "cispo", "vespo"}
OF_VERL = {
    "token-mean": "token_mean",
    "seq-mean-token-mean": "seq_mean",
    "seq-mean-token-sum": "seq_sum",
    "seq-mean-token-sum-norm": "max_length",
    "sequence mean": "seq_mean",
}
TENSORS = ("advantages", "old_logps", "completion_mask", "ref_logps", "sampling_ratio")


def averaging(given, width):
    """The loss's settings, its normalizer (None: its own), and by what its value is divided then."""
    steps, world = given.take("grad_accum_steps", 1), given.take("world_size", 1)
    # Without the clamp nothing of these cases goes beyond 20.
    given.take("log_ratio_clamp", None)
    kind = given.take("loss_type", None)
    if kind is not None:
        options = {"aggregation": OF_TRL[kind], "count_empty": True}
        length = given.take("max_completion_length", None)
        items = given.take("num_items_in_batch", None)
        if kind == "dr_grpo":
            options["max_completion_length"] = length
        return options, None if items is None else items / world, 1 if kind in WHOLE_STEP else steps
    reduction = given.take("reduction", None)
    options = {} if reduction is None else {"aggregation": OF_VERL[reduction]}
    if reduction == "sequence mean":
        options["count_empty"] = True
    normalizer = given.take("batch_num_tokens", None) or given.take("global_batch_size", None)
    if normalizer is not None:
        normalizer = normalizer / given.take("dp_size")
    if reduction == "seq-mean-token-sum-norm":
        # verl divides by the width of the batch, and by no number of rows.
        options["max_completion_length"], normalizer = width, 1
    return options, normalizer, 1


def policy(make):
    """An adapter of a loss that `make` builds of the parameters that are its own and its settings of averaging."""

    def adapt(inputs, params):
        with Params(params) as given:
            options, normalizer, divisor = averaging(given, inputs["completion_mask"].shape[1])
            options["beta"] = given.take("beta", 0.0)
            options["entropy_weight"] = given.take("entropy_coef", 0.0)
            temperature, split = given.take("temperature", 1.0), given.take("microbatch_split", None)
            given.take("mask_truncated_completions", None)
            value_options = {"clip": given.take("cliprange_value")} if "vpreds" in inputs else {}
            value_weight = given.take("vf_coef", 0.0)
            loss = make(given, **options)
        mask = inputs["completion_mask"]
        if "tool_mask" in inputs:
            mask = mask * inputs["tool_mask"]
        if "truncated" in inputs:
            mask = mask * ~inputs["truncated"].bool().unsqueeze(1)
        outputs, leaves = {"effective_mask": mask, "num_items": mask.sum()}, {}
        if "logits" in inputs:
            leaves["logits"] = leaf(inputs["logits"])
            tempered = leaves["logits"] / temperature
            logps = tempered.log_softmax(dim=-1).gather(-1, inputs["completion_ids"].unsqueeze(-1)).squeeze(-1)
            entropies = entropy_from_logits(leaves["logits"], temperature)
        else:
            leaves["logps"] = logps = leaf(inputs["logps"])
            entropies = inputs.get("entropies")
        tensors = {name: inputs[name] for name in TENSORS if name in inputs}
        tensors |= {"logps": logps, "completion_mask": mask}
        tensors |= {} if entropies is None else {"entropies": entropies}
        parts = [tensors] if split is None else parts_of(tensors, split)
        value = sum(
            (loss(**part) if normalizer is None else with_normalizer(loss, normalizer, **part)) / divisor
            for part in parts
        )
        metrics = loss.metrics(**tensors)
        outputs |= {name: metrics[name] for name in ("clip_low", "clip_high", "clip_region") if name in metrics}
        outputs |= {theirs: metrics[ours] for theirs, ours in NAMES.items() if ours in metrics}
        if "vpreds" in inputs:
            outputs["pg_loss"] = value + loss.entropy_weight * metrics.get("entropy", 0.0)
            leaves["vpreds"] = leaf(inputs["vpreds"])
            outputs["vf_loss"] = PPOValueLoss(**value_options)(
                leaves["vpreds"], inputs["returns"], inputs["values"], inputs.get("value_mask", mask)
            )
            value = value + value_weight * outputs["vf_loss"]
        return {**outputs, "loss": value, **gradients(value, **leaves)}

    return adapt


NAMES = {"kl_mean": "kl", "entropy_mean": "entropy"}


def parts_of(tensors, sizes):
    split = {name: tensor.split(sizes) for name, tensor in tensors.items()}
    return [{name: parts[number] for name, parts in split.items()} for number in range(len(sizes))]


def range_of(given):
    return {"epsilon_low": given.take("epsilon_low", 0.2), "epsilon_high": given.take("epsilon_high", 0.2)}


def grpo(given, **options):
    return GRPO(
        delta=given.take("delta", None),
        importance_corrected_kl=given.take("use_bias_correction_kl", False),
        off_policy_threshold=given.take("off_policy_mask_threshold", None),
        top_entropy=given.take("top_entropy_quantile", 1.0),
        **range_of(given),
        **options,
    )


def gspo(given, **options):
    options["log_ratio_clamp"] = given.take("seq_log_ratio_max", 20.0)
    return GSPO(given.take("importance_sampling_level"), **range_of(given), **options)


def luspo(given, **options):
    given.choice("importance_sampling_level", {"sequence": None})
    return LUSPO(**range_of(given), **options)


def cispo(given, **options):
    ends = range_of(given)
    # verl's range lies around 1, TRL's largest weight is the weight itself.
    trl = options.get("count_empty", False)
    ends = (
        {"max_ratio": ends["epsilon_high"]}
        if trl
        else {"max_ratio": 1 + ends["epsilon_high"], "min_ratio": 1 - ends["epsilon_low"]}
    )
    return CISPO(**ends, **options)


def sapo(given, **options):
    range_of(given)
    return SAPO(given.take("sapo_temperature_pos"), given.take("sapo_temperature_neg"), **options)


def vespo(given, **options):
    range_of(given)
    names = ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg")
    return VESPO(*(given.take(name) for name in names), **options)


def value_loss(inputs, params):
    with Params(params) as given:
        loss = PPOValueLoss(given.take("cliprange_value"), aggregation=OF_VERL[given.take("reduction")])
    vpreds = leaf(inputs["vpreds"])
    value = loss(vpreds, inputs["returns"], inputs["values"], inputs["completion_mask"])
    return {"loss": value, **gradients(value, vpreds=vpreds)}


def groups(inputs, given):
    """How the rows are grouped, and what a single one gets."""
    options = {"index": inputs["index"]} if "index" in inputs else {"group_size": given.take("group_size")}
    return options | {"singleton": given.choice("singleton", {"raw_reward": "raw"}, "zero")}


def of_groups(inputs, params):
    with Params(params) as given:
        options = groups(inputs, given)
        options |= {"scale": given.take("scale_rewards"), "eps": given.take("eps")}
        options["aggregation"] = given.take("multi_objective_aggregation", "sum_then_normalize")
    rewards = inputs["rewards_per_func"] if "rewards_per_func" in inputs else inputs["rewards"]
    return {"advantages": group_advantage(rewards, weights=inputs.get("weights"), **options)}


def leave_one_out(inputs, params):
    with Params(params) as given:
        options = groups(inputs, given)
        options |= {"reward_clip": given.take("reward_clip_range", None), "beta": given.take("beta", 0.0)}
        options["normalize"] = given.take("normalize_advantages", False)
    kl = None
    if "ref_logps" in inputs:
        each = kl_estimate(inputs["old_logps"], inputs["ref_logps"], "k1")
        kl = each.masked_fill(inputs["completion_mask"] == 0, 0.0).sum(dim=1)
    return {"advantages": rloo_advantage(inputs["rewards"], kl=kl, **options)}


def of_critic(inputs, params):
    with Params(params) as given:
        decay = {"gamma": given.take("gamma"), "lam": given.take("lam")}
        whitened, masked = given.take("whiten"), given.take("masked", "zero")
        if "token_rewards" in inputs:
            found = gae(
                inputs["token_rewards"], inputs["values"], inputs["completion_mask"], masked=masked,
                whitened=whitened, **decay,
            )  # fmt: skip
            return found._asdict()
        coefficient, estimator = given.take("kl_coef"), given.take("kl_estimator")
        scaled = given.take("whiten_rewards")
    assert whitened and masked == "zero"
    position = torch.arange(inputs["values"].shape[1])
    last = inputs["sequence_lengths"].unsqueeze(1)
    kept, valued = position <= last, position <= last + 1
    kl = kl_estimate(inputs["old_logps"], inputs["ref_logps"], estimator)
    rewards = kl_shaped_reward(inputs["scores"], kl, kept, kl_coef=coefficient, place="after")
    if scaled:
        rewards = whiten(rewards, valued, shift=False).masked_fill(~valued, 0.0)
    # TRL counts one value more than there are tokens, but whitens over the tokens.
    found = gae(rewards, inputs["values"], valued, **decay)
    return {
        "token_rewards": rewards,
        "advantages": whiten(found.advantages, kept).masked_fill(~kept, 0.0),
        "returns": found.returns,
        "completion_mask": kept,
        "value_mask": valued,
    }


def reinforce_pp(inputs, params):
    with Params(params) as given:
        eps, unbiased = given.take("eps"), given.choice("variance", {"biased": False}, True)
        mask = inputs["completion_mask"]
        if "rewards" in inputs:
            found = reinforce_pp_baseline_advantage(inputs["rewards"], mask, index=inputs["index"], eps=eps)
            return {"advantages": found}
        found = reinforce_pp_advantage(inputs["token_rewards"], mask, gamma=given.take("gamma"), eps=eps)
    if not unbiased:
        # OpenRLHF leaves the padding as it is scaled.
        return {"returns": found.returns, "advantages": whiten(found.returns, mask != 0, unbiased=False, eps=eps)}
    # verl leaves the padding's rewards in.
    return {"advantages": found.advantages, "returns": found.returns.where(mask != 0, inputs["token_rewards"])}


def shaped(inputs, params):
    with Params(params) as given:
        options = {"kl_coef": given.take("kl_coef"), "score_clip": given.take("reward_clip_range")}
    rewards = kl_shaped_reward(inputs["rewards"], inputs["kl"], inputs["completion_mask"], **options)
    # OpenRLHF leaves the padding's KL in.
    return {"token_rewards": rewards.where(inputs["completion_mask"] != 0, -options["kl_coef"] * inputs["kl"])}


def kl(inputs, params):
    with Params(params) as given:
        name = given.choice("estimator", {"k3+": "k3_straight_through"}, None)
        options = {key: given.take(key, None) for key in ("log_ratio_clamp", "value_clamp")}
    outputs = {}
    for estimator in ("k1", "k2", "k3"):
        logps = leaf(inputs["logps"])
        value = kl_estimate(logps, inputs["ref_logps"], name or estimator, **options)
        outputs |= {estimator: value, f"grad_{estimator}": gradients(value.sum(), logps=logps)["grad_logps"]}
    return outputs


def entropy(inputs, params):
    with Params(params):
        logits = leaf(inputs["logits"])
    value = entropy_from_logits(logits)
    total = value.masked_fill(inputs["completion_mask"] == 0, 0.0).sum()
    return {"entropy": value, "grad_entropy_sum": gradients(total, logits=logits)["grad_logits"]}


ADAPTERS = {
    "ppo_clip": policy(lambda given, **options: PPOClip(given.take("dual_clip", None), **range_of(given), **options)),
    "ppo_value_loss": value_loss,
    "grpo": policy(grpo),
    "rloo": policy(lambda given, **options: RLOO(**range_of(given), **options)),
    "gspo": policy(gspo),
    "gspo_token": policy(gspo),
    "luspo": policy(luspo),
    "gmpo": policy(lambda given, **options: GMPO(**range_of(given), **options)),
    "cispo": policy(cispo),
    "sapo": policy(sapo),
    "vespo": policy(vespo),
    "group_advantage": of_groups,
    "rloo_advantage": leave_one_out,
    "gae": of_critic,
    "reinforce_pp_advantage": reinforce_pp,
    "kl_shaped_reward": shaped,
    "kl_estimate": kl,
    "entropy": entropy,
}
