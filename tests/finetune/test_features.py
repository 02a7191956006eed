"""Stored features: the head sees what it would have seen, for training examples in any order, and nothing else changes."""

import json
from pathlib import Path

import pytest
import torch

from tests.finetune.conftest import SIZE, WORDS, save_tokenizer
from zoft.config import load_config
from zoft.errors import UsageError
from zoft.finetune import main
from zoft.finetune.features import StoredFeatures
from zoft.finetune.materials import gather_materials


@pytest.fixture
def encoder(tiny_folder) -> Path:
    """A sentence encoder: a BERT without a head."""
    return tiny_folder("encoder")


def reviews(folder: Path, number: int) -> Path:
    """Sentences of unlike length, so that batches are padded."""
    rows = [
        {
            "sentence": f"{'the plot . ' * (n % 3)}{WORDS[n % 7]} {WORDS[n % 5]} was {'bright' if n % 2 else 'dull'}",
            "label": n % 2,
        }
        for n in range(number)
    ]
    path = folder / f"{number}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def settings(encoder: Path, folder: Path, **more) -> list[str]:
    given = {
        "task": "sst2", "tuning": "head", "store_features": "true", "num_train": "none", "num_dev": 0, "num_test": "none",
        "model": encoder, "train_file": reviews(folder, 40),
        "validation_file": reviews(folder, 8), "per_device_train_batch_size": 8, "max_steps": 12, "logging_steps": 4,
        "use_cpu": "true", "disable_tqdm": "true", **more,
    }  # fmt: skip
    return [f"{name}={value}" for name, value in given.items()]


def test_losses_are_those_of_the_whole_model(encoder, tmp_path) -> None:
    found = gather_materials(load_config(settings(encoder, tmp_path)).run)
    stored = StoredFeatures(found.model, found.train, found.collator, batch_size=8)
    assert stored.features.shape == (40, 16)
    batch = found.collator([found.train[n] for n in (3, 17, 0, 38, 5)])
    with torch.no_grad():
        found.model.classifier.weight.normal_()
        whole = found.objective.losses(found.model, batch)
        assert len(set(whole.tolist())) == 5
        torch.testing.assert_close(stored.losses(found.model, batch), whole)
        assert torch.equal(stored.evaluate(found.model, batch).losses, whole)
        found.model.classifier.weight.mul_(2)
        torch.testing.assert_close(stored.losses(found.model, batch), found.objective.losses(found.model, batch))


def test_a_run_goes_the_same_way_with_and_without(encoder, tmp_path) -> None:
    from transformers import AutoModelForSequenceClassification

    def run(name: str, **more) -> dict[str, torch.Tensor]:
        out = tmp_path / name
        assert main(settings(encoder, tmp_path, output_dir=out, learning_rate=0.1, **more)) == 0
        summary = json.loads((out / "summary.json").read_text())
        assert summary["steps"] == 12 and summary["skipped_steps"] == 0
        return AutoModelForSequenceClassification.from_pretrained(out).state_dict()

    stored, again, computed = run("a"), run("b"), run("c", store_features="false")
    start = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a" / "start").state_dict()
    assert {name for name in start if not torch.equal(start[name], stored[name])} == {
        "classifier.weight",
        "classifier.bias",
    }
    for name, weight in stored.items():
        assert torch.equal(weight, again[name])
        torch.testing.assert_close(weight, computed[name], rtol=1e-3, atol=1e-4)


def test_what_cannot_be_stored_is_refused(encoder, tmp_path) -> None:
    with pytest.raises(UsageError, match="store_features=true: with tuning=full"):
        load_config(settings(encoder, tmp_path, tuning="full"))
    found = gather_materials(load_config(settings(encoder, tmp_path)).run)
    found.model.bert.pooler.dense.weight.requires_grad_(True)
    with pytest.raises(
        UsageError, match="of BertForSequenceClassification bert, classifier is trained; use tuning=head"
    ):
        StoredFeatures(found.model, found.train, found.collator)


def test_a_language_models_head_is_refused_before_anything_is_written(tiny_folder, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert main(settings(tiny_folder("opt"), tmp_path, pooling="model", output_dir=out)) == 2
    assert "zoft: store_features=true is for a classification head" in capsys.readouterr().err
    assert not out.exists()


def test_a_head_that_reads_whole_texts_is_refused(tmp_path) -> None:
    import transformers as hf

    vocabulary = save_tokenizer(tmp_path, masked=True)
    config = hf.RobertaConfig(vocab_size=vocabulary, intermediate_size=32, type_vocab_size=1, **SIZE)
    hf.RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    found = gather_materials(load_config(settings(tmp_path, tmp_path)).run)
    with pytest.raises(UsageError, match="head of RobertaForSequenceClassification reads more than one vector"):
        StoredFeatures(found.model, found.train, found.collator)


def test_a_mean_layer_is_kept_in_an_ordinary_folder(encoder, tiny_folder, tmp_path) -> None:
    """The head reads the mean, the start is kept for replay, and the run's folder is a model without our code."""
    from transformers import AutoModelForSequenceClassification

    from zoft import from_trajectory

    out = tmp_path / "out"
    assert main(settings(encoder, tmp_path, output_dir=out, pooling="mean", learning_rate=0.1)) == 0
    saved = AutoModelForSequenceClassification.from_pretrained(out)
    assert saved.config.num_hidden_layers == 2
    found = gather_materials(load_config(settings(out, tmp_path, pooling="mean")).run)
    assert found.model.config.num_hidden_layers == 2  # its head was trained on what it reads: nothing is added again
    for name, weight in from_trajectory(out).state_dict().items():
        assert torch.equal(weight, saved.state_dict()[name])
    with pytest.raises(UsageError, match="without which the adapter of tuning=lora would be loaded"):
        gather_materials(
            load_config(settings(encoder, tmp_path, pooling="mean", tuning="lora", store_features="false")).run
        )
    with pytest.raises(UsageError, match="pooling=mean is for a classification head"):
        gather_materials(
            load_config(
                settings(tiny_folder("opt"), tmp_path, pooling="mean", tuning="full", store_features="false")
            ).run
        )
