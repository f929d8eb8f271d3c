"""The endpoints, a file per kind of object: each parses, calls the store and answers."""

from __future__ import annotations
