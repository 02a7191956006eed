"""A process that keeps freed memory gets none from the system in its second pass."""

import json
import os
import platform
import subprocess
import sys

import pytest

from zoft.freed_memory import keep_freed_memory

PROGRAM = """
import json, resource, sys
import torch
from zoft.freed_memory import keep_freed_memory

kept = keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(1 << 18) for _ in range(64)]  # 1 MiB each
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(json.dumps([kept, [faults() for _ in range(3)]]))
"""
OWN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


def passes(**environment: str) -> tuple[bool, list[int]]:
    inherited = {name: value for name, value in os.environ.items() if name not in OWN}
    return json.loads(subprocess.check_output([sys.executable, "-c", PROGRAM], env=inherited | environment, text=True))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_the_second_pass_is_given_the_memory_of_the_first() -> None:
    kept, (first, *later) = passes()
    assert kept and first > 10_000 and max(later) < first / 4


@pytest.mark.parametrize("name", OWN)
def test_what_the_environment_says_stays(name: str) -> None:
    value = "glibc.malloc.trim_threshold=131072" if name == "GLIBC_TUNABLES" else "131072"
    assert not keep_freed_memory({name: value})
    assert not passes(**{name: value})[0]
