"""The device logs of a session, read by `format-spec/reference/read_log.py`, in the terms of Arrow."""
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import pyarrow as pa

from mismatch import require

READ_LOG = Path(__file__).resolve().parents[2] / "format-spec" / "reference" / "read_log.py"
SCALARS = {"i8": pa.int8(), "i16": pa.int16(), "i32": pa.int32(), "i64": pa.int64(), "u8": pa.uint8(),
           "u16": pa.uint16(), "u32": pa.uint32(), "u64": pa.uint64(), "f32": pa.float32(), "f64": pa.float64(),
           "bool": pa.bool_(), "utf8": pa.string(), "binary": pa.binary()}


class Declared(NamedTuple):
    """A field as the device declared it."""
    name: str
    kind: pa.DataType
    unit: Optional[str]


class Logs(NamedTuple):
    """By (device, NAME@N): the declared fields, and the samples that count."""
    declared: Dict[Tuple[str, str], List[Declared]]
    samples: Dict[Tuple[str, str], List[Dict[str, Any]]]
    quarantined: int


def read_logs(session: Path, manifest: Dict[str, Any]) -> Logs:
    """The logs as far as they went into this generation."""
    reader = load_read_log()
    logs = Logs({}, {}, 0)
    for fact in manifest["logs"]:
        device = fact["device"]
        for segment in fact["segments"]:
            size = (session / segment["path"]).stat().st_size
            require(segment["blake3"] is None or size == int(segment["bytes"]), "%s has %d bytes, the manifest says %s",
                    segment["path"], size, segment["bytes"])
        log = reader.Log({int(path.stem): path for path in (session / "logs" / device).glob("*.mlog")})
        require(not any(f["fault"] == "damage" for f in log.faults), "the log of %s is damaged: %s", device, log.faults)
        compacted = (int(fact["compacted"]["segment"]), int(fact["compacted"]["offset"]))
        for key, frame in list(log.frames.items()):
            if (frame.segment, frame.offset) >= compacted:
                del log.frames[key]         # came after this generation was made
            elif frame.kind == reader.ASSIGN:
                assign = json.loads(frame.payload)
                name = "%s@%d" % (assign["declaration"]["name"], assign["version"])
                logs.declared[device, name] = [declared(field) for field in assign["declaration"]["fields"]]
        for sample in log.samples():
            logs.samples.setdefault((device, sample["stream"]), []).append(sample)
        quarantined = sum(fault["fault"] == "quarantined" for fault in log.faults)
        logs = logs._replace(quarantined=logs.quarantined + quarantined)
    return logs


def load_read_log() -> ModuleType:
    spec = importlib.util.spec_from_file_location("read_log", READ_LOG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def declared(field: Dict[str, Any]) -> Declared:
    kind, length = SCALARS[field["type"]], field.get("length")
    return Declared(field["name"], pa.list_(kind, int(length)) if length else kind, field.get("unit"))


def cells_of_arrow(column: pa.ChunkedArray) -> List[Any]:
    """Cells that compare as bits, but all NaN alike: the log's reader writes no NaN's payload."""
    return [bits(column.type, cell) for cell in column.to_pylist()]


def cells_of_log(kind: pa.DataType, values: List[Any]) -> List[Any]:
    return [bits(kind, parsed(kind, value)) for value in values]


def parsed(kind: pa.DataType, value: Any) -> Any:
    if pa.types.is_fixed_size_list(kind):
        return [parsed(kind.value_type, element) for element in value]
    if pa.types.is_floating(kind):
        return float.fromhex(value)
    return bytes.fromhex(value) if pa.types.is_binary(kind) else value


def bits(kind: pa.DataType, cell: Any) -> Any:
    if pa.types.is_fixed_size_list(kind):
        return [bits(kind.value_type, element) for element in cell]
    return cell.hex() if pa.types.is_floating(kind) else cell
