"""How things are said: data on stdout, words and tables on stderr, numbers with their units."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from models.quantities import format_bytes as format_bytes
from models.quantities import format_seconds as format_seconds


def emit(text: str) -> None:
    """Write one line of data to stdout, at once: whoever reads may be waiting for it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def emit_json(value: object, *, indent: int | None = 2) -> None:
    """Write one JSON document to stdout."""
    emit(json.dumps(value, ensure_ascii=False, indent=indent))


def say(text: str) -> None:
    """Tell the reader something, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, stream: TextIO | None = None
) -> None:
    """A table without borders; on stdout unless told otherwise. Columns of numbers go right."""
    target = sys.stdout if stream is None else stream
    widths = [
        max(len(column), *(len(row[i]) for row in rows), 0) for i, column in enumerate(columns)
    ]
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    for row in (columns, *rows):
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, right, strict=True)
        ]
        target.write("  ".join(cells).rstrip() + "\n")
    target.flush()


def print_pairs(pairs: Sequence[tuple[str, str]], *, stream: TextIO | None = None) -> None:
    """Names and values below each other; on stdout unless told otherwise."""
    target = sys.stdout if stream is None else stream
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        target.write(f"{name.ljust(width)}  {value}".rstrip() + "\n")
    target.flush()


def format_time(unix_s: float | None) -> str:
    """Local time to the second, or `-`."""
    if unix_s is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))


def shorten(text: str, width: int) -> str:
    """The text on one line, cut with an ellipsis; what a terminal would obey is made visible."""
    words = " ".join(text.split())
    line = "".join(character if character.isprintable() else "�" for character in words)
    return line if len(line) <= width else line[: width - 1] + "…"


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).replace(",", "").isdigit() or cell == "-"
