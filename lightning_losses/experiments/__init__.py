"""The parts of the recipes: training, keeping and evaluating networks, and starting from a command line."""

from lightning_losses.environment.extras import require

require(__name__, "hydra")
