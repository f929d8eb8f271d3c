"""From prompts to token ids, for engines and for whoever counts tokens without one.

No torch, no transformers, no files.
"""

from __future__ import annotations
