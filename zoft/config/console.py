"""How a command ends: with its own exit code, or with one message and code 2 when the user's input was wrong."""

import gc
import logging
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence

from zoft.errors import ReplicaError, UsageError
from zoft.freed_memory import keep_freed_memory

USAGE_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130  # as a shell counts Ctrl-C


def is_first_process(environ: Mapping[str, str] = os.environ) -> bool:
    """True on the one process that speaks: rank 0, as torchrun and accelerate number them, or the only one."""
    return environ.get("RANK", "0") in ("", "0")


def guarded(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None) -> int:
    """Runs `main(argv)` and returns its exit code; a UsageError becomes one message on rank 0 and exit code 2, Ctrl-C
    one and 130.

    Every process of a launch makes the same check, so all of them leave with code 2 and only the first one says why.

    Args:
        argv: None: this process's own arguments, and all that it does is this; processes that a launcher started on a machine
            without accelerators train together on its CPUs.
    """
    _hush()
    if argv is None:
        keep_freed_memory()
        meet_on_cpus(os.environ)
        argv = sys.argv[1:]
    foreign = _in_a_group()
    try:
        code = main(argv) or 0
        if _in_a_group() and not foreign:
            _leave_the_group()
        return code
    except UsageError as error:
        if is_first_process():
            print(f"zoft: {error}", file=sys.stderr)
        return USAGE_EXIT_CODE
    except ReplicaError as error:
        if is_first_process() or error.speak:
            print(f"zoft: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if is_first_process():
            print("zoft: stopped by Ctrl-C", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    except BrokenPipeError:  # `zoft recipes | head` closes the pipe early, which is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def meet_on_cpus(environ: MutableMapping[str, str]) -> None:
    """Tells accelerate that processes started together are on CPUs, where there is nothing else: each would train alone.

    accelerate's launcher of several processes on one machine does not hand on the `use_cpu` of its launch file. Whoever set
    ACCELERATE_USE_CPU is left with it. A process that was started by itself imports no torch for this.
    """
    if environ.get("WORLD_SIZE", "") in ("", "0", "1") or "ACCELERATE_USE_CPU" in environ:
        return
    import torch

    if not torch.accelerator.is_available():
        environ["ACCELERATE_USE_CPU"] = "true"


def _in_a_group() -> bool:
    """Whether processes are joined, found without importing torch."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _leave_the_group() -> None:
    """Ends the threads that carried collectives while Python still runs.

    One that frees a tensor while the interpreter is shut down wants its lock, and the process aborts with everything done.
    """
    gc.collect()  # a DistributedDataParallel that is still about holds the group as well
    try:
        sys.modules["torch.distributed"].destroy_process_group()
    except RuntimeError as error:  # all work is done: another rank may be gone already
        logging.getLogger(__name__).info("the group of processes did not end well: %s", error)


def _hush() -> None:
    """Leave out a warning that says nothing to our users.

    PEFT imports bitsandbytes wherever it is installed, and on a CPU with bfloat16 instructions bitsandbytes then warns that
    its kernel for 4-bit weights on CPUs lies in a package that is not installed. Its errors are still shown.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
