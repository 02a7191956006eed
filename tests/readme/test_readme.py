"""What README.md shows can be run."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_ten_lines_train() -> None:
    code = next(block for block in blocks("python") if "ZOOptimizer" in block)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    first: dict = {}
    exec("import torch\ntorch.manual_seed(0)\n" + code.replace("range(500)", "range(1)"), first)
    last: dict = {}
    exec("import torch\ntorch.manual_seed(0)\n" + code, last)
    assert last["loss"] < 0.25 * first["loss"] and last["optimizer"].skipped == 0


def test_the_loop_of_your_own_trains_under_the_monitor() -> None:
    methods = (README.parent / "docs" / "methods.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", methods, flags=re.DOTALL)
    ran: dict = {}
    exec("import torch\ntorch.manual_seed(0)\n" + code, ran)
    optimizer = ran["optimizer"]
    assert optimizer.steps == 20 and 0.0 < optimizer.last.lr < 1.0  # which was asked for


def test_the_recipe_of_your_own_is_accepted(tmp_path: Path) -> None:
    from zoft.config import load_config

    (tmp_path / "reviews.csv").write_text("text,stars\nfine,1\npoor,0\n")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(blocks("yaml")[0].replace("reviews.csv", str(tmp_path / "reviews.csv")))
    config = load_config([f"recipe={recipe}"])
    assert config.run.label_words == {"0": "bad", "1": "good"} and config.run.model == "facebook/opt-125m"


def test_every_recipe_named_exists() -> None:
    from zoft.config import all_recipes

    names = {recipe.name for recipe in all_recipes()}
    table = README.read_text().split("## Recipes")[1].split("##")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {name for name in named if "*" not in name} <= names
