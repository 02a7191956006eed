"""The wheel: built here, unpacked into an empty folder, used from there."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import zoft

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout. Building needs hatchling, which the test extra installs, and no network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("zoft-*.whl"))


def test_the_wheel_holds_code_recipes_and_launch_files_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for kind in ("recipes", "configs"):
        expected = {f"zoft/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / kind).rglob("*.yaml")}
        assert expected and expected <= names
    for package, home in (("zoft", ROOT), ("zoft_kernels", ROOT / "kernels" / "torch-ext")):
        assert {path.relative_to(home).as_posix() for path in (home / package).rglob("*.py")} <= names
    tops = {name.split("/")[0] for name in names}
    assert tops <= {"zoft", "zoft_kernels", f"zoft-{zoft.__version__}.dist-info"}


def test_the_installed_command_works_in_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)

    def run(*argv: str) -> str:
        # -P: the checkout, which pytest puts on the path, must not be what is used
        done = subprocess.run(
            [sys.executable, "-P", "-m", "zoft", *argv],
            cwd=empty, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    assert "opt-13b-sst2-zoft" in run("recipes")
    assert Path(run("configs", "cpu").strip()) == site / "zoft" / "configs" / "cpu.yaml"
    assert run("--version").strip() == f"zoft {zoft.__version__}"


def test_one_version_everywhere():
    assert PROJECT["version"] == zoft.__version__
    assert f"## {zoft.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_constraints_pin_every_direct_dependency():
    from packaging.requirements import Requirement

    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins[pin.name.lower().replace("_", "-")] = next(iter(pin.specifier))
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    for requirement in map(Requirement, wanted):
        pin = pins.get(requirement.name.lower())
        assert pin is not None and pin.operator == "==", f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(pin.version), f"{requirement} does not admit {pin}"
    assert pins["torch"].version == "2.13.0" and pins["triton"].version == "3.7.1"


def test_triton_and_bitsandbytes_are_asked_for_on_linux_alone():
    from packaging.requirements import Requirement

    for requirement in map(Requirement, PROJECT["dependencies"]):
        linux_only = requirement.marker is not None and not requirement.marker.evaluate({"platform_system": "Darwin"})
        assert linux_only == (requirement.name in ("triton", "bitsandbytes"))


def test_the_ci_script_can_be_run():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
