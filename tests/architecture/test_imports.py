"""What importing zoft costs, and what its front door offers."""

import subprocess
import sys

import pytest

import zoft

HEAVY = ("torch", "transformers", "triton", "numba", "datasets", "peft", "bitsandbytes", "matplotlib", "accelerate")


def loaded_by(statement: str) -> str:
    """What of HEAVY a fresh interpreter has loaded after `statement`, and whatever it printed."""
    script = f"{statement}\nimport sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize("statement", ["import zoft", "import zoft.cli", "import zoft.config", "import zoft.trainer"])
def test_an_import_is_light_and_silent(statement):
    assert loaded_by(statement) == "[]"


@pytest.mark.parametrize("name", sorted(zoft.EXPORTS))
def test_every_public_name_is_there(name):
    assert getattr(zoft, name).__name__ == name
    assert name in dir(zoft) and name in zoft.__all__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'ZOTrianer'"):
        _ = zoft.ZOTrianer
    assert not hasattr(zoft, "nothing")
