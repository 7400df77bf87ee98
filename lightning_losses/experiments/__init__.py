"""What a recipe is made of: train a network, keep it, evaluate it, and start from a command line."""

from lightning_losses.environment.extras import require

require(__name__, "hydra")
