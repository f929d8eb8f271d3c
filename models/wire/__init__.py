"""The shapes of files and answers on the wire: the OpenAI Batch API and plainer inputs."""

from __future__ import annotations
