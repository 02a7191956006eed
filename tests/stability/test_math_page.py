"""docs/math.md names tests and functions that exist, and leaves no public closed form out."""

import re
from pathlib import Path

from zoft.stability import theory

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "math.md").read_text(encoding="utf-8")


def test_every_test_that_the_page_names_exists() -> None:
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    named = set(re.findall(r"\b(test_\w+)(?!\w|\.py|/)`", PAGE))
    assert len(named) > 20
    assert not (missing := sorted(name for name in named if f"def {name}(" not in written)), missing


def test_every_file_that_the_page_names_exists() -> None:
    files = {path.name for path in (ROOT / "tests").rglob("*.py")}
    assert set(re.findall(r"(test_\w+\.py)", PAGE)) <= files


def test_every_closed_form_has_its_row() -> None:
    rows = PAGE.split("## 6. In Python", 1)[1]
    named = set(re.findall(r"`(\w+)`", rows.split("```")[0]))
    functions = {name for name in theory.__all__ if name[0].islower()}
    assert functions <= named, sorted(functions - named)


def test_every_equation_that_code_cites_is_on_the_page() -> None:
    numbered = set(re.findall(r"\(([EP]?\d+)\)\s*$", PAGE, re.MULTILINE)) | {"4"}  # (4), (6) share a line
    for path in (ROOT / "zoft" / "stability").rglob("*.py"):
        for cited in re.findall(r"\(([EP]\d+)\)", path.read_text(encoding="utf-8")):
            assert cited in numbered, f"{path.name} cites ({cited})"
