"""A recording that libavcodec decodes through PyAV: the default decoder.

It runs in this thread alone, in decoding order, so that the result for a clip depends only on its
bytes and on the frames that are wanted. There are three ways of reading, and all give the frames
that reading everything forward gives: by a plan, if times tell each frame's place; forward, if each
packet is a frame and the order isn't known; and forward after a pass that counts. The packets
decide which one is used (see `pipeline.clips.reading_plan`).

By default, libavcodec conceals what it can't decode and flags only some of it. Here an error is an
error (``err_detect=explode``): out of 60 damaged H.265 files 25 went unnoticed, without this option
45. In H.264, it also stops at encoders' slips that change no picture, such as marking a reference
as unused that is already gone. So in H.264 a complaint counts only if decoding that isn't strict
has one, too.

Rarely, a picture isn't decoded everywhere and nothing complains. What is seen there is what its
buffer held before. Read forward, that is a function of the bytes. Read by a plan, it may depend on
which frames are wanted in the same pass, as other pictures are decoded before it then.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from pipeline.clips.libav_opening import MAX_PIXELS, demuxed, open_stream, reason_of
from pipeline.clips.orientation import upright
from pipeline.clips.pictures import Picture, picture_reader
from pipeline.clips.reading_plan import (
    PacketTable,
    can_skip,
    counts_by_packets,
    packets_to_send,
    presentation_order,
)
from pipeline.clips.timeline import ContradictionError, Timeline
from pipeline.status import DecodeError, Status

MAX_PACKETS = 4_000_000
"""Most packets in a clip: 18 hours at 60 frames/s. A file of some kB can declare more."""
_KEPT_BYTES = 256_000_000
"""What packets may take in memory while a clip is read."""
_PACKET_BYTES = 500
"""Memory of a packet beside its bytes: a file may have millions of packets of some bytes."""
_PROGRESSIVE = (0, 1)
"""libavcodec's field orders ``unknown`` and ``progressive``."""


class _Damage(NamedTuple):
    """A packet that can't be decoded, by its number, and why."""

    number: int
    reason: str


class LibavRecording:
    """See `pipeline.clips.recording.Recording`.

    Parameters
    ----------
    data
        The whole file.
    demuxer
        Name of its container, see `pipeline.clips.containers.demuxer_of`.
    max_packets
        A file with more is refused.
    kept_bytes
        Packets of the first reading are kept if they take no more; others are read again.

    Raises
    ------
    DecodeError
        ``UNREADABLE``, if it holds no video that can be decoded, or one beyond all bounds;
        ``TRUNCATED``, if the container can't be read to its end.
    """

    timeline: Timeline

    def __init__(
        self,
        data: bytes,
        demuxer: str,
        *,
        max_packets: int = MAX_PACKETS,
        kept_bytes: int = _KEPT_BYTES,
    ) -> None:
        self._data = data
        self._max_packets = max_packets
        self._demuxer = demuxer
        self._container, self._stream = open_stream(data, demuxer)
        self._is_fresh, self._is_strict = True, True
        context: Any = self._stream.codec_context
        self._codec: str = context.name
        self._packets: list[Any] | None = []
        self._max_kept = max(0, kept_bytes - len(data)) // _PACKET_BYTES
        self._table = self._read_table()
        self._skips = can_skip(self._table, self._codec)
        self._order = presentation_order(
            self._table,
            demuxer=demuxer,
            codec=self._codec,
            reorders=bool(context.reorder_depth),
            interlaced=context.field_order not in _PROGRESSIVE,
        )
        self._damaged: dict[int, int] = {}
        """Frame position of each packet that the counting pass couldn't decode, by packet
        number."""
        self._shown: NDArray[np.int64] | None = None
        """Position of each frame in the order in which decoding gives them, if they were
        counted."""
        if self._order is not None:
            self.timeline = self._timeline_of(self._order)
        elif counts_by_packets(self._table, demuxer=demuxer, codec=self._codec):
            self.timeline = self._timeline_of_packets()
        else:
            self.count()

    def frames_at(self, positions: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Decode the frames at some positions; see `pipeline.clips.recording.Recording`."""
        wanted = list(positions)
        n_read = 0
        try:
            for frame in self._read(wanted):
                yield frame
                n_read += 1
            return
        except DecodeError:
            if not self._is_playable(wanted):
                raise
        self._is_strict = False
        yield from self._read(wanted[n_read:])

    def _read(self, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        if not wanted:
            return
        reformatter = VideoReformatter()
        found, has_missed = 0, False
        for position, frame in self._decoded(wanted):
            # A decoder may drop a whole frame together with the damaged one behind it, which shows
            # only when that one is asked for.
            has_missed = has_missed or position > wanted[found]
            if has_missed or position < wanted[found]:
                continue
            yield upright(frame, reformatter)
            found += 1
            if found == len(wanted):
                return
        raise ContradictionError

    def count(self) -> None:
        """Decode everything to learn which frames there are; from now on, read forward."""
        self._order = None
        numbers, errors = self._decode_all()
        if errors and self._is_playable(None):
            self._is_strict = False
            numbers, errors = self._decode_all()
        pts = self._table.pts
        times = [None if number is None else pts[number] for number in numbers]
        # Recordings that were joined begin their times again.
        is_timed = None not in times and (np.diff(np.array(times, np.int64)) > 0).all()
        for number in errors:
            time = pts[number]
            before = (
                sum(other is not None and other < time for other in times)
                if time is not None and is_timed
                else sum(other is not None and other < number for other in numbers)
            )
            numbers.insert(before, number)
            times.insert(before, time)
        damaged = set(errors)
        self._damaged = {n: at for at, n in enumerate(numbers) if n is not None and n in damaged}
        self._shown = np.array([at for at, n in enumerate(numbers) if n not in damaged], np.int64)
        known = [number for number in numbers if number is not None]
        if None not in pts and (np.diff(np.array(pts, np.int64)) > 0).all():
            # In AVI with B-frames, or copied from there: times of decoding, which tell the rate.
            known.sort()
        times = [pts[number] for number in known]
        is_timed = None not in times and (np.diff(np.array(times, np.int64)) > 0).all()
        if is_timed and 0 < len(known) == len(numbers):
            self.timeline = self._timeline_of(np.array(known, np.int64))
        else:
            self.timeline = Timeline.of_rate(len(numbers), self._rate)

    @property
    def _rate(self) -> Fraction | None:
        rate: Fraction | None = self._stream.average_rate or self._stream.guessed_rate
        return rate

    def _timeline_of_packets(self) -> Timeline:
        """Make the timeline of frames that come in the order of their packets.

        Webcams leave out frames, and their packets' times tell where.
        """
        pts, n_packets = self._table.pts, self._table.n_packets
        if None not in pts and (np.diff(np.array(pts, np.int64)) > 0).all():
            return self._timeline_of(np.arange(n_packets, dtype=np.int64))
        return Timeline.of_rate(n_packets, self._rate)

    def _timeline_of(self, order: NDArray[np.int64]) -> Timeline:
        """Make the timeline from the packets' times, given the packet of each frame."""
        pts = np.array([self._table.pts[number] for number in order], np.int64)
        duration = self._table.durations[order[-1]]
        rate = self._rate
        fps = float(rate) if rate else float("nan")
        return Timeline.of_times(pts, duration, self._stream.time_base, fps)

    def _read_table(self) -> PacketTable:
        context: Any = self._stream.codec_context
        read = picture_reader(self._codec, context.extradata)
        table = PacketTable([], [], [], [], [], [], [] if read else None)
        for packet in demuxed(self._container, self._stream):
            picture = read(bytes(packet)) if read else Picture()
            table.pts.append(packet.pts)
            table.dts.append(packet.dts)
            table.durations.append(packet.duration)
            table.is_key.append(packet.is_keyframe)
            table.is_hidden.append(packet.is_discard)
            table.is_damaged.append(packet.is_corrupt or picture.is_damaged)
            if table.pictures is not None:
                table.pictures.append(picture)
            if self._packets is not None:
                self._packets.append(packet)
                if len(self._packets) > self._max_kept:
                    self._packets = None
            if table.n_packets > self._max_packets:
                raise DecodeError(
                    Status.UNREADABLE,
                    f"there are more than {self._max_packets} packets in the file",
                )
        if not table.n_packets:
            raise DecodeError(Status.UNREADABLE, "there are no frames in the file")
        return table

    def _fresh_context(self) -> Any:
        """Return a decoder that has decoded nothing; each pass needs one."""
        if not self._is_fresh:
            self._container, self._stream = open_stream(self._data, self._demuxer)
        self._is_fresh = False
        context: Any = self._stream.codec_context
        context.thread_count = 1
        context.thread_type = "NONE"
        strictness = {"err_detect": "explode"} if self._is_strict else {}
        context.options = {"max_pixels": str(MAX_PIXELS), **strictness}
        return context

    def _is_playable(self, wanted: Sequence[int] | None) -> bool:
        """Whether a decoder that isn't strict finds H.264 whole, in what some or all frames need.

        Such a decoder conceals what it lacks, and flags the frame in which it did.
        """
        if self._codec != "h264" or not self._is_strict:
            return False
        sent: Sequence[int] = range(self._table.n_packets)
        if wanted is not None and self._order is not None:
            sent = packets_to_send(self._table, self._order, wanted)
        if any(self._table.is_damaged[number] for number in sent):
            return False
        self._is_strict = False
        context, is_sent = self._fresh_context(), set(sent)
        self._is_strict = True
        try:
            for number, packet in self._numbered():
                if number in is_sent and any(f.is_corrupt for f in context.decode(packet)):
                    return False
            return not any(frame.is_corrupt for frame in context.decode(None))
        except MemoryError:
            raise
        except av.FFmpegError:
            return False

    def _numbered(self) -> Iterator[tuple[int, Any]]:
        """Yield packets with their numbers, which replace their times: frames pass these on."""
        if self._packets is not None:
            packets: Any = self._packets
        else:
            packets = demuxed(*open_stream(self._data, self._demuxer))
        for number, packet in enumerate(packets):
            packet.pts = number
            yield number, packet

    def _decode_all(self) -> tuple[list[int | None], list[int]]:
        """Decode everything; return the packet of each frame in turn, and the damaged packets."""
        context = self._fresh_context()
        frames: list[int | None] = []
        damaged: list[int] = []
        start = self._first_key
        for number, packet in self._numbered():
            if number < start:
                continue
            if self._table.is_damaged[number]:
                damaged.append(number)
                continue
            try:
                come = context.decode(packet)
            except MemoryError:
                raise
            except av.FFmpegError:
                damaged.append(number)
                continue
            for frame in come:
                (damaged if frame.is_corrupt else frames).append(frame.pts)
        for frame in _drained(context):
            (damaged if frame.is_corrupt else frames).append(frame.pts)
        return frames, damaged

    @property
    def _first_key(self) -> int:
        """Find the packet at which a recording begins that was cut out of a longer one."""
        return next((n for n, is_key in enumerate(self._table.is_key) if is_key), 0)

    def _decoded(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yield frames with their positions, in increasing order: at least the wanted ones."""
        if self._order is None:
            yield from self._read_forward()
        else:
            yield from self._read_as_planned(self._order, wanted)

    def _read_forward(self) -> Iterator[tuple[int, Any]]:
        context = self._fresh_context()
        counted = self._shown
        start = 0 if counted is None else self._first_key
        n_sent = n_shown = 0
        for number, packet in self._numbered():
            if number < start:
                continue
            frames, damage = self._decode(context, number, packet)
            n_sent += 1
            if damage is not None:
                damaged = self._damaged.get(damage.number, damage.number)
                n_whole = None if counted is None else len(counted) - n_shown
                # Drained here, a decoder may give a frame that it lost when it went on.
                for frame in [*frames, *_whole(_drained(context))[0]][:n_whole]:
                    if self._place(n_shown) < damaged:
                        yield self._place(n_shown), frame
                        n_shown += 1
                raise self._error(damaged, damage.reason)
            for frame in frames:
                yield self._place(n_shown), frame
                n_shown += 1
            # More packets than the codec holds back have gone in without coming out.
            if counted is None and n_sent - n_shown > context.reorder_depth + 1:
                raise ContradictionError
        frames, damage = _whole(_drained(context))
        for frame in frames:
            yield self._place(n_shown), frame
            n_shown += 1
        if damage is not None:
            raise self._error(self._damaged.get(damage.number, damage.number), damage.reason)

    def _place(self, n_before: int) -> int:
        """Position of a frame, given the number of frames that came before it."""
        if self._shown is None:
            return n_before
        if n_before >= len(self._shown):
            raise ContradictionError
        return int(self._shown[n_before])

    def _read_as_planned(
        self, order: NDArray[np.int64], wanted: Sequence[int]
    ) -> Iterator[tuple[int, Any]]:
        position_of = {int(number): at for at, number in enumerate(order)}
        to_send = packets_to_send(self._table, order, wanted)
        is_sent, shown = set(to_send), {int(order[position]) for position in wanted}
        context = self._fresh_context()
        previous = -1
        for number, packet in self._numbered():
            if number not in is_sent:
                continue
            if self._skips:
                context.skip_frame = "DEFAULT" if number in shown else "NONREF"
            frames, damage = self._decode(context, number, packet)
            if damage is not None:
                frames += _whole(_drained(context))[0]
            elif number == to_send[-1]:
                drained, damage = _whole(_drained(context))
                frames += drained
            bound = len(order)
            if damage is not None:
                # A hidden packet is reported as the first frame that may need it.
                following = (at for other, at in position_of.items() if other >= damage.number)
                bound = position_of.get(damage.number, min(following, default=0))
            for frame in frames:
                position = position_of.get(frame.pts)
                if position is None or position <= previous:
                    raise ContradictionError
                previous = position
                if position < bound:
                    yield position, frame
            if damage is not None:
                raise self._error(bound, damage.reason)
            if number == to_send[-1]:
                return

    def _decode(self, context: Any, number: int, packet: Any) -> tuple[list[Any], "_Damage | None"]:
        """Decode a packet; return the frames that come, and a packet found to be damaged."""
        if self._table.is_damaged[number]:
            return [], _Damage(number, "its packet isn't whole")
        try:
            frames = context.decode(packet)
        except MemoryError:
            # libav's own memory error arrives as this: a fault of the machine, not damage.
            raise
        except av.FFmpegError as error:
            return [], _Damage(number, reason_of(error))
        return _whole(frames)

    def _error(self, position: int, reason: str) -> DecodeError:
        return DecodeError(
            Status.TRUNCATED,
            f"frame {position} of {self.timeline.n_frames} can't be decoded: {reason}",
        )


def _drained(context: Any) -> list[Any]:
    """Return the frames that the decoder has held back."""
    try:
        frames: list[Any] = context.decode(None)
    except av.FFmpegError:
        return []
    return frames


def _whole(frames: list[Any]) -> tuple[list[Any], _Damage | None]:
    """Frames before the first that is flagged as damaged, and that damage."""
    for place, frame in enumerate(frames):
        if frame.is_corrupt:
            return frames[:place], _Damage(frame.pts, "it isn't whole")
    return frames, None
