"""The `zoft` command as a user types it, in an empty folder."""

import os
import subprocess
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

import zoft
from zoft import cli
from zoft.errors import UsageError
from zoft.finetune import main as finetune


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"zoft {zoft.__version__}\n"


def test_help_names_every_command(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(f"zoft {name}" in out for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_answers_help(name, capsys):
    for words in (["--help"], ["help"], ["this", "-h"]):
        with suppress(SystemExit) if cli.COMMANDS[name].own_help else nullcontext():  # argparse leaves
            assert cli.main([name, *words]) == 0
        out, err = capsys.readouterr()
        assert f"zoft {name}" in out and not err
        if cli.COMMANDS[name].settings:
            assert all(f"  {setting}=" in out for setting in ("method", "zo_eps", "stability", "guard_patience"))
            assert ("  demonstrations=" in out) == (name == "evaluate")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("compare", ["methods=", "METHOD.key=", "equal=", "budget=", "grid="]),
        ("plan", ["memory=", "device=", "gpus=", "tokens="]),
        ("recipes", ["--model", "--task", "--fits"]),
        ("replay", ["BASE", "LOG", "OUT", "--until"]),
        ("pack", ["LOG", "OUT", "--base", "--until"]),
        ("merge", ["BASE", "OUT", "LOG=SCALE"]),
        ("configs", ["NAME"]),
    ],
)
def test_help_names_what_a_command_alone_takes(name, words, capsys):
    with suppress(SystemExit):
        cli.main([name, "--help"])
    begins = [
        line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ") and line.strip()
    ]
    assert not [word for word in words if not any(begin.startswith(word) for begin in begins)]


def test_help_names_the_methods_and_devices_that_there_are():
    from zoft import plan
    from zoft.config.own_words import METHODS, OWN
    from zoft.costs.devices import DEVICES
    from zoft.finetune import comparison

    assert comparison.METHODS == METHODS and all(name in OWN["plan"]["device"].help for name in DEVICES)
    assert {name for name in OWN["compare"] if name.islower()} == set(comparison.OWN_WORDS)
    assert set(OWN["plan"]) == set(plan.OWN)


@pytest.mark.parametrize("before", [[], ["recipe=quickstart", "max_steps=3"]])
def test_the_module_answers_help(before, capsys):
    assert finetune([*before, "--help"]) == 0
    assert "recipe=NAME|PATH" in capsys.readouterr().out
    assert cli.main(["finetune", *before, "-h"]) == 0
    assert "recipe=NAME|PATH" in capsys.readouterr().out


def test_recipes_lists_what_each_needs(capsys):
    assert cli.main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert "opt-13b-sst2-zoft" in out and "52 GB of GPU memory" in out and "91.4 %" in out and "facebook/opt-13b" in out
    assert max(map(len, out.splitlines())) <= 120


def test_recipes_shows_your_own_too(tmp_path, capsys):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/mine.yaml").write_text("model: a/b\ntask: sst2\nneeds: patience\n")
    assert cli.main(["recipes"]) == 0
    assert "patience" in capsys.readouterr().out


def test_configs_prints_the_path_of_a_launch_file(capsys):
    assert cli.main(["configs", "cpu"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.is_file() and path.name == "cpu.yaml"
    assert cli.main(["configs"]) == 0
    assert {"cpu", "cpu_two", "multi_gpu", "one_gpu"} <= {
        line.split()[0] for line in capsys.readouterr().out.splitlines()
    }


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["finetun"], "unknown command 'finetun'; did you mean finetune?"),
        (["dance"], "unknown command 'dance'; there are finetune, "),
        (["configs", "one_gpus"], "unknown launch file 'one_gpus'; did you mean one_gpu?"),
        (["configs", "a", "b"], "takes one name"),
        (["recipes", "all"], "unknown recipe 'all'"),
    ],
)
def test_wrong_input_is_one_message_and_code_2(argv, part, capsys):
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and part in captured.err


def test_only_rank_0_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["finetun"]) == 2
    assert capsys.readouterr().err == ""


def test_commands_keep_their_own_exit_code(monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "echo", cli.Command("tests_cli_echo:main", "for this test"))
    module = type(sys)("tests_cli_echo")
    module.main = lambda argv: int(argv[0])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests_cli_echo", module)
    assert cli.main(["echo", "5"]) == 5


def test_a_fault_of_the_program_is_not_hidden(monkeypatch):
    def broken(argv):
        raise ValueError("a bug")

    monkeypatch.setattr(cli.Command, "load", lambda self: broken)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["recipes"])
    assert issubclass(UsageError, ValueError)


@pytest.mark.parametrize("module", ["zoft", "zoft.cli"])
def test_run_as_a_module(module):
    root = str(Path(zoft.__file__).parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", module, "finetun"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 2 and done.stderr.startswith("zoft: unknown command") and done.stdout == ""
