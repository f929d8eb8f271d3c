"""The site for browsers: batches, requests and workers, rendered here, without a build step.

Reads and writes through the store and the endpoints of `api/routes`; must not know SQL.
"""

from __future__ import annotations
