"""The command line: `lightning-losses train`, `calibrate`, `compare`, `sweep`, `choose`, `list` and `new`."""

import argparse
import importlib
import json
import os
import sys
from dataclasses import asdict

from lightning_losses import __version__
from lightning_losses.environment.extras import advice

_RECIPES = {
    "train": "train, calibrate, evaluate, report; takes Hydra overrides, such as objective=kd data=digits; "
    "train --help lists them",
    "calibrate": "calibrate a checkpoint, or logits and targets in a file; takes Hydra overrides, such as "
    "logits=val.npz calibrator=vector; calibrate --help lists them",
    "compare": "train objectives with several seeds, and end in tables with intervals and tests, such as "
    "objectives=[ce,kd] seeds=5 data=digits; compare --help lists what there is",
    "sweep": "run a W&B sweep file without a server, such as conf/sweep/distill.yaml count=10; sweep --help says more",
}


def main(program: str = "lightning-losses") -> None:
    """Run a sub-command; the words after the name of a recipe go to the recipe unchanged.

    Args:
        program: what starts it, as a message tells a user to.
    """
    parser = argparse.ArgumentParser(
        prog=program, description="Training objectives beyond cross-entropy for PyTorch Lightning."
    )
    parser.add_argument("--version", action="version", version=f"lightning_losses {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar=f"{{{','.join(_RECIPES)},choose,list,new}}")
    for recipe, text in _RECIPES.items():
        commands.add_parser(recipe, add_help=False, help=text)
    choosing = commands.add_parser("choose", help="which method for which need, with its measured effect and command")
    choosing.add_argument(
        "need",
        nargs="*",
        help="such as noisy-labels or KD; without one, a terminal is asked, and else the needs listed",
    )
    listing = commands.add_parser("list", help="every loss: what it is and what it takes")
    listing.add_argument(
        "--family",
        help="only a family of losses, such as distillation, or those of others: wrapped, registered; or metrics, "
        "balancing, calibrators, callbacks, mixins, samplers, kernels in place of losses",
    )
    listing.add_argument("--needs", metavar="TENSOR", help="only losses that need it, such as teacher_logits")
    listing.add_argument("--json", action="store_true", help="as JSON, for programs")
    making = commands.add_parser("new", help="begin a method: its file, configuration and test, from a template")
    making.add_argument("family", help="distillation/logits, classification, ...")
    making.add_argument("id", help="the method's name in snake_case, such as foo_kd")
    arguments, rest = parser.parse_known_args()
    if rest and arguments.command not in _RECIPES:
        parser.error(f"{arguments.command} takes no {' '.join(rest)}")
    try:
        _run(program, arguments, rest)
    except ModuleNotFoundError as error:
        if not advice(error.name):
            raise
        parser.exit(2, f"Error: {program} {arguments.command}: {advice(error.name)}\n")


def _run(program: str, arguments: argparse.Namespace, rest: list[str]) -> None:
    if arguments.command in _RECIPES:
        recipe = importlib.import_module(f"lightning_losses.recipes.{arguments.command}")
        recipe.main(rest, f"{program} {arguments.command}")
        return
    try:
        if arguments.command == "new":
            from lightning_losses.catalogue.new_method import new_method

            print(*new_method(arguments.family, arguments.id), sep="\n")
        elif arguments.command == "choose":
            _choose(" ".join(arguments.need))
        else:
            _list(arguments.family, arguments.needs, as_json=arguments.json)
        # Here, where a refusal can still be told.
        sys.stdout.flush()
    except ValueError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # Who reads has enough, as `head` does; Python would write the rest once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        print(f"Error: {error.filename or 'the output'} can't be written: {error.strerror}.", file=sys.stderr)
        sys.exit(2)


def _choose(word: str) -> None:
    from rich.console import Console

    from lightning_losses.catalogue.needs import NEEDS, choose, need_text, needs_list

    if not word:
        print(needs_list())
        if not sys.stdin.isatty():
            print("lightning-losses choose noisy-labels tells what there is for one of them.")
            return
        try:
            word = input("Its number or name: ").strip()
        except (EOFError, KeyboardInterrupt):
            # Ctrl-D or Ctrl-C in place of an answer.
            print()
            sys.exit(130)
        if word.isdecimal() and 1 <= int(word) <= len(NEEDS):
            word = NEEDS[int(word) - 1].id
    Console(soft_wrap=True, highlight=False).print(need_text(choose(word)))


def _list(family: str | None, needs: str | None, *, as_json: bool) -> None:
    from rich.console import Console

    from lightning_losses.catalogue.losses import catalogue_table, families
    from lightning_losses.catalogue.other_losses import FAMILIES, every_loss
    from lightning_losses.catalogue.parts import PARTS, parts, parts_table

    choices = [*families(), *FAMILIES, *PARTS]
    if family not in (None, *choices):
        raise ValueError(f"list: --family {family} came; choose one of {', '.join(choices)}.")
    if family in PARTS and needs is not None:
        raise ValueError(f"list: --needs {needs} came with --family {family}; it asks what a loss takes.")
    found = parts(family) if family in PARTS else every_loss(family, needs)
    if not found:
        raise ValueError(f"list: --family {family} came with --needs {needs}, and none of that family needs it.")
    if as_json:
        print(json.dumps([asdict(entry) for entry in found], indent=1))
        return
    # Where no terminal says how wide it is, a line has room for everything.
    console = Console(width=None if Console().is_terminal else 200)
    console.print(parts_table(found) if family in PARTS else catalogue_table(found))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
