"""From a run's folder to an ordinary model folder, to a few kilobytes for others, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import zoft
from tests.trajectory.runs import detach
from zoft.cli import main
from zoft.models import load_model
from zoft.optimizer import ZOOptimizer
from zoft.trajectory import TrajectoryError, TrajectoryLog, attach
from zoft.trajectory.publish import LOG, START, pack

STEPS = 20


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small OPT in float32 on the disk; runs load it in bfloat16."""
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    size = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24, "num_attention_heads": 2}
    folder = tmp_path_factory.mktemp("base")
    OPTForCausalLM(OPTConfig(vocab_size=40, num_hidden_layers=1, max_position_embeddings=16, **size)).save_pretrained(
        folder
    )
    return str(folder)


def run(model: Any, folder: Path, base: str, seed: int = 0, rounding: str = "residual8") -> Any:
    ids = torch.randint(0, 40, (4, 8), generator=torch.Generator().manual_seed(seed))
    optimizer = ZOOptimizer(model, lr=1e-3, seed=seed, weight_rounding=rounding, directions=2)
    recorder = attach(optimizer, folder / LOG, base=base)
    for _ in range(STEPS):
        optimizer.step(lambda: model(input_ids=ids, labels=ids).loss)
    detach(optimizer, recorder)
    return model


def same(one: Any, other: Any) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(a[n].dtype is b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def test_replay_command_saves_the_trained_model(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = run(load_model(base, dtype="bfloat16"), tmp_path / "run", base)
    assert main(["replay", f"{base}/", str(tmp_path / "run"), str(tmp_path / "out")]) == 0  # as a shell completes it
    assert f"{STEPS} steps replayed" in capsys.readouterr().out
    assert same(load_model(str(tmp_path / "out")), trained)
    assert not same(load_model(base, dtype="bfloat16"), trained)
    assert main(["replay", base, str(tmp_path / "run" / LOG), str(tmp_path / "start"), "--until", "0"]) == 0
    assert same(load_model(str(tmp_path / "start")), load_model(base, dtype="bfloat16"))


def test_pack_and_load(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = run(load_model(base, dtype="bfloat16"), tmp_path / "run", base)
    assert main(["pack", str(tmp_path / "run"), str(tmp_path / "small")]) == 0
    assert {path.name for path in (tmp_path / "small").iterdir()} == {LOG, "README.md"}
    text = (tmp_path / "small" / "README.md").read_text()
    assert text.startswith("---\ntags:\n- zoft\n- zeroth-order\n---\n") and base in text
    assert same(zoft.from_trajectory(tmp_path / "small"), trained)  # type: ignore[attr-defined]
    code = text.split("```python")[1].split("```")[0].replace("path/to/this/folder", str(tmp_path / "small"))
    told: dict[str, Any] = {}
    exec(code, told)
    assert same(told["model"], trained)
    named = pack(tmp_path / "run", tmp_path / "named", base="someone/model", until=5)
    assert "base_model: someone/model\n" in (named / "README.md").read_text()
    header = TrajectoryLog.read(named / LOG).header
    assert header.base == "someone/model" and TrajectoryLog.read(named / LOG).end == 5
    assert same(zoft.from_trajectory(named, base=base), zoft.from_trajectory(tmp_path / "run", until=5))  # type: ignore[attr-defined]


def test_an_adapter_starts_from_what_lies_beside_the_log(base: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    folder = tmp_path / "run"
    torch.manual_seed(1)
    adapter: Any = get_peft_model(
        load_model(base, dtype="bfloat16"), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    )
    adapter.eval().save_pretrained(folder / START)
    trained = run(adapter, folder, base)
    assert same(zoft.from_trajectory(folder), trained)  # type: ignore[attr-defined]
    small = pack(folder, tmp_path / "small")
    assert same(zoft.from_trajectory(small), trained)  # type: ignore[attr-defined]


def test_merge_command(base: str, tmp_path: Path) -> None:
    one = run(load_model(base, dtype="bfloat16"), tmp_path / "a", base, seed=1, rounding="residual16")
    run(load_model(base, dtype="bfloat16"), tmp_path / "b", base, seed=2)
    logs = [f"{tmp_path / 'a'}=1", f"{tmp_path / 'b'}=0"]
    assert main(["merge", base, str(tmp_path / "out"), *logs]) == 0
    assert same(load_model(str(tmp_path / "out")), one)  # both are float32 arithmetic, and 0 z adds nothing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay", "{base}", "{run}", "{run}"], "holds something already"),
        (["replay", "{base}", "{base}", "{out}"], "there is no trajectory log"),
        (["replay", "{nowhere}", "{run}", "{out}"], "training started from {base}"),
        (["replay", "{other}", "{run}", "{out}"], "wrong base model"),
        (["replay", "{base}", "{run}", "{out}", "--until", "21"], "does not reach step 21"),
        (["pack", "{run}", "{run}"], "holds something already"),
        (["merge", "{base}", "{out}", "{run}"], "LOG=SCALE"),
        (["merge", "{base}", "{out}", "{run}=1", "{run}=2"], "named twice"),
    ],
)
def test_wrong_input_is_one_message(
    arguments: list[str], message: str, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "base": base,
        "run": str(tmp_path / "run"),
        "out": str(tmp_path / "out"),
        "other": str(tmp_path / "other"),
        "nowhere": str(tmp_path / "nowhere"),
    }
    model = run(load_model(base, dtype="bfloat16"), tmp_path / "run", base)
    model.float().save_pretrained(places["other"])
    assert main([word.format(**places) for word in arguments]) == 2
    assert message.format(**places) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_base_that_cannot_be_found(base: str, tmp_path: Path) -> None:
    run(load_model(base, dtype="bfloat16"), tmp_path / "run", "")
    with pytest.raises(TrajectoryError, match="does not name its base"):
        zoft.from_trajectory(tmp_path / "run")  # type: ignore[attr-defined]
    with pytest.raises(TrajectoryError, match="does not name its base"):
        pack(tmp_path / "run", tmp_path / "small")
