"""Models quantized weight-only by Intel Extension for PyTorch: an environment of its own runs them.

Tensors only, like worker.llm: no SQL, no Celery, no settings. See docs/ipex.md.
"""
