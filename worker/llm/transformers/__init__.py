"""Architectures of transformers on this project's weights, cache and engine."""
