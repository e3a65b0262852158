import errno
import json
import os
import resource

import pytest

from medcap.errors import UserError
from medcap.training import metering
from medcap.training.metering import JsonLinesFile, MetricsFile, Progress, SpeedMeter


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_values_of_a_step_are_a_line_at_once(tmp_path):
    metrics = MetricsFile(tmp_path / "log")
    metrics.log_dict({"loss": 1.5, "grad_norm": float("inf")}, step=3)
    metrics.log("validation_loss", 2.0, step=3)
    assert (tmp_path / "log" / "metrics.jsonl").read_text() == (
        '{"step": 3, "loss": 1.5, "grad_norm": null}\n{"step": 3, "validation_loss": 2.0}\n'
    )
    metrics.close()
    again = MetricsFile(tmp_path / "log")
    again.log("loss", 1.0, step=4)
    assert [row["step"] for row in rows(again.path)] == [3, 3, 4]


def test_a_resumed_run_removes_the_steps_that_it_makes_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [b'{"step": 1, "loss": 1.0}\n', b'{"step":2,"loss":1}\n', b'{"step": 2, "validation_loss": 3}\n']
    path.write_bytes(b"".join([*lines, b'{"step": 3, "loss": 0.5}\n', b'{"step": 4, "lo']))
    metrics = MetricsFile(tmp_path, resume_step=2)
    assert path.read_bytes() == b"".join(lines)
    metrics.log("loss", 0.6, step=3)
    assert [row["step"] for row in rows(path)] == [1, 2, 2, 3]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("content", [b"", b'{"step": 1}', b'{"step": 1}\n{"st', b"x" * 10000])
def test_a_line_that_was_cut_off_spoils_no_other(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    metrics = MetricsFile(tmp_path)
    metrics.log("loss", 1.0, step=9)
    assert rows(metrics.path)[-1] == {"step": 9, "loss": 1.0}
    assert len(rows(metrics.path)) == content.count(b"\n") + 1


def test_lines_that_are_no_objects_with_a_step_do_not_survive_a_resume(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'[1]\nnull\n{"step": "x"}\n\xff\n{"step": 1}\n')
    MetricsFile(tmp_path, resume_step=5)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n'


def test_a_full_disk_is_said_once_and_the_file_continues_when_there_is_room(tmp_path, capsys):
    metrics = MetricsFile(tmp_path)
    metrics.log("loss", 1.0, step=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Stands in for a disk with room for a part of the next line.
    resource.setrlimit(resource.RLIMIT_FSIZE, (metrics.path.stat().st_size + 5, limits[1]))
    try:
        for step in (2, 3):
            metrics.log("loss", 1.0, step=step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capsys.readouterr().err == (
        f"{metrics.path} cannot be written (File too large); training goes on without it\n"
    )
    assert rows(metrics.path) == [{"step": 1, "loss": 1.0}]
    metrics.log("loss", 1.0, step=4)
    metrics.log("loss", 1.0, step=5)
    assert [row["step"] for row in rows(metrics.path)] == [1, 4, 5]
    assert capsys.readouterr().err == f"{metrics.path} is written again; 2 rows are missing in it\n"


def test_a_part_of_a_line_that_cannot_be_taken_back_is_removed_later(tmp_path, capsys, monkeypatch):
    file = JsonLinesFile(tmp_path / "rows.jsonl")
    file.write({"a": 1})
    real_write, real_truncate = os.write, os.ftruncate

    def half(descriptor, data):
        if len(data) > 4:
            return real_write(descriptor, data[:4])
        raise OSError(errno.EIO, "Input/output error")

    def refuse(descriptor, length):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(metering.os, "write", half)
    monkeypatch.setattr(metering.os, "ftruncate", refuse)
    file.write({"b": 2})
    assert file.path.read_text() != '{"a": 1}\n'
    monkeypatch.setattr(metering.os, "write", real_write)
    monkeypatch.setattr(metering.os, "ftruncate", real_truncate)
    file.write({"c": 3})
    assert file.path.read_text() == '{"a": 1}\n{"c": 3}\n'


def test_a_folder_that_cannot_be_written_to_is_found_at_the_start(tmp_path):
    (tmp_path / "log").write_text("a file in the way")
    with pytest.raises(UserError, match=r"log/metrics.jsonl cannot be written \(File exists\): fix its folder"):
        MetricsFile(tmp_path / "log")


def test_rates_are_sums_over_the_last_steps(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(metering.time, "perf_counter", lambda: now[0])
    meter = SpeedMeter(window=2)
    for seconds, waited in ((50.0, 50.0), (1.0, 0.5), (3.0, 0.5)):
        now[0] += seconds
        meter.update(400, 40, 4, waited)
    assert meter.rates() == {
        "tokens_per_second": 200.0,
        "label_tokens_per_second": 20.0,
        "images_per_second": 2.0,
        "data_wait": 0.25,
    }
    assert meter.last_seconds == 3.0
    now[0] += 10
    meter.restart()
    now[0] += 1
    meter.update(0, 0, 0)
    assert meter.rates()["tokens_per_second"] == 100.0 and meter.rates()["data_wait"] == 0.125


def test_the_share_of_waiting_is_at_most_all():
    meter = SpeedMeter()
    meter.update(1, 1, 1, waited_seconds=1e9)
    assert meter.rates()["data_wait"] == 1.0


def test_progress_is_a_line_and_silent_on_other_processes(capsys):
    values = {"loss": 0.5, "tokens_per_second": 1000.0, "label_tokens_per_second": 100.0, "images_per_second": 2.0}
    for silent in (True, False):
        progress = Progress(total=3, done=2, silent=silent)
        progress.note("a note")
        progress.update(values)
        progress.close()
    assert capsys.readouterr().err == (
        "a note\nstep 3/3: loss 0.5000, 1,000 tokens/s (100 labels), 2.0 images/s, 00:00 left\n"
    )
