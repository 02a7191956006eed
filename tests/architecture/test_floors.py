"""Imports go down: the floors drawn in docs/design.md, made executable."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "zoft"
KERNELS = ROOT / "kernels" / "torch-ext" / "zoft_kernels"

# Rooms on one floor that may lean on a neighbour, and why. No circle: tested below.
SIDEWAYS = {
    ("config", "trainer"): "the configuration reads the light settings that the trainer's room owns",
    ("finetune", "quickstart"): "a run of recipe=quickstart is assembled by finetune",
    ("plan", "finetune"): "a plan is for the run that finetune would assemble",
    ("plan", "quickstart"): "the sizes of the offline worlds' models are those with which they are built",
    ("plan", "bench"): "the rates of this machine are measured as the benchmark measures its ceilings",
    ("directions", "naming"): "a direction is addressed by the stream of a name",
    ("optimizer", "estimators"): "the optimizer spends the estimates that an estimator makes",
    ("captured", "optimizer"): "a captured step is the optimizer's own, taken without the host",
    ("trajectory", "optimizer"): "the log is written beside the optimizer and read back into one",
    ("trajectory", "estimators"): "replay repeats the points at which an in-place estimator took its losses",
    ("perturb", "read_only"): "the population's losses are taken through read-only views",
    ("lockstep", "perturb"): "lockstep is a read-only perturbation, compared with the one in turn",
    ("lockstep", "vectors"): "each point's norms and biases are made early, as a view's are",
    ("lockstep", "audit"): "a view's passes are audited",
    ("lockstep", "tally"): "losses of members are counted as the optimizer counts them",
    ("space", "streaming"): "a write brings in the blocks that live outside the device",
    ("streaming", "storage"): "the machine's free memory is asked for in one place",
    ("read_only", "audit"): "a view's passes are audited",
    ("read_only", "grouped"): "a view displaces weights together when the module around them begins",
    ("read_only", "shown"): "the copies of a pass stand in one stack",
    ("grouped", "audit"): "tensors among arguments are found in one place",
    ("grouped", "shown"): "groups put up their copies in the view's stack",
    ("shown", "audit"): "a copy that outlives its module is a read outside of it",
    ("read_only", "vectors"): "a view shows the copies of vectors that were made when its pass began",
}
GROUND = {"errors"}  # below everything: imports nothing of zoft
# Third-party packages that only their own rooms may import, and nobody while being imported.
HEAVY = {
    "triton",
    "numba",
    "transformers",
    "datasets",
    "peft",
    "bitsandbytes",
    "matplotlib",
    "accelerate",
    "trl",
    "sklearn",
}
# Modules that are only ever imported by name, once the user asked for them: they may import their subject at the top.
OWN_SUBJECT = {
    "zoft/trainer": {"transformers", "accelerate"},
    "zoft/backends": {"numba", "triton"},
    "zoft/report": {"matplotlib"},
    "zoft/quickstart": {"transformers", "matplotlib"},
    "zoft/finetune/": {"transformers", "accelerate"},
    "kernels/torch-ext/zoft_kernels": {"triton"},
}
# Never imported at the top by the modules through which the command line checks its input.
LIGHT = [
    "zoft/__init__.py",
    "zoft/__main__.py",
    "zoft/choices.py",
    "zoft/cli.py",
    "zoft/config",
    "zoft/errors.py",
    "zoft/trainer/__init__.py",
    "zoft/trainer/mezo_settings.py",
    "zoft/trainer/refused.py",
    "zoft/trainer/settings.py",
]
SOURCES = sorted([*PACKAGE.rglob("*.py"), *KERNELS.rglob("*.py")])


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def floors() -> dict[str, int]:
    """Room -> floor, as docs/design.md draws them."""
    section = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").split("## Floors", 1)[1].split("```")[1]
    found: dict[str, int] = {}
    for line in section.splitlines():
        drawn = re.match(r"\s*(\d)\s+(.*)", line)
        if drawn:
            names = re.sub(r"\([^)]*\)", "", drawn[2]).replace("·", " ").split()
            found |= {name.rstrip("/"): int(drawn[1]) for name in names}
    return found


def room_of(path: Path) -> str:
    if KERNELS in path.parents:
        return "zoft_kernels"
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path, top_only: bool = False) -> list[str]:
    """Dotted names of the modules imported in a file; with `top_only`, those imported when the file is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    stack: list[ast.AST] = list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level == 1 and path.is_relative_to(KERNELS):
                continue  # a kernel from the Hub is loaded under a name of its own, so it must name its parts relatively
            assert node.level == 0, f"{relative(path)}: relative imports hide the room that they reach"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif top_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        elif top_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            stack += node.orelse
            continue
        stack += ast.iter_child_nodes(node)
    return found


def test_the_drawing_is_read():
    assert floors()["naming"] == 1 and floors()["space"] == 3 and floors()["cli"] == 8 and floors()["config"] == 6


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path in SOURCES} - {"__init__", "__main__"}
    assert not (homeless := sorted(rooms - floors().keys())), f"draw these in docs/design.md: {homeless}"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_go_down(path: Path):
    room = room_of(path)
    if room in ("__init__", "__main__"):  # the front doors
        return
    here = floors().get(room)
    if here is None:
        pytest.skip(f"{room} has no floor; test_every_room_has_a_floor says so")
    for name in imports_of(path):
        first, _, rest = name.partition(".")
        target = rest.split(".")[0] if first == "zoft" else first
        if first not in ("zoft", "zoft_kernels") or target in (room, "__version__"):
            continue
        there = floors().get(target)
        assert there is not None, f"{relative(path)} imports {name}, a room without a floor"
        allowed = there < here or target in GROUND or (room, target) in SIDEWAYS
        assert allowed, f"{relative(path)} (floor {here}) imports {name} (floor {there})"


def test_neighbours_lean_one_way():
    """Every neighbourly import joins rooms of one floor, and following them never leads back."""
    for room, target in SIDEWAYS:
        assert floors()[room] == floors()[target], f"{room} and {target} are not on one floor"
        reached, frontier = set(), {target}
        while frontier:
            reached |= frontier
            frontier = {b for a, b in SIDEWAYS if a in frontier} - reached
        assert room not in reached, f"{room} leans on itself through {target}"
    for path in SOURCES:
        if room_of(path) in GROUND:
            assert not [name for name in imports_of(path) if name.startswith("zoft")]


def test_the_kernels_know_nothing_of_zoft():
    for path in KERNELS.rglob("*.py"):
        assert not [name for name in imports_of(path) if name.split(".")[0] == "zoft"], relative(path)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_heavy_imports_stay_in_their_rooms(path: Path):
    where = relative(path)
    allowed = set().union(*(packages for place, packages in OWN_SUBJECT.items() if where.startswith(place)))
    if any(where == light or where.startswith(f"{light}/") for light in LIGHT):
        allowed = set()
        assert "torch" not in {name.split(".")[0] for name in imports_of(path, top_only=True)}, where
    at_top = {name.split(".")[0] for name in imports_of(path, top_only=True)} & HEAVY
    assert at_top <= allowed, f"{where} imports {sorted(at_top - allowed)} at the top; import it where it is used"


def test_no_catch_all_modules():
    forbidden = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    assert not [relative(path) for path in SOURCES if path.stem in forbidden or path.parent.name in forbidden]


def test_kernels_is_no_package():
    """`kernels/__init__.py` on the path would stand in front of Hugging Face's own `kernels` and break Transformers."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "kernels" / "torch-ext" / "__init__.py").exists()
