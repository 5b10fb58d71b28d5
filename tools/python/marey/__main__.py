"""`python3 -m marey info|check|views FOLDER`; exit 1 where `check` finds a fault, 2 where there is nothing to read."""
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
    args = parser.parse_args()
    try:
        if args.verb == "views":
            print(views(args.folder), end="")
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
    except (NotFound, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
