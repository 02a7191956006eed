"""kill -9 anywhere, a torn write, a full disk: what resumes ends bitwise equal to what was never interrupted."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.trajectory import crash_run
from tests.trajectory.runs import Tiny, detach, make, recorded, train
from zoft.trajectory import TrajectoryError, TrajectoryLog, attach
from zoft.trajectory.record import record_bytes

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
SCRIPT = [sys.executable, "-m", "tests.trajectory.crash_run"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_every_kill_point_resumes_to_the_same_weights(tmp_path: Path) -> None:
    done = subprocess.run(
        [*SCRIPT, str(tmp_path)], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    plans = crash_run.plans()
    assert len(results) == len(plans) and sum(status == signal.SIGKILL for _, _, status in plans) >= 70
    failed = [r for r in results if not (r["stopped as planned"] and r["resumed"] and r["replayed"])]
    assert not failed
    for result in results:  # nothing recorded before the kill is lost, and nothing beyond it appears
        words = result["name"].split()
        if "in the write" in result["name"]:
            step, keep = int(words[5]), int(words[7])
            assert result["recorded"] == step + (keep == 56), result
        if words[0] == "disk":
            assert result["recorded"] == int(words[4]), result


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
def test_killed_from_outside(tmp_path: Path) -> None:
    """kill -9 by another process, at a moment that nobody chose."""
    code = (
        "import sys, pathlib, torch; torch.set_num_threads(1); from tests.trajectory.crash_run import run; "
        "print('ready', flush=True); print(run(pathlib.Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code]
    options = {"env": ENVIRONMENT, "cwd": ROOT, "text": True}
    victim = subprocess.Popen([*command, str(tmp_path / "a")], stdout=subprocess.PIPE, **options)  # type: ignore[call-overload]
    assert victim.stdout is not None and victim.stdout.readline() == "ready\n"
    log = tmp_path / "a" / "trajectory.zoft"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and TrajectoryLog.read(log).steps):
        time.sleep(0.001)
    victim.kill()
    victim.wait()
    resumed = subprocess.run([*command, str(tmp_path / "a")], capture_output=True, check=True, **options)  # type: ignore[call-overload]
    assert resumed.stdout.split()[-1] == crash_run.run(tmp_path / "whole")


def test_torn_at_every_byte(tmp_path: Path) -> None:
    """A file cut anywhere behind its header reads up to its last whole record."""
    recorded(tmp_path / "log", 4)
    data = (tmp_path / "log").read_bytes()
    log = TrajectoryLog.read(tmp_path / "log")
    size = record_bytes(log.header)
    start = len(data) - 4 * size
    for stop in range(start, len(data) + 1):
        (tmp_path / "torn").write_bytes(data[:stop])
        torn = TrajectoryLog.read(tmp_path / "torn")
        assert torn.steps == log.steps[: (stop - start) // size] and torn.torn == (stop - start) % size
        padded = data[:stop] + bytes(3 * size)  # pages that a power cut left unwritten
        (tmp_path / "torn").write_bytes(padded)
        assert TrajectoryLog.read(tmp_path / "torn").steps == torn.steps
    for stop in range(start):
        (tmp_path / "torn").write_bytes(data[:stop])
        with pytest.raises(TrajectoryError):
            TrajectoryLog.read(tmp_path / "torn")


def test_resume_from_an_earlier_checkpoint_keeps_the_uncut_log(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.zoft"
    optimizer = recorded(path, 9)
    whole = path.read_bytes()
    again = make(Tiny())
    train(again, 4)
    recorder = attach(again, path)
    assert (tmp_path / "trajectory.before-step-4.zoft").read_bytes() == whole
    train(again, 9)
    detach(again, recorder)
    assert path.read_bytes() == whole and again.space.fingerprint() == optimizer.space.fingerprint()


def test_every_uncut_log_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.zoft"
    uncut = []
    for stop in (9, 7, 7):
        again = make(Tiny())
        train(again, 4)
        if not path.exists():
            again = make(Tiny())
        recorder = attach(again, path)
        train(again, stop)
        detach(again, recorder)
        uncut.append(path.read_bytes())
    copies = [p.read_bytes() for p in sorted(tmp_path.glob("*.before-step-4*"))]
    assert uncut[1] == uncut[2] and sorted(copies) == sorted(set(uncut[:2]))


def test_a_disk_that_fails_behind_the_cache_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = make(Tiny())
    recorder = attach(optimizer, tmp_path / "log")
    train(optimizer, 2)

    def fails(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    for call in (recorder.sync, recorder.close):
        with pytest.raises(TrajectoryError, match="could not be brought to the disk"):
            call()
    monkeypatch.undo()
    recorder.close()
    assert len(TrajectoryLog.read(tmp_path / "log").steps) == 2


def test_a_new_run_sets_an_old_log_aside(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.zoft"
    for number in range(3):
        recorded(path, 2 + number)
    assert [len(TrajectoryLog.read(p).steps) for p in sorted(tmp_path.glob("*.zoft"))] == [2, 3, 4]


def test_a_run_without_a_log_gets_one_from_its_present_step(tmp_path: Path) -> None:
    from zoft.trajectory import replay

    optimizer = make(Tiny(), rule="momentum")
    train(optimizer, 5)
    middle = Tiny()
    middle.load_state_dict(optimizer.model.state_dict())
    recorder = attach(optimizer, tmp_path / "log")
    train(optimizer, 12)
    detach(optimizer, recorder)
    log = TrajectoryLog.read(tmp_path / "log")
    assert log.header.first == 5 and log.end == 12
    assert replay(middle, log).space.fingerprint() == optimizer.space.fingerprint()


def test_other_runs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.zoft"
    recorded(path, 5)
    for settings, word in (({"seed": 4}, "seed"), ({"rule": "adam"}, "rule"), ({"eps": 0.5}, "estimator")):
        other = make(Tiny(), **settings)
        train(other, 3)
        with pytest.raises(TrajectoryError, match=word):
            attach(other, path)
    ahead = make(Tiny())
    train(ahead, 6)
    with pytest.raises(TrajectoryError, match="the checkpoint is at step 6"):
        attach(ahead, path)


def test_a_checkpoint_of_another_history_is_refused(tmp_path: Path) -> None:
    """Same settings, other data: only the chain tells the runs apart."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        optimizer = make(Tiny())
        recorder = attach(optimizer, folder / "trajectory.zoft")
        for step in range(4):
            optimizer.step(lambda step=step, number=number: float(step * number))
        recorder.checkpoint(folder)
        detach(optimizer, recorder)
        shutil.copy(folder / "trajectory.zoft", folder / "copy.zoft")
    resumed = make(Tiny())
    resumed.steps = 4
    with pytest.raises(TrajectoryError, match="different runs"):
        attach(resumed, folders[0] / "trajectory.zoft", checkpoint=folders[1])
    attach(resumed, folders[0] / "trajectory.zoft", checkpoint=folders[0]).close()


def test_two_writers_and_a_skipped_record_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    optimizer = make(Tiny())
    recorder = attach(optimizer, path)
    train(optimizer, 2)
    optimizer.observers.remove(recorder)
    train(optimizer, 3)
    optimizer.observers.append(recorder)
    with pytest.raises(TrajectoryError, match="waits for step 2"):
        train(optimizer, 4)
    with path.open("ab") as other:
        other.write(b"x")
    recorder._count = 4
    with pytest.raises(TrajectoryError, match="another process"):
        train(optimizer, 5)
    recorder.close()
    with pytest.raises(TrajectoryError, match="is closed"):
        train(optimizer, 6)
