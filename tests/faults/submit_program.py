"""Submits one batch to the database of a URL, perhaps not to the end."""

from __future__ import annotations

import argparse

from models.database import connect_database
from tests.faults.batches import plain, submit
from tests.faults.failpoints import Failpoint


def main() -> None:
    """Submit so many plain prompts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("n_requests", type=int)
    parser.add_argument("--failpoint", type=Failpoint.parse, required=True)
    arguments = parser.parse_args()
    arguments.failpoint.install()
    with connect_database(arguments.url) as database:
        submit(database, plain(arguments.n_requests))


if __name__ == "__main__":
    main()
