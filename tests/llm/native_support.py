"""Whether this machine has the CPU that the compiled kernels are for."""

from __future__ import annotations

import pytest

from worker.llm.native.build import CPU_FEATURES, cpu_features

HAVE_CPU = cpu_features().issuperset(CPU_FEATURES)
needs_cpu = pytest.mark.skipif(not HAVE_CPU, reason="this CPU has no AVX512_BF16 or no VNNI")
