"""Domains that are left out one by one: what is trained, chosen, measured and refused, in short runs."""

import json

import pytest

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.kinds.left_out_domains import DOMAIN_METRICS, LeftOutDomains
from tests.recipes.conftest import composed, rehearse, train

SHORT = [
    *("experiment=domains", "trainer.max_epochs=1", "trainer.limit_train_batches=2"),
    *("trainer.enable_progress_bar=false", "domains.seeds=[0]", "domains.beds.rotated=null"),
    "domains.beds.coloured.trainer.max_epochs=1",
]
# One objective of logits and one of features are enough to see what the kind does; all are rehearsed.
FEWER = [f"~domains.objectives.{name}" for name in ("group_dro", "mmd", "dann", "fishr", "coral")]


def test_every_domain_is_left_out_and_the_weight_is_chosen_in_two_ways(tmp_path, cache):
    tuned = "domains.beds.coloured.tuned={irm_v1: {terms.irm_v1.weight.after: [1.0, 100.0]}}"
    few = [
        *SHORT,
        *FEWER,
        tuned,
        "~domains.beds.coloured.tuned.vrex",
        "domains.beds.coloured.left_out=[0, 2]",
        "domains.beds.coloured.claims=[]",
    ]
    values = train(composed(*few, f"cache={cache}"), tmp_path)["coloured"]
    assert list(values) == ["erm", "irm_v1", "irm_v1, chosen by the test domain", "vrex", "domain_mixup"]
    for numbers in values.values():
        own = [numbers[f"accuracy without {domain}"][0] for domain in (0, 2)]
        assert numbers["mean_accuracy"] == pytest.approx([sum(own) / 2]) and numbers["worst_accuracy"] == [min(own)]
    oracle = values["irm_v1, chosen by the test domain"]
    assert oracle["mean_accuracy"][0] >= values["irm_v1"]["mean_accuracy"][0]
    assert oracle["val_accuracy"][0] <= values["irm_v1"]["val_accuracy"][0]
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["values"] == {"coloured": values}
    assert content["chosen"]["coloured"]["erm"] == {"0": None, "2": None}
    assert set(content["chosen"]["coloured"]["irm_v1"].values()) <= {1.0, 100.0}
    page = (tmp_path / "report" / "report.md").read_text()
    assert "## coloured" in page and "| without 90 % disagree |" in page and "| domain_mixup |" in page
    assert (tmp_path / "report" / "domains.png").exists()


def test_every_objective_takes_a_step_and_a_switch_restarts_the_optimizer():
    config = composed(*SHORT, "domains.beds.coloured.left_out=[2]")
    rehearse(config)
    experiment = LeftOutDomains(config)
    bed = experiment.beds()["coloured"]
    trainings = {job: experiment.training("coloured", bed, job) for job in experiment.jobs(bed)}
    assert len(trainings) == 7 + 2 * 3
    for job, training in trainings.items():
        assert training.module.num_domains == training.data.num_domains == 2 and training.data.test_domain == 2
        restarts = [callback.at for callback in (training.callbacks or {}).values()]
        assert restarts == {"irm_v1": [0.4], "vrex": [0.4], "fishr": [0.3]}.get(job.objective, [])
        if job.objective == "irm_v1":
            assert training.module.objective.terms.irm_v1.weight.after == job.value
    differences = [one for claim in experiment.claims(bed)[0] for one in claim.differences]
    assert differences and {one.metric for one in differences} <= set(DOMAIN_METRICS)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("domains.seeds=[]", "domains: no beds, objectives or seeds came; give at least one of each."),
        ("domains.seeds=[0,0]", "domains: seeds=[0, 0] came; give each once."),
        (
            "domains.beds.coloured.tuned.irm_v1={terms.irm_v1.weight.after: []}",
            "weight.after': []} came; give one parameter",
        ),
        (
            "+domains.beds.coloured.tuned.irm_v1={terms.irm_v1.weight.at: [0.5]}",
            "'terms.irm_v1.weight.at': [0.5]} came; give",
        ),
        ("domains.beds.coloured.left_out=[3]", "domains: left_out=3 came for 3 domains; give 0 to 2."),
        ("+domains.beds.coloured.tuned.irm={terms.irm.weight: [1]}", "domains: irm is tuned, and not among"),
        ("domains.beds.coloured.claims.0.differences.0.run=irm", "claims: there is no run 'irm'"),
    ],
    ids=["seeds", "seed twice", "no value", "two parameters", "domain", "tuned", "claim"],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(override, told):
    with pytest.raises(ConfigError) as caught:
        rehearse(composed(*SHORT, override))
    assert told in str(caught.value)


def test_a_tuned_parameter_may_be_a_word():
    name = "domains.beds.coloured.tuned.irm_v1"
    config = composed(*SHORT, *FEWER, f"~{name}", f"+{name}={{terms.irm_v1.loss.estimator: [full, split]}}")
    experiment = LeftOutDomains(config)
    bed = experiment.beds()["coloured"]
    jobs = [job for job in experiment.jobs(bed) if (job.objective, job.left_out) == ("irm_v1", 0)]
    names = [experiment.training("coloured", bed, job).name for job in jobs]
    assert names == [f"coloured-without-0-irm_v1-{word}-0" for word in ("full", "split")]
