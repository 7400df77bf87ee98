"""Figures in one style, such as curves and reliability diagrams."""

from lightning_losses.environment.extras import require

require(__name__, "matplotlib")
