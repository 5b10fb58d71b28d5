#!/usr/bin/env python3
"""Checks a hub's audit log: verify_audit.py HUB/audit. Prints the head; exits 1 at the first line that does not hold."""
import hashlib, json, pathlib, sys

seq, prev, torn = 0, None, []
for path in sorted(pathlib.Path(sys.argv[1]).glob("[0-9]*.jsonl")):
    data, at = path.read_bytes(), 0
    while at < len(data):
        end = data.find(b"\n", at) + 1
        line = data[at:end - 1] if end else b""
        body, digest = line[:-75], line[-75:]
        if digest != b',"hash":"%s"}' % hashlib.sha256(body).hexdigest().encode():
            rest = data[at:]
            torn.append({"file": path.name, "offset": at, "bytes": len(rest), "sha256": hashlib.sha256(rest).hexdigest()})
            break
        record = json.loads(line)
        told = record["details"].get("torn") if record["action"] == "audit.recovered" else None
        if record["seq"] != seq + 1 or (prev and record["prev"] != prev) or (told or []) != torn:
            sys.exit(f"{path}: offset {at}: record {record['seq']} does not follow record {seq}")
        seq, prev, at, torn = record["seq"], digest[9:73].decode(), end, []
if torn:
    sys.exit(f"{torn[0]['file']}: offset {torn[0]['offset']}: {torn[0]['bytes']} bytes are no record")
print(seq, prev)
