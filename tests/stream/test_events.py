import json
import threading

from pipeline.stream.events import Events


def test_events_are_lines_without_credentials(tmp_path):
    path = tmp_path / "a/events.jsonl"
    events = Events(path)
    events.tell("cam", "lost", {"reason": "rtsp://eve:hunter2@cam refused\nthis"})
    events.tell("", "committed", {"rows": 3})
    first, second = map(json.loads, path.read_text().splitlines())
    assert (first["stream"], first["event"]) == ("cam", "lost")
    assert "hunter2" not in path.read_text()
    assert second["rows"] == 3
    assert "stream" not in second


def test_lines_of_several_threads_stay_whole_and_the_file_stays_bounded(tmp_path):
    path = tmp_path / "events.jsonl"
    events = Events(path, max_bytes=20_000)

    def tell(name):
        for number in range(200):
            events.tell(name, "state", {"number": number})

    threads = [threading.Thread(target=tell, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for file in (path, tmp_path / "events.jsonl.1"):
        assert file.stat().st_size < 21_000
        assert all(json.loads(line)["event"] == "state" for line in file.read_text().splitlines())


def test_a_file_that_is_moved_away_is_begun_again(tmp_path):
    path = tmp_path / "events.jsonl"
    events = Events(path)
    events.tell("cam", "lost", {})
    path.rename(tmp_path / "events.jsonl.old")
    events.tell("cam", "back", {})
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["back"]


def test_behind_a_part_of_a_line_the_next_one_is_whole(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "back"}\n{"event": "lo')
    Events(path).tell("cam", "lost", {})
    first, part, last = path.read_text().splitlines()
    assert json.loads(first)["event"] == "back"
    assert part == '{"event": "lo'
    assert json.loads(last)["event"] == "lost"


def test_a_disk_that_refuses_ends_nothing(tmp_path):
    path = tmp_path / "events.jsonl"
    events = Events(path)
    path.unlink()
    path.mkdir()
    events.tell("cam", "lost", {})


def test_without_a_file_they_are_logged(caplog):
    with caplog.at_level("INFO", logger="pipeline"):
        Events().tell("cam", "jump", {"seconds": 3})
    assert caplog.records[0].fields["stream"] == "cam"
