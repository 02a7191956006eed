"""The cache: whole or built again; the same bytes each time; nobody else's random state moves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zoft.errors import UsageError
from zoft.quickstart import model as cached
from zoft.quickstart import pretrain
from zoft.quickstart.world import LABEL_WORDS, Sizes, build_world

SMALL = """
import sys, torch
from zoft.quickstart import model, pretrain, world
def shorten(kind, **new):
    old = dict(zip(kind.__dataclass_fields__, kind.__init__.__defaults__))
    kind.__init__.__defaults__ = tuple({**old, **new}.values())
shorten(pretrain.Pretraining, steps=3)
shorten(world.Sizes, corpus=60, probe=10)
model.ENOUGH = 0.0
"""


@pytest.fixture
def short(monkeypatch):
    """A pretraining of three steps on a small corpus that counts as good enough."""
    for kind, new in ((pretrain.Pretraining, {"steps": 3}), (Sizes, {"corpus": 60, "probe": 10})):
        old = dict(zip(kind.__dataclass_fields__, kind.__init__.__defaults__, strict=True))
        monkeypatch.setattr(kind.__init__, "__defaults__", tuple({**old, **new}.values()))
    monkeypatch.setattr(cached, "ENOUGH", 0.0)


def digests(folder: Path) -> dict[str, str]:
    manifest = cached.read_manifest(folder)
    assert manifest is not None
    return manifest.files


def test_a_second_call_returns_the_folder_and_builds_nothing(short, tmp_path):
    steps = []
    folder = cached.prepare(tmp_path, lambda done, total: steps.append((done, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert cached.prepare(tmp_path, lambda done, total: pytest.fail("built again")) == folder
    assert written == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert folder.name == f"quickstart-{cached.recipe_hash()}"


@pytest.mark.parametrize("damage", ["truncate", "delete a file", "delete the manifest", "empty"])
def test_a_damaged_folder_is_built_again_to_the_same_bytes(short, tmp_path, damage):
    folder = cached.prepare(tmp_path)
    before = digests(folder)
    if damage == "truncate":
        os.truncate(folder / "model.safetensors", 1000)
    elif damage == "delete a file":
        (folder / "tokenizer.json").unlink()
    elif damage == "delete the manifest":
        (folder / cached.MANIFEST).unlink()
    else:
        (folder / cached.MANIFEST).write_text("{}")
    assert cached.read_manifest(folder) is None
    assert digests(cached.prepare(tmp_path)) == before
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".lock"]


def test_the_bytes_do_not_depend_on_threads_seeds_or_the_process(short, tmp_path):
    here = digests(cached.prepare(tmp_path / "here"))
    code = (
        SMALL
        + "torch.set_num_threads(2); torch.manual_seed(5); model.prepare(sys.argv[1]); print(torch.get_num_threads())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "there")], capture_output=True, text=True, check=True
    )
    assert there.stdout.split() == ["2"]
    (folder,) = (path for path in (tmp_path / "there").iterdir() if path.is_dir())
    assert digests(folder) == here


def test_two_processes_at_once_build_once(short, tmp_path):
    code = SMALL + "print(sum(1 for _ in [model.prepare(sys.argv[1], lambda done, total: print('step'))]))"
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sorted(text.count("step") for text in printed) == [0, 3]
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert cached.read_manifest(folder) is not None


def test_a_build_that_dies_leaves_no_folder(short, tmp_path):
    def die(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached.prepare(tmp_path, die)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert cached.read_manifest(cached.prepare(tmp_path)) is not None


def test_a_model_that_did_not_learn_is_not_kept(short, tmp_path, monkeypatch):
    monkeypatch.setattr(cached, "ENOUGH", 1.01)
    with pytest.raises(RuntimeError, match=r"1\.01 is needed"):
        cached.prepare(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_no_state_of_the_process_moves():
    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    try:
        corpus = build_world(sizes=Sizes(60, 2, 2, 2, 2)).corpus
        with torch.no_grad():
            model, _ = pretrain.pretrain(corpus, pretrain.Pretraining(steps=2))
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_the_folder_is_an_ordinary_one_and_the_two_words_start_alike(short, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = cached.prepare(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text = "the soup was cold . it was terrible"
    ids = tokenizer(text).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["</s>", *text.split()]
    low, high = tokenizer.convert_tokens_to_ids(list(LABEL_WORDS))
    rows = model.get_input_embeddings().weight
    assert torch.equal(rows[low], rows[high])
    assert model.get_output_embeddings().weight is rows
    json.loads((folder / "config.json").read_text())


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ZOFT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cached.cache_root() == tmp_path / ".cache" / "zoft"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cached.cache_root() == tmp_path / "x" / "zoft"
    monkeypatch.setenv("ZOFT_CACHE", str(tmp_path / "z"))
    assert cached.cache_root() == tmp_path / "z"
    assert cached.cache_root(tmp_path / "given") == tmp_path / "given"


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="ZOFT_CACHE"):
        cached.prepare(tmp_path / "file")
