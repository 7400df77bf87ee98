"""Small networks that are attacked, and the state that an attack must leave."""

import random

import torch
from torch import nn


def batch(rows=12, classes=4, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(rows, 2, 6, 6, generator=generator, dtype=dtype)
    return inputs, torch.randint(classes, (rows,), generator=generator)


def convolutional(dtype=torch.float32, classes=4, seed=0):
    """With every part that has a state of its own or draws random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, classes)
        ).to(dtype)


def state(network):
    """Everything of a network, and of torch, that an attack must leave as it is."""
    return {
        "state": {name: value.clone() for name, value in network.state_dict().items()},
        "versions": [tensor._version for tensor in (*network.parameters(), *network.buffers())],
        "gradients": [None if p.grad is None else p.grad.clone() for p in network.parameters()],
        "requires": [p.requires_grad for p in network.parameters()],
        "modes": [(m.training, getattr(m, "track_running_stats", None)) for m in network.modules()],
        "random": (torch.get_rng_state(), random.getstate()),
        "grad mode": torch.is_grad_enabled(),
    }


def assert_same_state(before, after):
    assert before.keys() == after.keys()
    for name, value in before["state"].items():
        assert torch.equal(value, after["state"][name]), name
    for old, new in zip(before["gradients"], after["gradients"], strict=True):
        assert old is new is None or torch.equal(old, new)
    assert torch.equal(before["random"][0], after["random"][0]) and before["random"][1] == after["random"][1]
    for name in ("versions", "requires", "modes", "grad mode"):
        assert before[name] == after[name], name
