"""Reads the file that an offline run of Weights & Biases leaves: what `wandb sync` would send."""

import contextlib
import json
import struct
import time
from pathlib import Path

from google.protobuf.message import DecodeError
from wandb.proto.wandb_internal_pb2 import Record

# LevelDB's log: blocks of records, each with a checksum, a length, and whether it is whole or first, middle, last.
_BLOCK, _HEADER = 32768, 7
_WHOLE, _LAST = 1, 4


def records(folder: Path) -> list[Record]:
    """The records of the run in a folder that holds ``wandb/``.

    W&B's own process may still be writing when the run has ended: its last record is waited for.
    """
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(DecodeError):
            found = _read(path.read_bytes())
            if any(record.WhichOneof("record_type") == "exit" for record in found):
                return found
        time.sleep(0.05)
    raise AssertionError(f"{path.name} never got its last record")


def _read(data: bytes) -> list[Record]:
    # The file's own header takes the place of a record's.
    place, parts, found = _HEADER, b"", []
    while place + _HEADER <= len(data):
        if _BLOCK - place % _BLOCK < _HEADER:
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + _HEADER])
        parts += data[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        if kind in (_WHOLE, _LAST):
            record = Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def settings(found: list[Record]) -> dict:
    """The configuration that was logged."""
    updates = [item for record in found for item in record.config.update]
    updates += [item for record in found for item in record.run.config.update]
    return {item.key: json.loads(item.value_json) for item in updates if item.key}


def axes(found: list[Record]) -> dict[str, tuple[str, set[str]]]:
    """By a metric's name or pattern: its axis, and the summaries that it has."""
    defined = {}
    for record in found:
        if record.WhichOneof("record_type") == "metric":
            metric = record.metric
            summary = {name for name in ("min", "max", "last", "mean", "best") if getattr(metric.summary, name)}
            defined[metric.glob_name or metric.name] = (metric.step_metric, summary)
    return defined


def history(found: list[Record]) -> list[dict]:
    """The lines of the history."""
    return [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]


def artifacts(found: list[Record]) -> list:
    """The artifacts that were logged, each once."""
    asked = [record.request.log_artifact.artifact for record in found if record.request.HasField("log_artifact")]
    logged = asked + [record.artifact for record in found if record.HasField("artifact")]
    return list({artifact.client_id: artifact for artifact in logged}.values())
