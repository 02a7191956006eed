"""A 4-bit or 8-bit base under an adapter: it trains, resumes and replays, and the base's bytes stay what they were."""

from pathlib import Path

import pytest
import torch

from tests.tuning.test_schemes import arguments, weight_file
from zoft.errors import UsageError
from zoft.finetune import main
from zoft.models import load_model
from zoft.trajectory import TrajectoryLog, replay
from zoft.trajectory.publish import START
from zoft.tuning.settings import TuningSettings

pytest.importorskip("bitsandbytes")


def stored(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if "lora_" not in name}


@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_base_under_lora(kind, family, reviews, tmp_path: Path, monkeypatch) -> None:
    from zoft.finetune import materials, session

    seen = []

    def gather(run):
        made = materials.gather_materials(run)
        seen.append((made.model, stored(made.model)))
        return made

    monkeypatch.setattr(session, "gather_materials", gather)
    base, whole, part = family("opt", 64), tmp_path / "whole", tmp_path / "part"
    changes = {"quantization": kind, "dtype": "float32", "learning_rate": 1e-2}
    assert main(arguments(base, reviews, whole, "lora", **changes)) == 0
    model, before = seen[0]
    after = stored(model)
    whole_numbers = [name for name, value in after.items() if not value.is_floating_point()]
    assert sum("proj" in name or "fc" in name for name in whole_numbers) >= 12, "two blocks of six linear layers"
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    moved = [name for name, weight in model.named_parameters() if "lora_B" in name and bool(weight.any())]
    assert len(moved) == 4, "query and value of two blocks"

    assert main(arguments(base, reviews, part, "lora", **changes, resume_from_checkpoint=whole / "checkpoint-2")) == 0
    assert weight_file(whole).read_bytes() == weight_file(part).read_bytes()

    again = load_model(str(whole / START), dtype="float32", quantization=kind)
    replay(again, TrajectoryLog.read(whole / "trajectory.zoft"))
    theirs = dict(model.named_parameters())
    assert all(torch.equal(weight, theirs[name]) for name, weight in again.named_parameters() if "lora_" in name)


@pytest.mark.parametrize("tuning", ["full", "head", "last_k", "bias"])
def test_weights_of_a_quantised_base_are_not_trained_themselves(tuning) -> None:
    with pytest.raises(UsageError, match=f"quantization=nf4.*tuning={tuning} cannot train them; use tuning=lora"):
        TuningSettings(tuning=tuning, quantization="nf4")
