"""The offline world of sums: the ability is there before a run, and shows after it, drawn out by right or wrong alone."""

import json

import pytest

from zoft.finetune import main
from zoft.quickstart.arithmetic.model import prepare, right_share
from zoft.quickstart.arithmetic.task import examples
from zoft.quickstart.arithmetic.world import FIGURES, corpus, questions, vocabulary
from zoft.quickstart.model import ENOUGH, read_manifest


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    prepare(folder)
    return folder


def test_every_question_is_asked_once_and_every_word_is_known() -> None:
    texts = [question.text for part in questions().values() for question in part]
    assert len(texts) == len(set(texts)) == 100 * len(FIGURES)
    words = set(vocabulary())
    assert all(word in words for text in (*texts, *corpus(500)) for word in text.split())
    for question in questions()["dev"]:
        _, _, a, _, b, _ = question.text.split()
        assert int(question.answer) == int(a) + int(b)
    assert examples("dev")[0].prompt == questions()["dev"][0].text


def test_the_model_can_add_and_mostly_says_so_in_words(cache) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = prepare(cache)
    manifest = read_manifest(folder)
    assert manifest is not None and manifest.ability >= ENOUGH
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert right_share(model, tokenizer) == manifest.ability
    assert right_share(model, tokenizer, words=False) < 0.2


def test_the_recipe_makes_it_write_figures(cache, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ZOFT_CACHE", str(cache))
    assert main(["recipe=arithmetic", "use_cpu=true", "disable_tqdm=true", f"output_dir={tmp_path / 'run'}"]) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["metric"] == "exact_match"
    assert summary["before"] < 0.2 and summary["after"] > 0.6
