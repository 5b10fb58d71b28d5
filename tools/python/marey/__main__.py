"""`python3 -m marey info|check|views FOLDER`, `python3 -m marey export-hdf5|export-nwb FOLDER OUT`; exit 1 where `check` finds a fault,
2 where there is nothing to read."""
import argparse
import sys

from .recording import NotFound, open
from .views import views


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m marey", description="Looks into a hub's or a session's folder.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, what in (("info", "streams and receipts of each session"), ("check", "hashes every file that the receipts speak of"),
                       ("views", "SQL that makes views for DuckDB")):
        verbs.add_parser(verb, help=what).add_argument("folder")
    for format, library in (("hdf5", "h5py"), ("nwb", "pynwb")):
        one = verbs.add_parser(f"export-{format}", help=f"what is published of a session as one {format.upper()} file; needs {library}")
        one.add_argument("folder")
        one.add_argument("out")
        one.add_argument("--session", help="which one, of a hub that has several")
    args = parser.parse_args()
    try:
        if args.verb == "views":
            print(views(args.folder), end="")
            return 0
        if args.verb in ("export-hdf5", "export-nwb"):
            if args.verb == "export-hdf5":
                from .hdf5 import export
            else:
                from .nwb import export
            for stream, rows in export(open(args.folder).session(args.session), args.out).items():
                print(f"{stream}: {rows} rows")
            return 0
        hub, wrong = open(args.folder), False
        for name in hub.sessions():
            session = hub.session(name)
            if session.is_live:
                print(f"{session}: not sealed yet")
                continue
            receipt = session.receipt()
            print(receipt)
            if args.verb == "check":
                found = receipt.check()
                print(found)
                wrong |= not found.ok
        return int(wrong)
    except (NotFound, ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
