"""Evaluates a teacher once on a data set and keeps its logits (all or the largest) and features in mapped files."""

import hashlib
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_losses.environment.atomic_files import refusals_of, write_text
from lightning_losses.environment.locks import locked
from lightning_losses.environment.private_folder import is_users
from lightning_losses.kernels.rows.teachers import TopKLogits
from lightning_losses.networks.calls import call, in_evaluation, logits_of
from lightning_losses.numerics.checks import check_count, check_temperature
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.teachers.feature_taps import FeatureTap
from lightning_losses.teachers.mapped_logits import FEATURES, MANIFEST, damaged_file, file_sum, manifest_sum
from lightning_losses.teachers.output_identity import OutputIdentity, tensor_bytes

_PROGRESS = "progress.json"


def cache_teacher(
    teacher: nn.Module,
    dataset: Dataset[Any],
    folder: str | Path,
    *,
    top_k: int | None = None,
    temperature: float = 1.0,
    layers: Sequence[str] = (),
    batch_size: int = 256,
    collate_fn: Callable[[Any], Mapping[str, Any]] | None = None,
    device: torch.device | str = "cpu",
    identity: str | None = None,
) -> Path:
    """Evaluate a teacher once on every sample of a data set, in order, and keep its logits and features in files.

    The cache's name is a hash of the teacher's weights, buffers, attributes and code, the data set's inputs, autocast,
    and the options. Installed packages count by their version. The hash takes one pass over the inputs. An existing
    cache is used again, and an interrupted one is continued, unless checksums show damage. A cache gets its name only
    when it is complete, with a checksum of each file. If several processes, of one run or of several users, ask for the
    same cache, one makes it and the others wait; on a file system without locks each makes it, and the first one stays.

    With `top_k` the k largest logits of each sample are kept. All others are replaced by one value that keeps their
    total probability m exact at `temperature`: at that temperature the probabilities of the k classes are exact, and
    those of the others add up to m. The gradient of KL at that temperature then differs per row from the live
    teacher's, summed over the classes, by at most ``2 m (1 - 1 / (C - k))`` times the temperature. Without `top_k` the
    gradients are those of the live teacher, up to rounding that depends on the batch size.

    Args:
        teacher: a network; it is in evaluation mode meanwhile.
        dataset: gives mappings with `inputs`, one per sample or, by `__getitems__`, one per batch. It must give the
            same inputs every time. For augmented inputs use `lightning_losses.data.seeded_views.SeededViews`, and train
            the student on it too.
        folder: the folder of all caches.
        top_k: number of logits to keep per sample; None keeps all.
        temperature: the temperature at which the probability of the other classes is exact, above 0; only with `top_k`.
        layers: names of the teacher's layers whose outputs are kept too.
        batch_size: batch size of the evaluation, at least 1.
        collate_fn: makes a batch of samples; torch's default if None.
        device: where the teacher is evaluated.
        identity: a text that stands for state of the teacher that can't be read, such as an object of a C library;
            change the text when that state changes. None refuses such teachers.

    Returns:
        The cache's folder, for `load_cached_teacher`.

    Raises:
        ValueError: options out of range; an empty data set, or one without "inputs"; a `top_k` above the number of
            classes; a teacher with state that can't be read, without `identity`, or whose output is not finite or has
            other rows than one for each sample.
        OSError: no disk space for the cache; checked before the teacher is evaluated.

    Example:
        >>> import tempfile
        >>> from lightning_losses.teachers import load_cached_teacher
        >>> teacher, data = nn.Linear(4, 3), [{"inputs": torch.randn(4)} for _ in range(5)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cached = load_cached_teacher(cache_teacher(teacher, data, folder))
        ...     bool(torch.allclose(cached(torch.tensor([3])), teacher(data[3]["inputs"])))
        True
    """
    check_count("cache_teacher", "batch_size", batch_size)
    check_temperature("cache_teacher", temperature)
    if top_k is not None:
        check_count("cache_teacher", "top_k", top_k)
    samples = len(dataset)  # type: ignore[arg-type]
    if samples == 0:
        raise ValueError("cache_teacher: the data set is empty; give at least one sample.")
    loader = _loader(dataset, range(samples), batch_size, collate_fn)
    with in_evaluation(teacher.to(device)):
        settings = {
            "samples": samples,
            "top_k": top_k,
            "temperature": temperature if top_k else None,
            "layers": list(layers),
        }
        home = Path(folder) / _digest(teacher, loader, settings, torch.device(device), identity)
        if not _is_whole(home):
            try:
                with locked(home.with_name(f".{home.name}.lock")) as alone:
                    # Another process may have made it meanwhile.
                    if not _is_whole(home):
                        _remove(home)
                        partial = home.with_suffix(".partial")
                        if not alone or (os.path.lexists(partial) and not is_users(partial)):
                            # Without a lock, never continue files that another process or user has begun.
                            partial = home.with_suffix(f".{secrets.token_hex(4)}.partial")
                        partial.mkdir(exist_ok=True)
                        _evaluate(teacher, dataset, partial, settings, batch_size, collate_fn, torch.device(device))
                        _publish(partial, home, settings)
            except PermissionError:
                # In another user's folder only that user can rename; they may have made it meanwhile.
                if not _is_whole(home):
                    raise
    return home


def _is_whole(home: Path) -> bool:
    return home.is_dir() and damaged_file(home) is None


def _remove(home: Path) -> None:
    if home.is_symlink() or home.is_file():
        home.unlink()
    else:
        shutil.rmtree(home, ignore_errors=True)


def _publish(partial: Path, home: Path, settings: dict[str, Any]) -> None:
    """Give a cache its checksums and its name; an existing cache of that name stays."""
    sums = {file.name: file_sum(file) for file in sorted(partial.glob("*.npy"))}
    manifest = {**settings, "files": sums}
    write_text(partial / MANIFEST, json.dumps({**manifest, "sha256": manifest_sum(manifest)}))
    (partial / _PROGRESS).unlink()
    try:
        os.replace(partial, home)
    except OSError:
        if not _is_whole(home):
            raise
        shutil.rmtree(partial)


@torch.no_grad()
def _evaluate(
    teacher: nn.Module,
    dataset: Dataset[Any],
    folder: Path,
    settings: dict[str, Any],
    batch_size: int,
    collate_fn: Callable[[Any], Mapping[str, Any]] | None,
    device: torch.device,
) -> None:
    samples, top_k, layers = settings["samples"], settings["top_k"], settings["layers"]
    progress = folder / _PROGRESS
    done, arrays, sums = _begun(folder)
    for batch in _loader(dataset, range(done, samples), batch_size, collate_fn):
        with FeatureTap(teacher, layers, copies=True) as tap:
            output = call(teacher, _move(batch["inputs"], device))
        logits = full_precision(logits_of("cache_teacher: the teacher", output)).cpu()
        outputs = {"logits": logits, **{layer: full_precision(tap.features[layer]).cpu() for layer in layers}}
        for name, values in outputs.items():
            # Of logits, -inf is a mask.
            sound = (values < torch.inf) if name == "logits" else values.isfinite()
            if not bool(sound.all()):
                row = int((~sound).flatten(1).any(dim=1).nonzero()[0])
                raise ValueError(
                    f"cache_teacher: the teacher's {name} of sample {done + row} hold NaN or inf, which no student can "
                    "learn from; mend the teacher or the sample."
                )
        if top_k is not None and top_k > logits.shape[-1]:
            raise ValueError(f"cache_teacher: top_k={top_k} came for a teacher of {logits.shape[-1]} classes.")
        kept = {"logits": logits} if top_k is None else _named(TopKLogits.of(logits, top_k, settings["temperature"]))
        kept.update({f"{FEATURES}{layer}": outputs[layer] for layer in layers})
        if not arrays:
            kept["num_classes"] = torch.tensor([logits.shape[-1]])
            arrays = _begin(folder, kept, samples)
            arrays["num_classes"][:] = logits.shape[-1]
            sums["num_classes"] = zlib.crc32(arrays["num_classes"].data)
            del kept["num_classes"]
        rows = min(batch_size, samples - done)
        for name, values in kept.items():
            # A missing row would stay 0, and one too many, or one value for several, be spread over others.
            if values.shape != (rows, *arrays[name].shape[1:]):
                raise ValueError(
                    f"cache_teacher: {name} of shape {list(values.shape)} came for the {rows} samples from {done} on; "
                    f"give each one row of shape {list(arrays[name].shape[1:])}, by a collate_fn that neither drops "
                    "nor repeats samples."
                )
            arrays[name][done : done + rows] = values.numpy()
            sums[name] = zlib.crc32(values.contiguous().numpy().data, sums.get(name, 0))
        for array in arrays.values():
            array.flush()  # type: ignore[attr-defined]
        # Only samples in the files count as done.
        done += rows
        write_text(progress, json.dumps({"done": done, "sums": sums}))


def _begin(folder: Path, kept: Mapping[str, Tensor], samples: int) -> dict[str, NDArray[Any]]:
    """Create a cache's files with all their disk space reserved; without enough space nothing is left behind."""
    try:
        with refusals_of(folder):
            for name in kept:
                # New files, so that an existing link is not followed.
                (folder / f"{name}.npy").unlink(missing_ok=True)
            arrays: dict[str, NDArray[Any]] = {
                name: np.lib.format.open_memmap(
                    folder / f"{name}.npy",
                    mode="w+",
                    dtype=values.numpy().dtype,
                    shape=(samples if name != "num_classes" else 1, *values.shape[1:]),
                )
                for name, values in kept.items()
            }
            for file in folder.glob("*.npy"):
                _take_space(file)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return arrays


def _begun(folder: Path) -> tuple[int, dict[str, NDArray[Any]], dict[str, int]]:
    """The number of samples in an interrupted cache, its files and their checksums; nothing if a checksum is wrong."""
    try:
        progress = json.loads((folder / _PROGRESS).read_text())
        done, sums = int(progress["done"]), dict(progress["sums"])
        if any(file.is_symlink() for file in folder.glob("*.npy")):
            raise ValueError("a file is a link")
        arrays: dict[str, NDArray[Any]] = {
            file.name.removesuffix(".npy"): np.lib.format.open_memmap(file, mode="r+") for file in folder.glob("*.npy")
        }
        if set(arrays) != set(sums):
            raise ValueError("files are missing")
        if any(zlib.crc32(arrays[name][:done].data) != crc for name, crc in sums.items()):
            raise ValueError("a file was changed")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Damaged: begin anew.
        return 0, {}, {}
    return done, arrays, sums


def _take_space(file: Path) -> None:
    # A full disk is an error now, not a crash when a page is written.
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)


def _named(top: TopKLogits) -> dict[str, Tensor]:
    assert top.rest is not None
    return {"value": top.values, "classes": top.classes.to(torch.int32), "rest": top.rest}


def _loader(
    dataset: Dataset[Any], positions: range, batch_size: int, collate_fn: Callable[[Any], Mapping[str, Any]] | None
) -> DataLoader[Any]:
    # Whether or not the cache is there, a run's random numbers are the same.
    own, collate = torch.Generator(), collate_fn or _collate
    return DataLoader(dataset, batch_size=batch_size, sampler=positions, collate_fn=collate, generator=own)


def _collate(samples: Any) -> Any:
    # A data set may return a whole batch for a list of positions.
    return samples if isinstance(samples, Mapping) else default_collate(samples)


def _digest(
    teacher: nn.Module, loader: DataLoader[Any], settings: dict[str, Any], device: torch.device, identity: str | None
) -> str:
    kind = device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    known = OutputIdentity("cache_teacher", identity)
    known.add("the settings", [json.dumps(settings, sort_keys=True), autocast, torch.get_float32_matmul_precision()])
    known.add("teacher", teacher)
    digest = hashlib.sha256(known.hexdigest().encode())
    for number, batch in enumerate(loader):
        if not isinstance(batch, Mapping) or "inputs" not in batch:
            came = sorted(map(str, batch)) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
            raise ValueError(f"cache_teacher: the data set gave {came}; give mappings that have 'inputs'.")
        inputs = batch["inputs"] if isinstance(batch["inputs"], Mapping) else {"": batch["inputs"]}
        for name, tensor in inputs.items():
            # Only once, so that the batch size doesn't matter.
            if number == 0:
                digest.update(f"{name} {list(tensor.shape[1:])} {tensor.dtype}".encode())
            digest.update(tensor_bytes(tensor))
    return digest.hexdigest()[:32]


def _move(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Mapping):
        return {name: value.to(device) for name, value in inputs.items()}
    return inputs.to(device)
