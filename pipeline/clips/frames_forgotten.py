"""What was erased from a cache of frames, and isn't written back to it.

A run may have read an object before rows of it were erased, and would write its old copy
afterwards. So what is erased is noted first, and whoever has written an object looks at the note
once more: either the note is there by then, and the object is written again without these rows, or
it was written before they were erased. No name is noted, nor a file's digest as runs store it.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StorageError, reason_of
from pipeline.storage.files import read_bytes, write_bytes

FORGOTTEN_NAME = "forgotten.json"
"""Name of the note in a cache's folder."""
_VERSION = 1
_PERSON = b"staa-forgotten"


@dataclass(frozen=True)
class Forgotten:
    """Clips by the digest of their ``clip_digest``, and rows of parts, which are small numbers."""

    clips: frozenset[str] = frozenset()
    rows: frozenset[tuple[str, int]] = frozenset()
    """Name of a part, and a row of it."""

    @classmethod
    def of(cls, clip_digests: Iterable[bytes], rows: Iterable[tuple[str, int]]) -> Self:
        """Make the note of some clips and rows."""
        return cls(frozenset(map(_digest_of, clip_digests)), frozenset(rows))

    @classmethod
    def read(cls, cache_url: str) -> Self:
        """Read what was erased from a cache; nothing, where nothing was.

        Raises
        ------
        StorageError
            If the note is damaged: what must stay out might come back.
        OSError, StorageError
            As `pipeline.storage.files.read_bytes` does.
        """
        url = _url(cache_url)
        try:
            values = json.loads(read_bytes(url))
            if values["version"] != _VERSION:
                raise ValueError(f"version {values['version']!r}, expected {_VERSION}")
            rows = ((str(part), int(row)) for part, of in values["rows"].items() for row in of)
            return cls(frozenset(map(str, values["clips"])), frozenset(rows))
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise StorageError(
                f"{url} says what must stay out of the cache, and can't be read: {reason_of(error)}"
            ) from error

    def noted(self, cache_url: str) -> Self:
        """Add it to the note of a cache, unless it is there: all of the note.

        Raises
        ------
        OSError, StorageError
            As `read` and `pipeline.storage.files.write_bytes` do.
        """
        there = self.read(cache_url)
        together = type(self)(self.clips | there.clips, self.rows | there.rows)
        if together != there:
            write_bytes(_url(cache_url), together._as_json())
        return together

    def which(
        self, part: str, rows: NDArray[np.integer], clip_digests: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        """Whether each row of a part was erased, by its number or the clip it is of.

        Parameters
        ----------
        rows, clip_digests
            (rows,), and uint8 (rows, digest's bytes).
        """
        if not self.clips and not self.rows:
            return np.zeros(len(rows), np.bool_)
        pairs: list[tuple[int, Any]] = list(zip(rows.tolist(), clip_digests, strict=True))
        is_one = [
            (part, row) in self.rows or _digest_of(digest.tobytes()) in self.clips
            for row, digest in pairs
        ]
        return np.array(is_one, np.bool_)

    def rows_of(self, part: str) -> NDArray[np.int64]:
        """Rows of a part that are noted by their number, in order."""
        return np.array(sorted(row for name, row in self.rows if name == part), np.int64)

    def _as_json(self) -> bytes:
        rows: dict[str, list[int]] = defaultdict(list)
        for part, row in sorted(self.rows):
            rows[part].append(row)
        values = {"version": _VERSION, "clips": sorted(self.clips), "rows": rows}
        return json.dumps(values).encode()


def _url(cache_url: str) -> str:
    return f"{cache_url.rstrip('/')}/{FORGOTTEN_NAME}"


def _digest_of(clip_digest: bytes) -> str:
    """Digest of a clip's digest: with the file it can be made again, and with neither told."""
    return hashlib.blake2b(clip_digest, digest_size=16, person=_PERSON).hexdigest()
