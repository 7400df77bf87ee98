"""The command line: `lightning-losses train ...`, `lightning-losses calibrate ...` and `lightning-losses list`."""

import argparse
import importlib
import json
import sys
from dataclasses import asdict


def main() -> None:
    """Run a sub-command; what follows `train` or `calibrate` goes to the recipe as it is."""
    parser = argparse.ArgumentParser(
        prog="lightning-losses", description="Training objectives beyond cross-entropy for PyTorch Lightning."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{train,calibrate,list}")
    commands.add_parser(
        "train",
        add_help=False,
        help="train, calibrate, evaluate, report; takes Hydra overrides, "
        "such as objective=kd data=digits; train --help lists them",
    )
    commands.add_parser(
        "calibrate",
        add_help=False,
        help="calibrate a checkpoint, or logits and targets in a file; takes Hydra overrides, "
        "such as logits=val.npz calibrator=vector; calibrate --help lists them",
    )
    listing = commands.add_parser("list", help="every loss: what it is and what it takes")
    listing.add_argument("--json", action="store_true", help="as JSON, for programs")
    arguments, rest = parser.parse_known_args()
    if arguments.command in ("train", "calibrate"):
        _recipe(arguments.command, rest)
    elif rest:
        parser.error(f"list takes no {' '.join(rest)}")
    else:
        _list(as_json=arguments.json)


def _recipe(name: str, overrides: list[str]) -> None:
    sys.argv = [f"lightning-losses {name}", *overrides]
    importlib.import_module(f"lightning_losses.recipes.{name}").main()


def _list(*, as_json: bool) -> None:
    from rich.console import Console

    from lightning_losses.catalogue import catalogue, catalogue_table

    entries = catalogue()
    if as_json:
        print(json.dumps([asdict(entry) for entry in entries], indent=1))
    else:
        # Where no terminal says how wide it is, a line has room for everything.
        Console(width=None if Console().is_terminal else 180).print(catalogue_table(entries))


if __name__ == "__main__":
    main()
