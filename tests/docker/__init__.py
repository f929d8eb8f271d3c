"""Tests of the container files, without a container engine: schema, linter, the very commands."""
