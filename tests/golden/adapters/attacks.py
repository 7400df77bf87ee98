"""Attacks, and the losses that they climb."""

import torch

from lightning_losses.attacks import CWL2, FGSM, PGD, PMA
from lightning_losses.attacks.losses import dlr, logit_margin, probability_margin
from tests.golden.adapter import Params, gradients, leaf


def adversarial_attacks(inputs, params):
    def network(x):
        return x.flatten(1) @ inputs["W"] + inputs["bias"]

    with Params(params) as given:
        steps, radius = given.take("steps"), given.take("eps")
        attacks = {
            "fgsm": FGSM(epsilon=radius),
            "pgd_linf": PGD(epsilon=radius, step_size=given.take("alpha"), steps=steps, random_start="none"),
            "pgd_l2": PGD(
                epsilon=given.take("l2_eps"), step_size=given.take("l2_alpha"), steps=steps, norm="l2",
                random_start="none",
            ),
            "cw_l2": CWL2(
                c=given.take("cw_c"), kappa=float(given.take("cw_kappa")), steps=given.take("cw_steps"),
                learning_rate=given.take("cw_lr"),
                early_stop=given.choice("cw_early_stop", {"every steps//10 steps, if the summed cost rose": True}),
            ),
        }  # fmt: skip
    return {name: attack(network, inputs["x"], inputs["y"]) for name, attack in attacks.items()}


def margins(inputs, params):
    with Params(params):
        logits = leaf(inputs["logits"])
    values = {
        name: loss(logits, inputs["y"], torch.zeros(0))
        for name, loss in (("pm", probability_margin), ("margin", logit_margin), ("dlr", dlr))
    }
    derivatives = {f"grad_{name}": gradients(value.sum(), _=logits)["grad__"] for name, value in values.items()}
    sums = {"pm_sum": values["pm"].sum(), "margin_sum": values["margin"].sum(), "dlr": values["dlr"]}
    return {**sums, **derivatives}


class WithoutNoise(PMA):
    """Begins at the inputs."""

    def start(self, clean, generator):
        return clean


def pma(inputs, params):
    def network(x):
        return torch.tanh(x.flatten(1) @ inputs["W"]) @ inputs["V"]

    with Params(params) as given:
        start = given.choice("start", {"the images, without noise": WithoutNoise})
        attack = start(epsilon=given.take("eps"), steps=given.take("steps"))
    attacked = attack(network, inputs["x"], inputs["y"])
    fooled = network(attacked).argmax(dim=1) != inputs["y"]
    return {"attacked": torch.where(fooled.view(-1, 1, 1, 1), attacked, inputs["x"]), "fooled": fooled}


ADAPTERS = {
    "adversarial_attacks": adversarial_attacks,
    "probability_margin": margins,
    "probability_margin_attack": pma,
}
