"""The frames of a run's clips, as the model saw them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pipeline.clips.decode import Reading
from pipeline.clips.decoder_process import DECODE, process_decoder
from pipeline.clips.fetch import LastRead, digest_of, fetch_clip
from pipeline.clips.recording import DecoderName
from pipeline.clips.views import Views
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.errors import ManifestError
from pipeline.status import DecodeError
from pipeline.store.record import RunRecord


def manifest_rows(
    manifest: Manifest, rows: Iterable[int], views: Views
) -> dict[int, dict[str, Any]]:
    """Manifest rows by a run's rows; a row group is read once, however many of its rows are."""
    wanted = np.unique(np.fromiter(rows, np.int64))
    found = manifest.take(views.video(wanted)).to_pylist()
    return dict(zip(wanted.tolist(), found, strict=True))


@dataclass(frozen=True)
class ClipSource:
    """Reads the frames of a run's clips again, the way the run did."""

    manifest: Manifest
    views: Views
    decoder: DecoderName = "pyav"
    timeout_s: float = 60.0
    """Time that decoding one file may take."""
    memory_bytes: int = 4_000_000_000
    """Memory that decoding one clip may take."""
    decode: str = DECODE
    """What the child runs that decodes, see `pipeline.clips.decoder_process`."""
    last_read: LastRead = field(default_factory=dict, compare=False)
    """As `pipeline.clips.fetch.fetch_clip` has it."""

    @classmethod
    def of_run(cls, ds: xr.Dataset) -> "ClipSource":
        """Find the clips of a run from `analysis.open_run`.

        Raises
        ------
        ManifestError
            When the manifest can't be read, or isn't the one that the run was made from.
        """
        record = RunRecord.from_attributes(ds.attrs, "the run")
        url = record.config["manifest"]
        manifest = read_manifest(url)
        if manifest.digest != record.identity.manifest:
            raise ManifestError(f"manifest {url} has changed since the run: its rows are others")
        return cls(
            manifest,
            record.views,
            record.identity.decoder,
            # Records of before there were such limits lack them.
            timeout_s=float(record.config.get("decode_timeout", cls.timeout_s)),
            memory_bytes=int(record.config.get("decode_memory", cls.memory_bytes)),
        )

    def records(self, rows: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Look up the manifest's row of each of some rows of the run."""
        return manifest_rows(self.manifest, rows, self.views)

    def segment(self, record: Mapping[str, Any]) -> tuple[float | None, float | None]:
        """Bounds in s of the part of its file that a row is; Nones where it is all of it."""
        if not self.manifest.segments:
            return None, None
        return record["start_time"], record["end_time"]

    def frames(
        self,
        row: int,
        path: str,
        frame_index: NDArray[np.integer],
        segment: tuple[float | None, float | None] = (None, None),
        digest: bytes | None = None,
    ) -> NDArray[np.uint8]:
        """Read the frames of a clip as the model saw them.

        Decodes as a run does, in a child process with its limits: the file may be another by now.

        Parameters
        ----------
        row
            The clip's row in the run.
        path
            The clip's path in the manifest.
        frame_index
            (frames,), the frames that the run stored for the clip.
        segment
            The part of the file that the clip is, from `segment`.
        digest
            Digest of the file's bytes, as the run stored it; None where it stored none.

        Returns
        -------
        (frames, height, width, 3) uint8

        Raises
        ------
        DecodeError
            When the clip can't be read any more.
        OSError
            When its storage fails.
        ValueError
            When the file has changed.
        """
        view = self.views.of(row)
        data = fetch_clip(self.manifest.root, path, last_read=self.last_read)
        if digest is not None and digest_of(data) != digest:
            raise ValueError("the file has changed since the run: its bytes are others")
        # A frame of any size: a run was refused whose processor gives several.
        size = view.preprocessing.output_size(1000, 1500)
        frames = np.zeros((view.sampling.n_samples, *size, 3), np.uint8)
        decoder = process_decoder(self.decode, self.memory_bytes)
        (outcome,) = decoder.decode_into(
            [frames],
            data,
            [Reading(view.sampling, view.preprocessing, *segment)],
            decoder=self.decoder,
            timeout_s=self.timeout_s,
        )
        if isinstance(outcome, DecodeError):
            raise outcome
        if not np.array_equal(outcome.frame_index, frame_index):
            raise ValueError("the file has changed since the run: its frames are others")
        return frames
