"""Options of XLA with which programs compile fast: the tests compile thousands of small ones and run each once."""

import jax

COMPILE_FAST = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):  # an unknown flag is fatal, and later versions do not know this one
    COMPILE_FAST += " --xla_cpu_use_fusion_emitters=false"
