"""Where a run is kept: a new folder each time."""

from __future__ import annotations

from datetime import datetime
from os import environ
from pathlib import Path
from tempfile import TemporaryDirectory

import torch.distributed as dist

from zoft.config import RunConfig
from zoft.distributed import world_size
from zoft.errors import UsageError
from zoft.trainer.refused import whole_checkpoints
from zoft.trainer.restart import restarted

TRIAL = ".zoft-"  # begins the name of what another process may be making, and removing, in the folder at the same time


def run_folder(config: RunConfig) -> Path:
    """The run's folder, the same on all ranks: `output_dir` where one is set, else a new one in `runs_dir`.

    Raises:
        UsageError: `output_dir` holds an earlier run, and the run neither resumes nor may overwrite it; or it is to be
            resumed and holds no checkpoint; a launcher that may start the run again needs an output_dir; nothing can be
            written there.
    """
    folder = _chosen(config)
    _check_writable(folder)
    return folder


def _chosen(config: RunConfig) -> Path:
    chosen = config.training.get("output_dir")
    if chosen is None and int(environ.get("TORCHELASTIC_MAX_RESTARTS") or 0) > 0:
        raise UsageError("torchrun --max-restarts goes on with the run in output_dir, so name one")
    if chosen is not None and restarted():
        return Path(chosen)
    if chosen is None and _resumes(config, "true"):
        raise UsageError("resume_from_checkpoint=true goes on with the run in output_dir; name that, or the checkpoint")
    if chosen is None:
        return _same_on_all_ranks(_new_folder(Path(config.run.runs_dir), config.recipe or config.run.task or "run"))
    folder = Path(chosen)
    if _resumes(config, "true") and not any((f / "trainer_state.json").is_file() for f in folder.glob("checkpoint-*")):
        raise UsageError(
            f"resume_from_checkpoint=true: there is no checkpoint in {folder}; name its folder, or leave the setting out to "
            "start from the beginning"
        )
    holds = folder.is_dir() and any(not entry.name.startswith(TRIAL) for entry in folder.iterdir())
    if holds and not (config.run.overwrite or _resumes(config)):
        raise UsageError(
            f"output_dir: {folder} holds files already; name another folder, set resume_from_checkpoint=true to go on "
            "with the run in it, or overwrite=true"
        )
    return folder


def how_to_go_on(config: RunConfig, folder: Path, step: int) -> str:
    """What there is to say of a run that was stopped after `step` steps: from where it can go on, and how."""
    kept = whole_checkpoints(folder)
    if not kept:
        return f"\nstopped after {step} steps; no checkpoint was saved by then (save_strategy=steps save_steps=N saves some)"
    one = ""
    if config.sources.get("output_dir") == "seeds":  # one run of several
        names = [name for name in ("seed", "split_seed") if config.sources.get(name) == "seeds"]
        one = " ".join(["", "seeds=none", *(f"{name}={config.training['seed']}" for name in names)])
    return (
        f"\nstopped after {step} steps; the same command with{one} output_dir={folder} resume_from_checkpoint=true goes on "
        f"from step {max(kept)}"
    )


def _check_writable(folder: Path) -> None:
    """Raises UsageError where no file can be made in `folder`, or no folder of that name; nothing is left behind."""
    there = folder.absolute()
    try:
        there = next(place for place in (there, *there.parents) if place.exists())
        with TemporaryDirectory(dir=there, prefix=TRIAL):
            pass
    except OSError as error:
        raise UsageError(
            f"the run cannot be kept in {folder}: {there}: {error.strerror}; name another folder with output_dir or runs_dir"
        ) from error


def _resumes(config: RunConfig, how: str = "") -> bool:
    """Whether the run resumes at all; how="true": from the last checkpoint in its folder."""
    given = str(config.training.get("resume_from_checkpoint") or "false").lower()
    return given == how if how else given != "false"


def _new_folder(parent: Path, name: str) -> Path:
    """parent/name-YYYYmmdd-HHMMSS, with a number behind it if two runs start in one second."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    names = [f"{name}-{stamp}", *(f"{name}-{stamp}-{number}" for number in range(2, 1000))]
    return next(parent / candidate for candidate in names if not (parent / candidate).exists())


def _same_on_all_ranks(folder: Path) -> Path:
    if world_size() == 1:
        return folder
    box = [str(folder)]
    dist.broadcast_object_list(box, src=0)
    return Path(box[0])
