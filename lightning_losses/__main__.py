"""``python -m lightning_losses``: the command `lightning-losses`, where its script is not on the path."""

from lightning_losses.catalogue.command_line import main

if __name__ == "__main__":
    main("python -m lightning_losses")
