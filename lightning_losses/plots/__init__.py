"""Figures: curves and reliability diagrams in one style."""

from lightning_losses.environment.extras import require

require(__name__, "matplotlib")
