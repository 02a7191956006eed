"""The CPU backend: `backend.py` (the contract), `plan.py` (tables and work items), `kernel.py` (the compiled pass).

`threads.py` shares the items among torch's own threads.
"""

from zoft.backends.cpu.backend import CpuBackend

__all__ = ["CpuBackend"]
