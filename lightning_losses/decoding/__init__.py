"""The next token of a language model: generation, and logits processors that transformers' generate takes too."""

from lightning_losses.decoding.datastore import Datastore as Datastore
from lightning_losses.decoding.entropy_adaptive_decoding import EntropyAdaptiveDecoding as EntropyAdaptiveDecoding
from lightning_losses.decoding.generate import Generated as Generated
from lightning_losses.decoding.generate import generate as generate
from lightning_losses.decoding.knn_lm import KNNLM as KNNLM
from lightning_losses.decoding.knn_lm import record_datastore as record_datastore
from lightning_losses.decoding.mirostat import Mirostat as Mirostat
from lightning_losses.decoding.mirostat import MirostatV2 as MirostatV2
from lightning_losses.decoding.uscd import USCD as USCD
