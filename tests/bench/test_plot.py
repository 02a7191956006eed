"""The picture and the table of what a step costs, from a small CSV."""

import importlib
import sys

import pytest

plot = importlib.import_module("benchmarks.plot")
HEADER = "device,commit,model,dtype,batch,contestant,to_forwards_wall,mezo_over_it_wall\n"
ROWS = """"AMD, 2 cores",a,opt-125m,float32,1x512,forwards,,2.900
"AMD, 2 cores",a,opt-125m,float32,1x512,mezo,2.900,
"AMD, 2 cores",a,opt-125m,float32,1x512,in_place,1.300,2.200
"AMD, 2 cores",a,opt-125m,float32,1x512,in_place_passes,0.030,50.0
"AMD, 2 cores",a,opt-125m,bfloat16,1x512,read_only,1.200,3.400
"AMD, 2 cores",b,opt-125m,float32,1x512,in_place,1.038,2.778
"""


def run(tmp_path, monkeypatch, *arguments: str, text: str = HEADER + ROWS) -> int:
    (tmp_path / "step.csv").write_text(text)
    monkeypatch.setattr(
        sys,
        "argv",
        ["plot.py", "--csv", str(tmp_path / "step.csv"), "--out", str(tmp_path / "a" / "s.svg"), *arguments],
    )
    return plot.main()


def test_the_picture_shows_the_newest_figures_and_is_the_same_each_time(tmp_path, monkeypatch) -> None:
    assert run(tmp_path, monkeypatch) == 0
    first = (tmp_path / "a" / "s.svg").read_bytes()
    assert run(tmp_path, monkeypatch) == 0 and (tmp_path / "a" / "s.svg").read_bytes() == first
    text = first.decode()
    assert text.startswith("<?xml") and "<!--  1.04 -->" in text and "1.30" not in text and "<!-- MeZO -->" in text


def test_the_table_has_a_row_a_cell(tmp_path, monkeypatch, capsys) -> None:
    assert run(tmp_path, monkeypatch, "--table") == 0
    assert capsys.readouterr().out.splitlines() == [
        "| shape, weights, rows x tokens | MeZO | read-only | in place |",
        "| --- | --- | --- | --- |",
        "| opt-125m, float32, 1x512 | 2.90 | | 1.04 (2.8) |",
        "| opt-125m, bfloat16, 1x512 | | 1.20 (3.4) | |",
    ]


def test_the_table_names_devices_where_there_are_several(tmp_path, monkeypatch, capsys) -> None:
    text = HEADER + ROWS + '"AMD, 2 cores, AVX2",c,opt-125m,float32,1x512,in_place,1.010,4.100\n'
    assert run(tmp_path, monkeypatch, "--table", text=text) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows[0].startswith("| opt-125m, float32, 1x512, AMD, 2 cores | 2.90 |")
    assert rows[2] == "| opt-125m, float32, 1x512, AMD, 2 cores, AVX2 | | | 1.01 (4.1) |"


def test_nothing_to_draw_and_no_matplotlib_are_told(tmp_path, monkeypatch, capsys) -> None:
    assert run(tmp_path, monkeypatch, text=HEADER) == 2
    assert "benchmarks/step.py` measures some" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(tmp_path, monkeypatch) == 2
    assert "pip install matplotlib; --table needs nothing" in capsys.readouterr().err
    with pytest.raises(plot.UsageError, match="does not exist"):
        plot.latest(tmp_path / "absent.csv")
