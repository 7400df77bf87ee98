"""The next token of a language model: generation, and logits processors that transformers' generate takes too."""

from lightning_losses.decoding.generate import Generated as Generated
from lightning_losses.decoding.generate import generate as generate
