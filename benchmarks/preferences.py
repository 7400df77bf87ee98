"""DPO and SimPO of a language model's head, forward and backward, against all logits and Liger's chunked losses.

    python benchmarks/preferences.py --quick
    python benchmarks/preferences.py

Prints the median milliseconds of CPU time on one thread for value and gradients by hidden states and head, the ratio to
the same loss from all logits in the same round, and the megabytes that a step takes beyond its inputs and gradients, in
a fresh process each, with their ratio. DPO's reference has a head of its own, without gradient. "Liger" is its chunked
loss with chunks of one pair, as it comes, without and with torch.compile.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from measure import conditions, console, interleave, memory_in_fresh_process, peak_extra_bytes, ratios, show
from torch import Tensor

from lightning_losses.kernels.token_record import token_record
from lightning_losses.losses import DPO, SimPO

LOSSES = {"dpo": DPO(beta=0.1), "simpo": SimPO()}


class Operands(NamedTuple):
    """Hidden states of 2 B completions, chosen first, and the heads."""

    hidden: Tensor
    weight: Tensor
    target: Tensor
    ref_hidden: Tensor
    ref_weight: Tensor


def operands(pairs: int, tokens: int, width: int, vocabulary: int) -> Operands:
    """Random ones of the size of a trained model's."""
    torch.manual_seed(0)
    hidden, ref_hidden = torch.randn(2 * pairs, tokens, width), torch.randn(2 * pairs, tokens, width)
    weight = torch.randn(vocabulary, width) / width**0.5
    target = torch.randint(vocabulary, (2 * pairs, tokens))
    target[:, : tokens // 4] = -100
    return Operands(hidden.requires_grad_(), weight.requires_grad_(), target, ref_hidden, weight.detach().clone())


def of_logps(loss: str, logps: Tensor, reference: Tensor | None, kept: Tensor) -> Tensor:
    """The loss from each token's log-probability."""
    chosen, rejected = logps.chunk(2)
    masks = dict(zip(("chosen_mask", "rejected_mask"), kept.chunk(2), strict=True))
    references = {}
    if reference is not None:
        references = dict(zip(("ref_chosen_logps", "ref_rejected_logps"), reference.chunk(2), strict=True))
    value: Tensor = LOSSES[loss](chosen_logps=chosen, rejected_logps=rejected, **masks, **references)
    return value


def fused(loss: str, given: Operands) -> Tensor:
    """Through the record of tokens."""
    reference = None
    if loss == "dpo":
        with torch.no_grad():
            reference = token_record(given.ref_hidden, given.ref_weight, given.target).logps
    record = token_record(given.hidden, given.weight, given.target)
    return of_logps(loss, record.logps, reference, record.kept)


def all_logits(loss: str, given: Operands) -> Tensor:
    """From logits of all tokens."""
    kept = given.target != -100

    def logps(hidden: Tensor, weight: Tensor) -> Tensor:
        log_p = (hidden @ weight.T).log_softmax(dim=-1)
        return log_p.gather(-1, given.target.clamp(min=0).unsqueeze(-1)).squeeze(-1)

    reference = None
    if loss == "dpo":
        with torch.no_grad():
            reference = logps(given.ref_hidden, given.ref_weight)
    return of_logps(loss, logps(given.hidden, given.weight), reference, kept)


def liger(compiled: bool) -> Callable[[str, Operands], Tensor]:
    """Liger's chunked loss."""
    from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss, LigerFusedLinearSimPOLoss

    losses: dict[str, Any] = {
        "dpo": LigerFusedLinearDPOLoss(beta=0.1, compiled=compiled),
        "simpo": LigerFusedLinearSimPOLoss(
            beta=LOSSES["simpo"].beta, gamma=LOSSES["simpo"].gamma, compiled=compiled, compute_nll_loss=False
        ),
    }

    def run(loss: str, given: Operands) -> Tensor:
        references = {"ref_input": given.ref_hidden, "ref_weight": given.ref_weight} if loss == "dpo" else {}
        value: Tensor = losses[loss](given.weight, given.hidden, given.target, **references)[0]
        return value

    return run


VARIANTS: dict[str, Callable[[], Callable[[str, Operands], Tensor]]] = {
    "fused": lambda: fused,
    "all logits": lambda: all_logits,
    "Liger": lambda: liger(compiled=False),
    "Liger compiled": lambda: liger(compiled=True),
}


def step_of(run: Callable[[str, Operands], Tensor], loss: str, given: Operands) -> Callable[[], None]:
    """Value and gradients."""

    def step() -> None:
        given.hidden.grad = given.weight.grad = None
        run(loss, given).backward()  # type: ignore[no-untyped-call]

    return step


def print_memory(variant: str, loss: str, sizes: list[int]) -> None:
    """Megabytes of one step, for the process that asks."""
    torch.set_num_threads(1)
    run = VARIANTS[variant]()
    # What a first step loads is no memory of the loss.
    step_of(run, loss, operands(1, 8, sizes[2], 64))()
    given = operands(*sizes)
    print(json.dumps(peak_extra_bytes(step_of(run, loss, given), [given.hidden, given.weight]) / 2**20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs=4, default=[8, 128, 512, 32768], metavar=("B", "T", "D", "V"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--without-compile", action="store_true", help="leave out Liger's compiled loss")
    parser.add_argument("--memory", nargs=2, metavar=("VARIANT", "LOSS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = [2, 16, 32, 512] if arguments.quick else arguments.sizes
    if arguments.memory:
        print_memory(*arguments.memory, sizes)
        return
    names = [name for name in VARIANTS if not (arguments.without_compile and "compiled" in name)]
    given, rows = operands(*sizes), []
    for loss in LOSSES:
        runs = {name: VARIANTS[name]() for name in names}
        values = {name: run(loss, given).item() for name, run in runs.items()}
        assert all(
            abs(value - values["all logits"]) <= 1e-3 * abs(values["all logits"]) for value in values.values()
        ), values
        times = interleave({name: step_of(run, loss, given) for name, run in runs.items()}, arguments.rounds, 1, loss)
        to_logits = ratios(times, "all logits")
        memory = {name: memory_in_fresh_process(__file__, "--sizes", *sizes, "--memory", name, loss) for name in names}
        for name in names:
            megabytes, whole = memory[name], memory["all logits"]
            rows.append(
                [
                    loss,
                    name,
                    f"{1e3 * statistics.median(times[name]):.0f}",
                    str(to_logits[name]),
                    "–" if megabytes is None else f"{megabytes:.0f}",
                    "–" if megabytes is None or not whole else f"{100 * megabytes / whole:.1f} %",
                ]
            )
    title = "B={} pairs, T={} tokens, D={}, V={}".format(*sizes)
    show(title, ["loss", "variant", "ms", "of all logits", "MB", "of all logits"], rows)
    console.print(conditions())


if __name__ == "__main__":
    main()
