"""Holds the tables of Parquet files in memory, and writes all of them to a folder for each line on standard input.

Called by the program `rivals`: write_table.py (pyarrow|duckdb) FOLDER FILE..."""

import os
import sys


def pyarrow_writers(folder, paths):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    for number, path in enumerate(paths):
        table = pq.read_table(path)
        group = pq.ParquetFile(path).metadata.row_group(0)
        dictionary, encodings = [], {}
        for column in map(group.column, range(group.num_columns)):
            name = column.path_in_schema
            if "RLE_DICTIONARY" in column.encodings:
                dictionary.append(name)
                continue
            for encoding in ("DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"):
                if encoding in column.encodings:
                    encodings[name] = encoding
        target = os.path.join(folder, f"{number}.parquet")

        def write(table=table, target=target, dictionary=dictionary, encodings=encodings):
            pq.write_table(
                table,
                target,
                compression="zstd",
                compression_level=1,
                use_dictionary=dictionary,
                column_encoding=encodings,
            )
            return target

        yield write


def duckdb_writers(folder, paths):
    import duckdb
    import pyarrow.parquet as pq

    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    for number, path in enumerate(paths):
        connection.register(f"arrow_{number}", pq.read_table(path))
        connection.execute(f"CREATE TABLE t{number} AS SELECT * FROM arrow_{number}")
        target = os.path.join(folder, f"{number}.parquet")
        copy = f"COPY t{number} TO '{target}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"

        def write(copy=copy, target=target):
            connection.execute(copy)
            return target

        yield write


def main():
    which, folder, paths = sys.argv[1], sys.argv[2], sys.argv[3:]
    make = {"pyarrow": pyarrow_writers, "duckdb": duckdb_writers}[which]
    writers = list(make(folder, paths))
    print("ready", flush=True)
    for _ in sys.stdin:
        for write in writers:
            with open(write(), "rb+") as file:
                os.fsync(file.fileno())
        print("done", flush=True)


main()
