"""What exports share: a file that is made aside, and the rows of a stream, one batch at a time.

Owns: that a file has its name only when it is whole and on the disk, and replaces nothing; that memory is bounded by a batch, however
long a recording is. Does not own: any format.
"""
from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .recording import NotFound

#: Rows of a batch, and of a chunk in the file, at most; wide rows come in smaller ones.
ROWS = 16384
#: Bytes of a chunk, about.
CHUNK_BYTES = 1 << 20
#: Bytes of the buffers of all columns, about.
COLUMNS_BYTES = 16 << 20


@contextmanager
def aside(to: Path) -> Iterator[str]:
    """A file that gets its name when the block ends well.

    Raises :class:`FileExistsError` if something stands there.
    """
    if to.exists() or to.is_symlink():
        raise FileExistsError(f"{to} is there already, and an export replaces nothing")
    if not to.parent.is_dir():
        raise NotFound(f"there is no folder {to.parent} to write {to.name} into")
    handle, name = tempfile.mkstemp(prefix=f".{to.name}-", suffix=to.suffix, dir=to.parent)
    os.close(handle)
    try:
        yield name
        _sync(Path(name))
        _publish(Path(name), to)
        _sync(to.parent)
    finally:
        Path(name).unlink(missing_ok=True)


def _publish(made: Path, to: Path) -> None:
    """Gives it its name, and the rights of any file that the person makes: a temporary one is for its owner alone."""
    rights = os.umask(0o077)
    os.umask(rights)
    made.chmod(0o666 & ~rights)
    try:
        os.link(made, to)
    except FileExistsError:
        raise FileExistsError(f"{to} is there already, and an export replaces nothing") from None
    except OSError:
        # Disks without links: there a look must do.
        if to.exists() or to.is_symlink():
            raise FileExistsError(f"{to} is there already, and an export replaces nothing") from None
        made.rename(to)


def batches(files: list[Path], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of all parts, which do not overlap and follow each other."""
    for path in files:
        # Without these pyarrow keeps the whole file once it was read.
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=_share(len(columns)))
        total, rows = 0, max(1, file.metadata.num_rows)
        for at in range(file.metadata.num_row_groups):
            total += file.metadata.row_group(at).total_byte_size
        width = max(total // rows, sum(_width(f.type) for f in file.schema_arrow))
        most = min(ROWS, max(1, 8 * CHUNK_BYTES // max(1, width)))
        for group in range(file.num_row_groups):
            yield from file.iter_batches(batch_size=1 << (most.bit_length() - 1), row_groups=[group], columns=columns)


def _share(columns: int) -> int:
    """Bytes of a buffer that each column has one of."""
    return min(CHUNK_BYTES, max(COLUMNS_BYTES // max(1, columns), 1 << 14))


def _width(kind: pa.DataType) -> int:
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * _width(kind.value_type)
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:
        return 8


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
