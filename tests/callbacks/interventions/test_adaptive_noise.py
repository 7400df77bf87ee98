"""The layers that get noise: by their ratios, by name, once; and the passes of a module with them."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_losses.callbacks.interventions.adaptive_noise import AdaptiveNoise
from lightning_losses.losses import CrossEntropy, NoiseFiT
from lightning_losses.modules.language_model import LanguageModel
from lightning_losses.networks.noise_injection import NoiseInjection
from lightning_losses.networks.transformer import Transformer
from lightning_losses.objective import Objective, Term

TOKENS = torch.randint(11, (4, 3, 9), generator=torch.Generator().manual_seed(1))
BATCHES = [{"inputs": row[:, :-1], "target": row[:, 1:]} for row in TOKENS]


def module():
    torch.manual_seed(0)
    network = Transformer(11, context_length=8, width=12, depth=3, heads=2)
    with torch.no_grad():
        # Blocks that add more and more have outputs of different sizes.
        for block, factor in zip(network.blocks, (1, 30, 1000), strict=True):
            block.perceptron_out.weight.mul_(factor)
    objective = Objective({"ce": Term(CrossEntropy(), 0.5), "noisefit": NoiseFiT()})
    return LanguageModel(network, objective, impl="chunked")


def fit(model, *callbacks, steps=2):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, callbacks=list(callbacks), enable_model_summary=False, **options
    )
    loader = DataLoader(BATCHES, batch_size=None)
    trainer.fit(model, loader, loader)
    return trainer


class Keep(L.Callback):
    """Keeps the module's noise while it trains."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.injection = pl_module.noise_injection


@pytest.mark.parametrize("ratio", ["largest", "smallest"])
def test_layers_are_chosen_by_their_ratio(ratio):
    model, callback = module(), AdaptiveNoise(number=1, ratio=ratio, draws=30)
    states, ratios = model.network.tokens(BATCHES[0]["inputs"]) + model.network.positions(torch.arange(8)), []
    for block in model.network.blocks:
        states = block(states)
        noise = torch.stack([NoiseInjection({}).noise(states, power=1).abs().mean() for _ in range(30)]).mean()
        ratios.append(float((states.abs().mean() / (noise + 1e-6)).detach()))
    best = ratios.index(max(ratios) if ratio == "largest" else min(ratios))
    fit(model, callback, steps=1)
    assert callback.chosen == [f"network.blocks.{best}"]


def test_chosen_layers_are_kept_and_forgotten_by_the_module():
    model, keep, callback = module(), Keep(), AdaptiveNoise(layers=["network.blocks.2"], noise_std=0.3)
    fit(model, callback, keep)
    assert list(keep.injection.layers) == ["network.blocks.2"] and keep.injection.noise_std == 0.3
    assert model.noise_injection is None
    other = AdaptiveNoise()
    other.load_state_dict(callback.state_dict())
    fit(module(), other, keep)
    assert list(keep.injection.layers) == ["network.blocks.2"]
    every = AdaptiveNoise(number=9)
    fit(module(), every)
    assert every.chosen == [f"network.blocks.{number}" for number in range(3)]
    every.number = 1
    fit(module(), every)
    assert len(every.chosen) == 1


def test_without_noise_the_term_is_0_and_with_it_above():
    values = {}
    for std in (0.0, 2.0):
        model = module()
        with torch.no_grad():
            model.network.tokens.weight.mul_(50)
        model.noise_injection = NoiseInjection({"b": model.network.blocks[0]}, noise_std=std)
        whole = model.training_step(BATCHES[0], 0)["loss"].item()
        likelihood = LanguageModel(model.network, Objective({"ce": Term(CrossEntropy(), 0.5)}))
        values[std] = whole - likelihood.training_step(BATCHES[0], 0)["loss"].item()
    assert abs(values[0.0]) < 1e-5 < 1e-3 < values[2.0]


def test_a_module_without_the_callback_says_so():
    with pytest.raises(ValueError, match=r"^LanguageModel: the objective takes noisy logits.*add the callback"):
        module().training_step(BATCHES[0], 0)


def test_what_does_not_fit_is_refused():
    with pytest.raises(
        ValueError, match=r"^adaptive_noise: \['network.blocks.7'\] came, but LanguageModel has no such"
    ):
        fit(module(), AdaptiveNoise(layers=["network.blocks.7"]))
    with pytest.raises(ValueError, match="^adaptive_noise: layers='network.blocks.1' came; give a list"):
        AdaptiveNoise(layers="network.blocks.1")
    with pytest.raises(ValueError, match="^adaptive_noise: gate=2.0 came"):
        AdaptiveNoise(gate=2.0)
