"""What a run shows on the terminal while it trains."""

import json

import pytest

from zoft.finetune import main


@pytest.mark.parametrize("bar", [False, True])
def test_lines_are_brief_and_the_state_is_whole(tmp_path, capsys, bar) -> None:
    words = [f"output_dir={tmp_path}", "max_steps=4", "logging_steps=2", f"disable_tqdm={str(not bar).lower()}"]
    assert main(["recipe=quickstart", *words]) == 0
    shown = "".join(capsys.readouterr())
    assert shown.count("'loss': ") == 2 and "'eval_accuracy': " in shown
    assert "stability/" not in shown and "zo/" not in shown and "_per_second" not in shown
    (entry, *_) = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    assert "stability/lr_used" in entry and "zo/projected_grad" in entry
