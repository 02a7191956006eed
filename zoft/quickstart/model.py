"""A small language model as an ordinary Hugging Face folder, made once per recipe and kept in a per-user cache.

A folder in the cache is either whole or not used: it is built under a temporary name and renamed, its manifest
lists the sha256 of every file, and a folder that does not agree with its manifest is built again. One process
builds at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoft.errors import UsageError
from zoft.quickstart.world import Sizes, World, build_world, vocabulary

MANIFEST = "zoft-manifest.json"
ENOUGH = 0.95  # share of the probe that a model must get right
ATTEMPTS = 3  # seeds tried before giving up
Progress = Callable[[int, int], None]  # (steps done, steps in all)
Learn = Callable[[Progress], tuple[Any, Any, float, int]]  # model, tokenizer, what it can do in [0, 1], seed


@dataclass(frozen=True)
class Manifest:
    """What a finished folder says of itself."""

    ability: float  # share of the probe that it gets right: reviews followed by an opinion of their own sentiment, say
    seed: int  # the pretraining seed that reached it
    files: dict[str, str]  # name -> sha256


def prepare(cache_dir: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> Path:
    """The folder of the model, built first where it is missing or damaged; as `keep`."""
    return keep("quickstart", recipe_hash(), lambda steps: _learn(build_world(), steps), cache_dir, progress)


def keep(
    name: str,
    digest: str,
    learn: Learn,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of a model, built first where it is missing or damaged.

    Args:
        name, digest: of the folder; the digest is over all that decides its bytes.
        learn: makes the model.
        cache_dir: where folders are kept; None: ``$ZOFT_CACHE``, or ``$XDG_CACHE_HOME/zoft``, or ``~/.cache/zoft``.
        progress: called after every pretraining step; not called at all when the folder is already there.

    Raises:
        UsageError: the cache cannot be written.
        RuntimeError: no attempt learned the corpus well enough.
    """
    from filelock import FileLock

    root = cache_root(cache_dir)
    folder = root / f"{name}-{digest}"
    if read_manifest(folder) is not None:
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{folder.name}.lock"):
            if read_manifest(folder) is None:  # nobody built it while this process waited
                _build(folder, learn, progress or (lambda done, total: None))
    except OSError as error:
        raise UsageError(f"cannot write the cache {root} ({error}); name another folder in ZOFT_CACHE") from error
    return folder


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds zoft's cached things."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if os.environ.get("ZOFT_CACHE"):
        return Path(os.environ["ZOFT_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "zoft"


def recipe_hash() -> str:
    """Twelve hex digits over all that decides the model's bytes: corpus, vocabulary, settings, versions."""
    from zoft.quickstart.pretrain import SPECIAL_WORDS, Pretraining

    world = build_world()
    recipe = {
        "corpus": [review.document for review in world.corpus],
        "probe": [(review.prompt, review.sentiment) for review in world.probe],
        "vocabulary": [*SPECIAL_WORDS, *vocabulary()],
        "pretraining": asdict(Pretraining()),
        "sizes": asdict(Sizes()),
        "format": 2,
    }
    return digest_of(recipe)


def digest_of(recipe: dict[str, Any]) -> str:
    """Twelve hex digits over `recipe`, what is enough, and the versions of the libraries."""
    import torch
    import transformers

    versions = [torch.__version__, transformers.__version__]
    whole = {**recipe, "bar": [ENOUGH, ATTEMPTS], "versions": versions}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest if every file it lists is there, byte for byte; otherwise None."""
    try:
        manifest = Manifest(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        whole = all(_sha256(folder / name) == digest for name, digest in manifest.files.items())
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return manifest if whole else None


def _build(folder: Path, learn: Learn, progress: Progress) -> None:
    model, tokenizer, ability, seed = learn(progress)
    building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=folder.parent))
    try:
        model.save_pretrained(building)
        tokenizer.save_pretrained(building)
        files = {path.name: _sha256(path) for path in sorted(building.iterdir())}
        manifest = Manifest(ability, seed, files)
        (building / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1), encoding="utf-8")
        building.chmod(0o755)  # mkdtemp's 0o700 would lock others out of a shared cache
        if folder.exists():  # damaged, or it would have been returned
            discarded = Path(tempfile.mkdtemp(prefix=f"{folder.name}.damaged-", dir=folder.parent))
            folder.rename(discarded / folder.name)
            shutil.rmtree(discarded, ignore_errors=True)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _learn(world: World, progress: Progress) -> tuple[Any, Any, float, int]:
    """Model, tokenizer, share of like-minded words, seed: of the first seed that learns enough."""
    from zoft.quickstart.pretrain import Pretraining, like_minded_share, pretrain

    def attempt(seed: int) -> tuple[Any, Any, float]:
        setting = Pretraining(seed=seed)
        model, tokenizer = pretrain(world.corpus, setting, lambda step: progress(step, setting.steps))
        return model, tokenizer, like_minded_share(model, tokenizer, world.probe)

    return first_good(attempt, "the quickstart's language model gave like-minded words to {} of the probe reviews")


def first_good(attempt: Callable[[int], tuple[Any, Any, float]], said: str) -> tuple[Any, Any, float, int]:
    """Model, tokenizer, ability, seed: of the first seed whose attempt is good enough.

    Args:
        said: of the abilities that were too small, which stand in its {}.

    Raises:
        RuntimeError: none was.
    """
    shares = []
    for seed in range(ATTEMPTS):
        model, tokenizer, share = attempt(seed)
        shares.append(share)
        if share >= ENOUGH:
            return model, tokenizer, share, seed
    raise RuntimeError(f"{said.format(shares)} with seeds 0, 1, …; {ENOUGH} is needed, so it is not used")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
