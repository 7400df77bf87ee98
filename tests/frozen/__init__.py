"""What every loss gave before the redesign: values, gradients and refusals, in float64, from inputs that are stored.

`python -m tests.frozen` compares to the bit. A loss is frozen anew only by its name, with the reason in the commit.
"""
