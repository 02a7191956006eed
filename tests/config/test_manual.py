"""What `--help` says of settings: every one of them, in the words beside its definition, within the terminal."""

import subprocess
import sys
from pathlib import Path

import pytest

from zoft.config.evaluation import EvaluationSettings
from zoft.config.fields import fields_of
from zoft.config.helps import commented, helps_of
from zoft.config.manual import manual
from zoft.config.run import RunSettings
from zoft.stability.lab.settings import LabSettings
from zoft.trainer.mezo_settings import written
from zoft.trainer.settings import ZOSettings

OWNERS = (RunSettings, ZOSettings, EvaluationSettings, LabSettings)


@pytest.mark.parametrize("owner", OWNERS)
def test_every_setting_has_its_words(owner):
    helps = helps_of(owner)
    assert not [name for name in fields_of(owner) if not helps.get(name)]
    assert helps.keys() == fields_of(owner).keys()


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_every_setting_is_printed_with_its_default_and_words(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    pages = {
        "finetune": (RunSettings, ZOSettings, LabSettings),
        "evaluate": (RunSettings, ZOSettings, EvaluationSettings),
    }
    for command, owners in pages.items():
        text = manual(command)
        lines, flowing = list(filter(None, text.splitlines())), " ".join(text.split())
        assert max(map(len, lines)) <= columns
        for owner in owners:
            for name, field in fields_of(owner).items():
                default = "none" if field.default is None else written(field.default)
                assert [line.split()[0] for line in lines].count(f"{name}={default}") == 1
                words = " ".join(helps_of(owner)[name].replace("None", "none").split())
                assert f"{words} [{field.describe()}]" in flowing


def test_words_are_read_wherever_the_formatter_leaves_them():
    source = """
    class Settings:
        a: int = 1  # behind
        b: str = (
            "long"  # inside
        )
        # above, on
        # two lines
        c: str = "# no comment"
        d: int = 2

        def method(self): ...  # of no setting
    """
    assert commented(source) == {"a": "behind", "b": "inside", "c": "above, on two lines"}


@pytest.mark.parametrize("command", ["finetune", "compare", "plan", "evaluate", "recipes"])
def test_help_needs_no_torch(command):
    code = f"import sys; from zoft.cli import main; main([{command!r}, '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_the_page_of_settings_is_as_it_is_made():
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    made = subprocess.check_output([sys.executable, "-m", "zoft.config.settings_page"], text=True)
    assert page.read_text(encoding="utf-8") == made, "python -m zoft.config.settings_page > docs/settings.md"
