"""Compare with what is frozen, to the bit: python -m tests.frozen [LOSS ...].

`python -m tests.frozen write` freezes the losses that are not frozen yet; `write LOSS ...` freezes these anew.
"""

import argparse
import math
import sys

import torch

from tests.frozen.archive import Frozen, frozen_losses, read, write
from tests.frozen.outcomes import difference, outcome


def freeze(names: list[str]) -> int:
    from lightning_losses.losses import loss_classes
    from tests.frozen.cases import cases

    classes = {loss.__name__: loss for loss in loss_classes()}
    for name in names or sorted(classes.keys() - set(frozen_losses())):
        came = [Frozen(case, outcome(name, case)) for case in cases(classes[name])]
        if broken := [f for f in came if not f.outcome.get("refusal", "ValueError: ").startswith("ValueError: ")]:
            print(f"{name}, {broken[0].case.name}: {broken[0].outcome['refusal']}")
            return 1
        file = write(name, came)
        refused = sum("refusal" in frozen.outcome for frozen in came)
        print(f"{name}: {len(came)} cases, {refused} of them refusals, {file.stat().st_size / 1024:.0f} KiB")
    return 0


def compare(names: list[str]) -> int:
    differing = 0
    for name in names or frozen_losses():
        apart = {frozen.case.name: difference(outcome(name, frozen.case), frozen.outcome) for frozen in read(name)}
        worse = {case: number for case, number in apart.items() if number > 0}
        largest = max(apart.values())
        told = "of another kind" if math.isinf(largest) else f"{largest:.1e}"
        print(f"{name}: {len(apart)} cases, {len(apart) - len(worse)} equal to the bit, largest difference {told}")
        for case, number in sorted(worse.items(), key=lambda item: -item[1])[:3]:
            print(f"  {case}: {'of another kind' if math.isinf(number) else f'{number:.1e}'}")
        differing += len(worse)
    print(f"{differing} cases differ")
    return 1 if differing else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="LOSS", help="class names; `write` before them freezes")
    names = parser.parse_args().names
    torch.set_num_threads(1)
    return freeze(names[1:]) if names[:1] == ["write"] else compare(names)


if __name__ == "__main__":
    sys.exit(main())
