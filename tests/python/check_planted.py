"""A recording into which losses were planted: every row of CSV but those of GAPS ([[first, last], ...]) is in the Parquet of
PARQUET, under its number and to the bit, and no other is."""
import json
import sys

import numpy as np
import pandas as pd

csv, parquet, gaps = pd.read_csv(sys.argv[1]), pd.read_parquet(sys.argv[2]), json.loads(sys.argv[3])
# Two boots whose clocks nothing ties together may lie across each other.
parquet = parquet.sort_values("seq")
lost = {number for first, last in gaps for number in range(first, last + 1)}
wanted = [number for number in range(len(csv)) if number not in lost]
assert parquet["seq"].tolist() == wanted, set(parquet["seq"]) ^ set(wanted)
columns = [name for name in csv.columns if name not in ("timestamp", "label")]
assert np.array_equal(csv.loc[wanted, columns].to_numpy(), parquet[columns].to_numpy())
assert np.array_equal(csv.loc[wanted, "timestamp"].to_numpy() * 1_000_000, parquet["device_time_ns"].to_numpy())
