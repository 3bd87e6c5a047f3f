"""What a decoder's child runs to look at a file's header alone: no frame is decoded."""

from collections.abc import Sequence

import numpy as np

from pipeline.clips.decode import ClipFrames, Reading
from pipeline.clips.recording import DecoderName, open_recording
from pipeline.status import DecodeError, Status


def read_header(
    data: bytes, readings: Sequence[Reading], decoder: DecoderName = "pyav"
) -> list[ClipFrames | DecodeError]:
    """Open a video file, in the form that `pipeline.clips.decoder_process` asks a child for.

    Returns
    -------
    For each of ``readings`` the place and time of the file's last frame, and a black pixel for it;
    or why the file can't be opened.
    """
    try:
        timeline = open_recording(data, decoder).timeline
        if not timeline.n_frames:
            raise DecodeError(Status.TOO_SHORT, "the file has no frame")
    except DecodeError as error:
        return [error] * len(readings)
    last = np.array([timeline.n_frames - 1])
    found = ClipFrames(
        frames=np.zeros((1, 1, 1, 3), np.uint8),
        frame_index=last,
        frame_time=timeline.seconds(last),
        fps=timeline.fps,
        n_frames=timeline.n_frames,
    )
    return [found] * len(readings)
