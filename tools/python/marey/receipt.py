"""What a session's receipt says, and whether the files are still those that it speaks of.

SHA-256 ties receipt, manifest and Parquet together, and needs nothing but the standard library. The segments of logs have
BLAKE3 alone, which is checked where the package `blake3` is installed; their lengths always are.
"""
from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .recording import _said


@dataclass(frozen=True)
class Check:
    """What :meth:`Receipt.check` found: nothing is wrong if :attr:`problems` is empty."""

    receipt: Path
    files: int
    problems: list[str] = field(default_factory=list)
    #: What could not be checked, and why.
    skipped: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        head = f"{self.receipt.name}: {self.files} files checked, {len(self.problems)} problems"
        return "\n".join([head, *self.problems, *(f"not checked: {what}" for what in self.skipped)])


class Receipt:
    """A receipt. :attr:`said` is all of it; integers are strings there, as in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: dict[str, Any] = _said(path)
        self._says("complete", bool)
        self._says("streams", list)

    def _says(self, key: str, kind: type) -> Any:
        if not isinstance(self.said.get(key), kind):
            raise ValueError(f"{self.path} is no whole receipt: it says nothing of {key!r}; `marey verify` says what else is wrong")
        return self.said[key]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, and everything is known."""
        return self.said["complete"] is True

    @property
    def reasons(self) -> list[str]:
        """Why it is not complete."""
        return list(self.said.get("reasons", []))

    @property
    def sha256(self) -> str:
        """Of the file itself: what to deposit elsewhere, since the file does not bind whoever can rewrite it."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def streams(self) -> list[dict[str, Any]]:
        """A row for each stream: what was captured (None: the device never said), durable, in Parquet, missing."""
        counts = ("captured", "durable", "parquet", "missing", "after_stop")
        rows = []
        for stream in self.said["streams"]:
            known = {key: None if stream.get(key) is None else int(stream[key]) for key in counts}
            rows.append({"device": stream["device"], "stream": stream["stream"], **known,
                         "time_err_us_max": stream.get("time_err_us_max"), "complete": stream.get("complete"),
                         "gaps": stream.get("gaps", [])})
        return rows

    def check(self) -> Check:
        """Hashes every file that the receipt speaks of."""
        root, problems, skipped, files = self.path.parent, [], [], 1
        manifest_path = root / "manifest.json"
        found, known = _hash(manifest_path), self._says("manifest", dict).get("sha256", "")
        if found != known:
            newer = [p.name for p in root.glob("receipt-[0-9]*.json") if p.name > self.path.name]
            if newer:
                skipped.append(f"manifest and files: {max(newer)} speaks of what is published now")
            else:
                problems.append(f"{manifest_path}: {_what(found, known)}")
            return Check(self.path, files, problems, skipped)
        manifest = _said(manifest_path)
        parts = [part for stream in manifest["streams"] for part in stream["parts"]]
        for entry in [*parts, *manifest.get("tables", []), *manifest.get("earlier_maps", [])]:
            files += 1
            found = _hash(root / entry["path"])
            if found != entry["sha256"]:
                problems.append(f"{root / entry['path']}: {_what(found, entry['sha256'])}")
        if said := manifest.get("annotations"):
            files += 1
            path = root / "annotations.jsonl"
            found = _hash(path, int(said["bytes"]))  # what was said later stands behind
            if found != said["sha256"]:
                problems.append(f"{path}: {_what(found, said['sha256'])}")
        retired = (root / "retired.json").is_file() and not (root / "logs").is_dir()
        if retired:
            skipped.append("log segments: they were retired, once every sample of them stood in Parquet")
        for segment in (s for log in manifest["logs"] for s in log["segments"] if not retired):
            files += 1
            trouble = _segment(root / segment["path"], segment)
            if trouble:
                problems.append(f"{root / segment['path']}: {trouble}")
        if _blake3() is None and not retired:
            skipped.append("hashes of log segments, only their lengths: pip install blake3")
        listed = {part["path"] for part in parts}
        for path in sorted((root / "streams").rglob("*.parquet")):
            if path.relative_to(root).as_posix() not in listed:
                problems.append(f"{path}: nothing published it")
        return Check(self.path, files, problems, skipped)

    def __str__(self) -> str:
        lines = [f"session {self.said['session']}, generation {self.said['generation']}: "
                 + ("complete" if self.complete else "incomplete: " + "; ".join(self.reasons))]
        lines += ["{device}/{stream}: captured {captured}, durable {durable}, in Parquet {parquet}, missing {missing}"
                  .format(**{k: "unknown" if v is None else v for k, v in row.items()}) for row in self.streams()]
        return "\n".join(lines)


def _hash(path: Path, first: int | None = None) -> str | None:
    """SHA-256 of a file, or of its first bytes."""
    try:
        with path.open("rb") as file:
            if first is not None:
                return hashlib.sha256(file.read(first)).hexdigest()
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slow(file)
    except FileNotFoundError:
        return None


def _slow(file: Any) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _what(found: str | None, expected: str) -> str:
    return "it is gone" if found is None else f"its SHA-256 is {found}, and was {expected}: it was changed since"


def _blake3() -> Any:
    try:
        import blake3

        return blake3.blake3
    except ImportError:
        return None


def _segment(path: Path, said: dict[str, Any]) -> str | None:
    if not path.is_file():
        return "it is gone"
    bytes_, hasher = path.stat().st_size, _blake3()
    if cut := said.get("cut"):  # what stands behind it was perhaps never synced, and may go
        first = int(cut["bytes"])
        if bytes_ < first:
            return f"it has {bytes_} bytes, of which {first} count"
        with path.open("rb") as file:
            digest = hasher(file.read(first)).hexdigest() if hasher else cut["blake3"]
        changed = f"the BLAKE3 of its first {first} bytes is {digest}, and was {cut['blake3']}: it was changed since"
        return None if digest == cut["blake3"] else changed
    may_grow = said["blake3"] is None  # it was not sealed when it was published, or can't be read in full
    if bytes_ < int(said["bytes"]) or (bytes_ != int(said["bytes"]) and not may_grow):
        return f"it has {bytes_} bytes, and had {said['bytes']}"
    if hasher is None or may_grow:
        return None
    digest = hasher(path.read_bytes()).hexdigest()
    return None if digest == said["blake3"] else f"its BLAKE3 is {digest}, and was {said['blake3']}: it was changed since"
