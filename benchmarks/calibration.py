"""Time and memory of calibration against netcal, torchmetrics and scikit-learn, as ratios in one run.

    python benchmarks/calibration.py --rows 1000000 --classes 100

Each measurement runs in a separate process with one thread, on the same float32 data. Time is processor time, so that
other load matters little, and the median of `--rounds`; memory is the increase of the peak by the call. netcal
and torchmetrics have no Dirichlet calibration: its peer is scikit-learn's logistic regression of the log-probabilities,
which is the same model without a penalty. `excess` is how far the fitted mean cross-entropy lies above the smallest of
the row. netcal is no dependency of this project: without it (pip install netcal) its cells are empty.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings

TASKS = {
    "ece": ("ours", "torchmetrics", "netcal"),
    "temperature": ("ours", "netcal"),
    "isotonic": ("ours", "netcal"),
    "dirichlet": ("ours", "sklearn"),
}


def data(rows, classes):
    import torch

    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(rows, classes, generator=generator)
    target = torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)[:, 0]
    return 2.5 * logits, target


def ours(task, logits, probabilities, target):
    from lightning_losses.calibrators import DirichletCalibration, IsotonicRegression, TemperatureScaling
    from lightning_losses.metrics import expected_calibration_error

    if task == "ece":
        return lambda: expected_calibration_error(probabilities, target, inputs="probabilities")
    kind = {
        "temperature": TemperatureScaling,
        "isotonic": IsotonicRegression,
        "dirichlet": lambda: DirichletCalibration(0.0, 0.0),
    }[task]
    calibrator = kind()
    return lambda: calibrator.fit(logits, target)


def torchmetrics(task, logits, probabilities, target):
    from torchmetrics.functional.classification import multiclass_calibration_error

    return lambda: multiclass_calibration_error(probabilities, target, probabilities.shape[-1], n_bins=15)


def netcal(task, logits, probabilities, target):
    from netcal.binning import IsotonicRegression
    from netcal.metrics import ECE
    from netcal.scaling import TemperatureScaling

    # In float32 its solver stops where it starts.
    x, y = probabilities.double().numpy(), target.numpy()
    if task == "ece":
        return lambda: ECE(15).measure(x, y)
    model = {"temperature": TemperatureScaling, "isotonic": IsotonicRegression}[task]()
    return lambda: model.fit(x, y)


def sklearn(task, logits, probabilities, target):
    from sklearn.linear_model import LogisticRegression

    # In float32, or at its default tolerance, it stops about 1e-3 above the optimum.
    x, y = probabilities.clamp(min=1e-12).log().double().numpy(), target.numpy()
    return lambda: LogisticRegression(C=float("inf"), tol=1e-7, max_iter=5000).fit(x, y)


def cross_entropy(result, task, who, logits, probabilities, target):
    """The mean cross-entropy after a fit, to see that the faster one has not stopped earlier."""
    import torch
    import torch.nn.functional as F

    if task == "temperature" and who == "netcal":
        calibrated = torch.as_tensor(result.transform(probabilities.double().numpy())).clamp(min=1e-30).log()
    elif who == "sklearn":
        calibrated = torch.as_tensor(result.predict_log_proba(probabilities.clamp(min=1e-12).log().double().numpy()))
    elif task in ("temperature", "dirichlet"):
        calibrated = result(logits)
    else:
        return None
    return F.cross_entropy(calibrated.double(), target).item()


def child(task, who, rows, classes):
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logits, target = data(rows, classes)
    probabilities = torch.softmax(logits, -1)
    call = globals()[who](task, logits, probabilities, target)
    with open("/proc/self/statm") as stream:
        before = int(stream.read().split()[1]) * resource.getpagesize()
    started = time.process_time()
    result = call()
    seconds = time.process_time() - started
    extra = max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, 0)
    loss = cross_entropy(result, task, who, logits, probabilities, target)
    print(json.dumps({"seconds": seconds, "megabytes": extra / 2**20, "loss": loss}))


def measure(task, who, options):
    if importlib.util.find_spec("lightning_losses" if who == "ours" else who) is None:
        return None
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    found = []
    for _ in range(options.rounds):
        run = subprocess.run(
            [
                sys.executable,
                __file__,
                "--child",
                task,
                who,
                "--rows",
                str(options.rows),
                "--classes",
                str(options.classes),
            ],
            capture_output=True,
            text=True,
            env=environment,
            timeout=options.timeout,
        )
        if run.returncode:
            return {"error": (run.stderr.strip().splitlines() or [f"signal {-run.returncode}"])[-1][:60]}
        found.append(json.loads(run.stdout.strip().splitlines()[-1]))
    return {
        "seconds": statistics.median(one["seconds"] for one in found),
        "megabytes": statistics.median(one["megabytes"] for one in found),
        "loss": found[0]["loss"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for one measurement")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child, options.rows, options.classes)
        return
    print(f"{options.rows} rows, {options.classes} classes; ratios are a peer's figure over ours")
    print(f"{'task':<12}{'who':<14}{'seconds':>9}{'MB':>8}{'time ratio':>12}{'memory ratio':>14}{'excess':>10}")
    for task in options.tasks:
        found = {}
        for who in TASKS[task]:
            try:
                found[who] = measure(task, who, options)
            except subprocess.TimeoutExpired:
                found[who] = {"error": f"more than {options.timeout:.0f} s"}
        mine = found["ours"]
        losses = [one["loss"] for one in found.values() if one and one.get("loss") is not None]
        for who, one in found.items():
            if one is None or "error" in one:
                print(f"{task:<12}{who:<14}{'not installed' if one is None else one['error']}", flush=True)
                continue
            excess = f"{one['loss'] - min(losses):.1e}" if one["loss"] is not None else ""
            print(
                f"{task:<12}{who:<14}{one['seconds']:>9.2f}{one['megabytes']:>8.0f}"
                f"{one['seconds'] / mine['seconds']:>12.1f}"
                f"{one['megabytes'] / max(mine['megabytes'], 1):>14.1f}{excess:>10}",
                flush=True,
            )


if __name__ == "__main__":
    main()
