import functools
import importlib.util
import os
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "tokenizers_by_family", Path(__file__).with_name("tokenizers_by_family.py")
)
assert spec is not None and spec.loader is not None
families = importlib.util.module_from_spec(spec)
spec.loader.exec_module(families)


@functools.cache
def _made(kind: str, family: str):
    return getattr(families, kind)[family]()


@pytest.fixture(params=list(families.CAUSAL))
def causal_tokenizer(request):
    return _made("CAUSAL", request.param)


@pytest.fixture(params=list(families.MASKED))
def masked_tokenizer(request):
    return _made("MASKED", request.param)


@pytest.fixture
def byte_level_tokenizer():
    return _made("CAUSAL", "byte-level with a start")


@pytest.fixture
def shared():
    """The folder with real data and models."""
    folder = Path(os.environ.get("ZOFT_SHARED", Path(__file__).parents[3] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent; set ZOFT_SHARED")
    return folder


@pytest.fixture
def wordpiece():
    return _made("CAUSAL", "WordPiece")
