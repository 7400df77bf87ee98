"""Somebody's project: data and a student, which know nothing of any configuration."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_losses import DistillationMixin


class Stripes(L.LightningDataModule):
    """Images of 16 x 16 pixels with one of three stripes, and noise."""

    def __init__(self, samples: int = 96, batch_size: int = 32):
        super().__init__()
        target = torch.arange(samples) % 3
        images = torch.randn(samples, 1, 16, 16)
        images[torch.arange(samples), 0, 5 * target] += 3.0
        self.samples, self.batch_size = TensorDataset(images, target), batch_size

    def train_dataloader(self):
        return DataLoader(self.samples, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.samples, batch_size=self.batch_size)


class Student(DistillationMixin, L.LightningModule):
    """A linear classifier that learns what its objective says, from its teacher."""

    def __init__(self, objective, teacher, optimizer):
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
        self.objective, self.teacher, self.optimizer = objective, teacher, optimizer

    def training_step(self, batch, batch_idx):
        images, target = batch
        return self.apply_objective(inputs=images, logits=self.network(images), target=target)

    def validation_step(self, batch, batch_idx):
        images, target = batch
        logits = self.network(images)
        self.log("val_acc", (logits.argmax(dim=-1) == target).float().mean())
        return {"logits": logits, "target": target}

    def configure_optimizers(self):
        return self.optimizer(self.parameters())
