"""Sessions whose process is killed, or whose disk refuses, at any of its changes of the disk.

``python -m tests.stream.cut_sessions FOLDER kill FIRST STEP`` writes a session for every so many
changes of the second shard: each by a process of its own, which is killed right before it makes
that change, and the last one by a process that isn't killed. ``fail`` has the disk be full for that
one change instead, and the shard committed again. Prints a JSON list with what each process said:
nothing if it was killed.
"""

import errno
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from pipeline.errors import StoreError
from pipeline.stream.session import Row
from tests.stream.made import ROWS_PER_SHARD, rows_of, session, window

_CHANGES = {"os.rename", "os.remove", "os.truncate"}


class Disk:
    """Counts what this process changes below a folder, and meets the n-th change.

    The interpreter tells an audit hook before it opens, renames, makes or removes anything.
    """

    def __init__(self, folder: Path, n_whole: int, how: str) -> None:
        # What the process says of itself lies beside the folder, under a name that begins like it.
        self._below, self._left, self._how = f"{folder}{os.sep}", n_whole, how
        sys.addaudithook(self._hook)

    def _hook(self, event, args):
        if not isinstance(args[0] if args else None, str | Path):
            return
        path = str(args[0])
        is_change = event in _CHANGES or (event == "open" and (args[2] or 0) & os.O_ACCMODE)
        # Folders are made whether they are there or not.
        is_change = is_change or (event == "os.mkdir" and not Path(path).is_dir())
        if not is_change or not path.startswith(self._below):
            return
        self._left -= 1
        if self._left != -1:
            return
        if self._how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    @property
    def has_met(self) -> bool:
        return self._left < 0


def rows(*numbers):
    """Rows of some windows, as a recording makes them."""
    return [
        Row(
            columns,
            {
                "video_id": str(columns["video_id"][0]),
                "path": "cam",
                "start_time": each.start_s,
                "end_time": each.end_s,
                "stream": each.stream,
                "window": each.number,
            },
        )
        for each, columns in rows_of([window(number) for number in numbers])
    ]


def write(folder: Path, n_whole: int, how: str) -> dict:
    """Write a session in this process, which changes the disk so often in its second shard."""
    live = session(folder)
    live.commit(rows(*range(ROWS_PER_SHARD)))
    disk = Disk(folder, n_whole, how)
    second = rows(*range(ROWS_PER_SHARD, 2 * ROWS_PER_SHARD))
    said = ""
    try:
        live.commit(second)
    except (OSError, StoreError) as error:
        said = str(error)
        live.commit(second)
    return {"met": disk.has_met, "said": said}


def in_child(folder: Path, n_whole: int, how: str) -> dict:
    """Do so in a process of its own."""
    told = folder.with_name(f"{folder.name}.json")
    child = os.fork()
    if not child:
        # Whatever happens, the child doesn't go on as its parent.
        try:
            told.write_text(json.dumps(write(folder, n_whole, how)))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    os.waitpid(child, 0)
    with suppress(FileNotFoundError):
        return json.loads(told.read_text())
    return {"met": True, "said": ""}


def main() -> None:
    folder, how, first, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    told = []
    while not told or told[-1]["met"]:
        told.append(in_child(folder / str(len(told)), first + step * len(told), how))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
