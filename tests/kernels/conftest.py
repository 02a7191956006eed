"""The kernels run on a GPU, or in Triton's interpreter: a choice that must be made before Triton is imported."""

import os

import pytest
import torch


@pytest.fixture
def device() -> str:
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device; test_interpreter.py runs this in Triton's interpreter")
    return "cuda"
