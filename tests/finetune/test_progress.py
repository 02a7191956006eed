"""What a run shows on the terminal while it trains."""

import json

import pytest

from zoft.finetune import main
from zoft.trainer.holding import losses_follow


@pytest.mark.parametrize("bar", [False, True])
def test_lines_are_brief_and_the_state_is_whole(tmp_path, capsys, bar) -> None:
    words = [f"output_dir={tmp_path}", "max_steps=4", "logging_steps=2", f"disable_tqdm={str(not bar).lower()}"]
    assert main(["recipe=quickstart", *words]) == 0
    shown = "".join(capsys.readouterr())
    assert shown.count("'loss': ") == 2 and "'eval_accuracy': " in shown
    assert "stability/" not in shown and "zo/" not in shown and "_per_second" not in shown
    (entry, *_) = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    assert "stability/lr_used" in entry and "zo/projected_grad" in entry


def test_lines_on_the_terminal_cost_no_pass_over_the_weights(tmp_path, monkeypatch) -> None:
    """In place, the way back, the update and the way on are one pass where nothing reads a weight between two steps."""
    followed: list[bool] = []

    def told(*asked) -> bool:
        followed.append(losses_follow(*asked))
        return followed[-1]

    monkeypatch.setattr("zoft.trainer.mixin.losses_follow", told)
    words = [
        f"output_dir={tmp_path}",
        "max_steps=5",
        "logging_steps=1",
        "eval_strategy=no",
        "save_strategy=no",
        "overwrite=true",
    ]
    for bar in ("true", "false"):
        followed.clear()
        assert main(["recipe=quickstart", "perturbation=in_place", *words, f"disable_tqdm={bar}"]) == 0
        assert followed == [True] * 4 + [False]
