"""What is aimed at, and whether a run reached it."""

from typing import Any, NamedTuple

from benchmarks.on_cuda.cross_entropy import ALONE, BY_ROW, COMPILED, OURS, PLAIN
from benchmarks.on_cuda.distillation import COMPILED_PEER, UNFUSED


class Aim(NamedTuple):
    """An entry's time or memory is at most `bound` times another's.

    Attributes:
        case: whose table it stands in.
        entry: which row.
        quantity: "ms" or "bytes".
        of: another entry of the case, "floor", or "chunk of 2048" for the bytes of that much logits.
        bound: the largest ratio that meets it.
    """

    case: str
    entry: str
    quantity: str
    of: str
    bound: float


LEAST = "ours, chunk=1024"


def _mean(size: str, of_plain: float, of_floor: float) -> list[Aim]:
    case = f"mean {size}"
    return [
        Aim(case, OURS, "ms", PLAIN, of_plain),
        Aim(case, OURS, "ms", COMPILED, 1.0),
        Aim(case, OURS, "ms", "floor", of_floor),
        Aim(case, OURS, "bytes", PLAIN, 0.10),
        Aim(case, LEAST, "ms", PLAIN, 0.85),
        Aim(case, LEAST, "bytes", PLAIN, 0.05),
        Aim(case, "ours, accum_dtype=float32", "ms", OURS, 1.15),
        Aim(f"per token {size}", 'ours, reduction="none"', "ms", PLAIN, 1.10),
        Aim(f"logsumexp {size}", "ours, return_lse=True", "ms", PLAIN, 1.10),
    ]


def _distillation(size: str) -> list[Aim]:
    bounds = {"KD": 0.55, "JSD": 0.30, "NKD": 0.45}
    return [
        *(Aim(f"{kind} {size}", OURS, "ms", UNFUSED, bound) for kind, bound in bounds.items()),
        # Two chunks of scores, and a twentieth of one in all for what stands beside them.
        *(Aim(f"{kind} {size}", "ours, chunk=2048", "bytes", "chunk of 2048", 2.05) for kind in bounds),
        Aim(f"JSD {size}", OURS, "ms", COMPILED_PEER, 0.75),
    ]


AIMS = [
    *_mean("large", 0.80, 1.17),
    *_mean("small", 0.70, 1.10),
    *(Aim(f"{kind} small", BY_ROW, "ms", ALONE, 1.05) for kind in ("focal", "gce")),
    *_distillation("large"),
    *_distillation("small"),
]


def ratio(case: dict[str, Any], entry: dict[str, Any], quantity: str, of: str) -> float | None:
    """An entry's time or memory over that of another, if both were measured."""
    if of == "floor":
        below = case["floor_ms"]
    elif of == "chunk of 2048":
        below = 2048 * case["size"]["vocabulary"] * case["itemsize"]
    else:
        below = next((other.get(quantity) for other in case["entries"] if other["name"] == of), None)
    above = entry.get(quantity)
    return None if above is None or not below else above / below


def verdicts(case: dict[str, Any], entry: dict[str, Any]) -> list[tuple[Aim, float | None]]:
    """The aims of a row, each with what was measured."""
    mine = [aim for aim in AIMS if (aim.case, aim.entry) == (case["name"], entry["name"])]
    return [(aim, ratio(case, entry, aim.quantity, aim.of)) for aim in mine]
