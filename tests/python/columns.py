"""The values of a column, whoever read it: how many rows, of which kind, and their bytes.

Two readers agree where these agree. Numbers are little-endian, lists their elements one after the other, a bool one
byte, texts and binaries their length (u32) and bytes. Nulls are refused: Marey writes none into these columns.
"""
import struct
from typing import Dict, Iterator, List, Tuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mismatch import require

Column = Tuple[int, str, bytes]     # rows, kind, values


def columns_of_arrow(table: pa.Table) -> Dict[str, Column]:
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
        require(column.null_count == 0, "%s has %d nulls", name, column.null_count)
        columns[name] = (len(column), *canonical(column))
    return columns


def canonical(column: pa.Array) -> Tuple[str, bytes]:
    kind = column.type
    if len(column) == 0:
        return "nothing", b""
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = set(pc.unique(pc.list_value_length(column)).to_pylist())
        element, values = canonical(column.flatten())
        return "%s%s" % (element, sorted(lengths)), values
    if pa.types.is_timestamp(kind):
        return "time in %s, %s" % (kind.unit, kind.tz), canonical(column.cast(pa.int64()))[1]
    if pa.types.is_boolean(kind):
        return "bool", canonical(column.cast(pa.uint8()))[1]
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return numbers(column.to_numpy(zero_copy_only=False))
    cells = column.cast(pa.large_binary()).to_pylist()
    return "binary" if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else "text", texts(cells)


def columns_of_pandas(frame: pd.DataFrame) -> Dict[str, Column]:
    return {name: (len(frame), *canonical_series(frame[name])) for name in frame.columns}


def canonical_series(series: pd.Series) -> Tuple[str, bytes]:
    """As `canonical`, from what pandas itself holds."""
    if len(series) == 0:
        return "nothing", b""
    if isinstance(series.dtype, pd.DatetimeTZDtype):
        values = series.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        return "time in %s, %s" % (series.dtype.unit, series.dtype.tz), numbers(values.view("i8"))[1]
    if series.dtype == bool:
        return "bool", series.to_numpy().tobytes()
    if series.dtype.kind in "iuf":
        return numbers(series.to_numpy())
    cells = series.tolist()
    if isinstance(cells[0], np.ndarray):
        element, values = numbers(np.concatenate(cells))
        return "%s%s" % (element, sorted({len(cell) for cell in cells})), values
    if isinstance(cells[0], str):
        return "text", texts([cell.encode() for cell in cells])
    return "binary", texts(cells)


def numbers(values: np.ndarray) -> Tuple[str, bytes]:
    return str(values.dtype), values.astype(values.dtype.newbyteorder("<")).tobytes()


def texts(cells: List[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(cell)) + cell for cell in cells)


def cells(column: pa.ChunkedArray) -> Iterator[bytes]:
    """The bytes of each cell."""
    array = pa.concat_arrays(column.chunks)
    if pa.types.is_string(array.type) or pa.types.is_binary(array.type):
        return (texts([cell]) for cell in array.cast(pa.binary()).to_pylist())
    _, values = canonical(array)
    width = len(values) // max(len(array), 1)
    return (values[at:at + width] for at in range(0, len(values), width or 1))
