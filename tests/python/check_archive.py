"""An archive of a session, opened with nothing of ours: `check_archive.py FORM PATH SAMPLES`. The environment has what anybody
installs (pyarrow, rocrate); all else is the standard library and what the archive itself has."""
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pandas as pd
from rocrate.rocrate import ROCrate

form, path, samples = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
with tempfile.TemporaryDirectory() as aside:
    root = Path(aside) / "crate"
    if form == "zip":
        with zipfile.ZipFile(path) as opened:
            assert opened.testzip() is None
            opened.extractall(root)
    elif form == "tar":
        with tarfile.open(path) as opened:
            names = opened.getnames()
            assert len({name.split("/")[0] for name in names}) == 1, "one folder, so that nothing is littered"
            opened.extractall(root, filter="data")
        (root,) = root.iterdir()
    else:
        root = path
    files = {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}

    # Every file has its hash but the list itself, and the hash is right.
    sums = dict(reversed(line.split("  ", 1)) for line in (root / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == files - {"SHA256SUMS"}, set(sums) ^ files
    for name, sha256 in sums.items():
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == sha256, name

    # The crate, as its own library reads it: every file of the session is described, and what is described is there.
    crate = ROCrate(root)
    described = {entity.id for entity in crate.data_entities}
    of_session = {name for name in files if name.startswith("session=")}
    assert files - {"ro-crate-metadata.json"} <= described, files - described
    for entity in crate.data_entities:
        assert (root / entity.id).exists(), entity.id
        size = entity.get("contentSize")
        assert size is None or int(size) == (root / entity.id).stat().st_size, entity.id
    about = crate.root_dataset
    assert all(about.get(key) for key in ("name", "description", "datePublished", "license", "temporalCoverage")), dict(about)
    graph = {entity["@id"]: entity for entity in json.loads((root / "ro-crate-metadata.json").read_text())["@graph"]}
    references = [part["@id"] for entity in graph.values() for part in entity.get("hasPart", [])]
    assert sorted(references) == sorted(set(references)), "each is part of one"
    conforming = [entity["conformsTo"]["@id"] for entity in graph.values() if entity.get("@type") == "File" and "conformsTo" in entity]
    assert all(reference in graph for reference in references + conforming)
    variables = {graph[it["@id"]]["name"] for it in graph["./"]["variableMeasured"]}

    # The line that its README.md has, and the channels that the metadata name.
    (session,) = (name for name in {Path(name).parts[0] for name in of_session})
    frame = pd.read_parquet(root / session / "streams")
    assert len(frame) == samples, len(frame)
    assert variables <= set(frame.columns), (variables, frame.columns)

    # The logs, with the reader that is in the archive, by a Python that has nothing but its standard library.
    reader = root / "specification/reference/read_log.py"
    called = [sys.executable, "-I", "-S", str(reader), str(root / session), "--samples"]
    ran = subprocess.run(called, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, (ran.stdout[-500:], ran.stderr)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert sum("values" in line for line in lines) == samples, lines[:3]
