"""What stands in the pages of docs: whole sentences, and tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def prose(page: Path) -> str:
    """The page without its programs."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_sentence_breaks_off(page: Path) -> None:
    assert not re.findall(r".{0,40}[\w`)]\.[;,:].{0,40}", prose(page)), "a full stop in the middle of a sentence"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_tests_that_a_page_names_exist(page: Path) -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
    for name in re.findall(r"`(?:tests/\w+/)?(test_(?!file\b)\w+)(?:\.py)?(?:::\w+)?`", prose(page)):
        assert any(path.stem == name or f"def {name}(" in text for path, text in sources.items()), name


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs/adding-a-task.md"], ids=lambda page: page.stem)
def test_templates_hold_no_quotation_marks_of_the_shell(page: Path) -> None:
    """What a program sees of `template=…` is the template itself: it is taken as it is written."""
    programs = "".join(re.findall(r"```.*?```", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    assert not re.findall(r"""'template=".*|template='".*|template='[^']*\\n.*""", programs)
