"""Tests of models/wire: what is read from input files and written to output files."""

from __future__ import annotations
