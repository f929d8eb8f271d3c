"""The job side: leases, micro-batches, crashes, drains."""

from __future__ import annotations
