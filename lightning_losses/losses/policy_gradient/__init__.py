"""Objectives of policy gradients: sampled completions become likelier the better they were."""
