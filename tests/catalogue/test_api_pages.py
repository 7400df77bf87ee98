"""The generated pages of the API: the commands that they print, and what they say was measured."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lightning_losses.catalogue.losses import catalogue
from lightning_losses.catalogue.needs import NEEDS, NOT_MEASURED
from lightning_losses.experiments.config.check_overrides import check_overrides
from lightning_losses.experiments.config.settings import SETTINGS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def pages():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        yield importlib.import_module("api_pages").api()


def trial(page):
    """What a page of a loss says to try."""
    return "".join(re.findall(r"(?m)^\| try it \| (.*) \|$", page))


def measured(page):
    return page.partition("## Measured here\n")[2]


@pytest.mark.slow
def test_every_command_of_a_page_composes(pages):
    found = {
        command
        for page in pages.values()
        for command in re.findall(r"`(lightning-losses (?:train|compare) [^`]+)`", page)
    }
    # What the needs say is composed by their own test.
    found -= {answer.command for need in NEEDS for answer in need.answers}
    # One of those that differ in the objective alone: the test of every loss builds each objective.
    kinds = {re.sub(r"(objective=|\[ce,)\w+", r"\1", command): command for command in sorted(found)}
    assert len(found) > 150 and len(kinds) > 20
    for command in kinds.values():
        _, program, *overrides = shlex.split(command)
        assert check_overrides(program, overrides, SETTINGS[program]), command


def test_a_loss_is_tried_by_an_experiment_that_offers_its_inputs_or_in_a_module_of_ones_own(pages):
    compared = OmegaConf.load(DOCS.parent / "conf" / "compare.yaml")
    answered = {answer.method for need in NEEDS for answer in need.answers}
    for entry in catalogue():
        if not entry.configs or answered & {entry.id, *entry.configs}:
            continue
        said = trial(pages[f"api/losses/{entry.id}.md"])
        refused = [str(compared.refused.get(name, "")).strip() for name in entry.configs]
        if all(why and "its experiment is" not in why for why in refused):
            assert said == f"in a module of your own: {refused[0]}"
        elif said.startswith("`"):
            # The experiment of the comment that the file of the objective begins with.
            assert re.match(r"`lightning-losses train experiment=\w+ objective=\w+", said)
            (name,) = re.findall(r" objective=(\w+)", said)
            comment = (DOCS.parent / "conf" / "objective" / f"{name}.yaml").read_text().partition("\n")[0]
            assert re.findall(r"experiment=\w+", comment) == re.findall(r"experiment=\w+", said)
            assert set(compared.needs.get(name, "").split()) - {"callbacks=none"} <= set(said.strip("`").split())


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("kto", "`lightning-losses train experiment=preference objective=kto`"),
        # The command of the measured effect, with its settings.
        ("kd", "`lightning-losses train experiment=bed_a optimizer.lr=0.09 objective=kd "
               "objective.terms.kd.loss.temperature=32`"),
        ("adafocal", "`lightning-losses train experiment=classify objective=adafocal callbacks=adafocal`"),
        ("cosface", "`lightning-losses train experiment=classify objective=cosface model=margin_head`"),
        ("sae_auxk", "`lightning-losses train experiment=sparse_autoencoder objective=sae_auxk`"),
        ("pamc", "in a module of your own: it takes embeddings of nodes, their clusters and adjacency, which a module "
                 "of yours offers"),
    ],
)  # fmt: skip
def test_what_a_page_says_to_try(pages, loss, said):
    assert trial(pages[f"api/losses/{loss}.md"]) == said


@pytest.mark.parametrize(
    ("family", "first"),
    [
        ("preference", "lightning-losses train experiment=preference objective=dpo"),
        ("domains", "lightning-losses train experiment=left_out_domain objective=coral"),
        ("regression", "lightning-losses train experiment=regress objective=beta_nll"),
        ("mixture_of_experts", "LoadBalancing(top_k=2)(router_logits, attention_mask)"),
    ],
)
def test_what_is_first_in_a_family(pages, family, first):
    assert f"\nFirst: `{first}`, or the class in a loop of your own.\n" in pages[f"api/{family}_losses.md"]


def test_a_measured_effect_is_on_the_page_of_its_loss(pages):
    entries = catalogue()
    for answer in (answer for need in NEEDS for answer in need.answers):
        for entry in entries:
            if answer.method in (entry.id, *entry.configs) and answer.effect != NOT_MEASURED:
                said = measured(pages[f"api/losses/{entry.id}.md"])
                assert f"{answer.effect[1:]}](../../{answer.page})" in said and "Not measured" not in said


@pytest.mark.parametrize(
    ("loss", "line"),
    [
        ("kd", "[bed_b](../../results/bed_b.md) | KD at 4: accuracy, % |"),
        ("vicreg", "[contrastive](../../results/contrastive.md) | linear probe's accuracy, % |"),
        ("negative_cosine", "[contrastive](../../results/contrastive.md) | SimSiam: linear probe's accuracy, % |"),
        ("arcface", "[metric_learning](../../results/metric_learning.md) | digits: recall@1, % |"),
        ("two_hot", "[ordinal](../../results/ordinal.md) | noise of 2: RMSE |"),
    ],
)
def test_results_in_any_metric_are_on_the_page_of_their_loss(pages, loss, line):
    assert f"\n| {line}" in measured(pages[f"api/losses/{loss}.md"])


def test_what_others_are_compared_with_is_measured_too(pages):
    assert re.search(r"recall@1, % \| [\d.]+ ± [\d.]+ \| – \|", measured(pages["api/losses/triplet.md"]))


def test_a_heading_of_a_page_of_results_is_no_setting(pages):
    assert not [
        name for name, page in pages.items() if re.search(r"\| (?:Claims|Tuned to|Validation)\b", measured(page))
    ]


def test_what_is_not_measured_is_compared_with_cross_entropy_only_where_that_is_possible(pages):
    assert measured(pages["api/losses/ipo.md"]).strip() == "Not measured yet."
    said = measured(pages["api/losses/brier.md"])
    assert "`lightning-losses compare objectives=[ce,brier] seeds=5`" in said
