"""Rows come with their place, whatever the file's form."""

import json
from pathlib import Path

import pytest

from pruner.records import read_records

ROWS = [{"instruction": "Add.", "output": "3\n[,]"}, {"instruction": "Say ünïcode.", "output": "ü"}]


def written(folder, form):
    file = folder / f"rows{form}"
    if form == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    elif form == ".json":
        file.write_text(json.dumps(ROWS, indent=1))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(file)


@pytest.mark.parametrize("form", [".json", ".jsonl", ".parquet"])
def test_every_form_yields_the_same_rows(tmp_path, form):
    assert [row for row, _ in read_records(written(tmp_path, form))] == ROWS


def test_a_json_list_tells_the_line_each_row_starts_on(tmp_path):
    file = written(tmp_path, ".json")
    lines = Path(file).read_text().splitlines()
    for row, place in read_records(file):
        start = int(place.rsplit(":", 1)[1]) - 1
        assert lines[start].strip() == "{"
        assert json.dumps(row["instruction"]) in lines[start + 1]


def test_a_json_file_of_lines_is_read_as_lines(tmp_path):
    file = tmp_path / "lines.json"
    file.write_text("\n".join(json.dumps(row) for row in ROWS))
    assert [place for _, place in read_records(str(file))] == [f"{file}:1", f"{file}:2"]


def test_a_text_file_is_one_row(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert [row for row, _ in read_records(str(tmp_path / "a.txt"))] == [{"text": "one\ntwo\n"}]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("bad.jsonl", '{"a": 1}\n{"a": \n', r"bad\.jsonl:2: not JSON"),
        ("bad.json", '[\n{"a": 1},\n{"a" 2}]', r"bad\.json:3: not JSON"),
        ("cut.json", '[\n{"a": 1},\n', r"cut\.json:3: not JSON"),
        ("bare.jsonl", '"text"\n', r"bare\.jsonl:1: expected an object"),
        ("rows.xml", "<a/>", r"expected one of \.json, \.jsonl"),
        ("bad.parquet", "no", "not Parquet"),
    ],
)
def test_a_bad_file_is_refused_at_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        list(read_records(str(tmp_path / name)))


def test_a_missing_file_is_refused_before_the_first_row_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read_records(str(tmp_path / "none.jsonl"))


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        read_records(str(tmp_path))
