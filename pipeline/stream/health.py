"""What a source is doing, from what is seen of it: pure logic on times that are given."""

from dataclasses import dataclass

from pipeline.stream.explained import SourceState


@dataclass(frozen=True)
class Patience:
    """How long something may last before it has a name, s."""

    stall_s: float = 3.0
    """Without a frame."""
    freeze_s: float = 5.0
    """With the same picture."""
    late_s: float = 1.0
    """By which frames lag behind their own times."""
    jump_s: float = 10.0
    """Between the times of two frames, of which more is a jump."""


class Health:
    """Is told what happens to a source, and says in which state it is."""

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._since_s: float | None = None
        self._lost = self._ended = ""
        self._picture: int | None = None
        self._changed_s = 0.0
        self._best_lag_s = self._lag_s = 0.0
        self._is_anchored = False

    def frame(self, now_s: float, time_s: float, picture: int) -> None:
        """Take note of a frame.

        Parameters
        ----------
        now_s
            When it was received, by `time.monotonic`.
        time_s
            When it is shown, by the stream's clock.
        picture
            A number that is the same for the same picture.
        """
        elapsed_s = 0.0 if self._since_s is None else now_s - self._since_s
        if self._lost or self._since_s is None or picture != self._picture:
            self._changed_s = now_s
        self._lost, self._picture, self._since_s = "", picture, now_s
        self._lag_s = now_s - time_s
        if not self._is_anchored:
            self._best_lag_s, self._is_anchored = self._lag_s, True
        # Two clocks may differ by a thousandth, which is hours of lag in the end.
        self._best_lag_s = min(self._best_lag_s + 1e-3 * elapsed_s, self._lag_s)

    def jumped(self) -> None:
        """Take note that the clock has jumped: lags from before mean nothing now."""
        self._is_anchored = False

    def lost(self, reason: str) -> None:
        """Take note that the source can't be opened, or has broken off."""
        self._lost = reason
        self.jumped()

    def ended(self, reason: str) -> None:
        """Take note that there won't be another frame."""
        self._ended = reason

    def state(self, now_s: float) -> tuple[SourceState, str]:
        """Say the state at a time, and why; the reason of a live source is empty."""
        patience = self._patience
        if self._ended:
            return SourceState.ENDED, self._ended
        if self._lost:
            return SourceState.LOST, self._lost
        if self._since_s is None:
            return SourceState.STALLED, "no frame has come yet"
        if (without_s := now_s - self._since_s) > patience.stall_s:
            return SourceState.STALLED, f"no new frame for {without_s:.0f} s"
        if (same_s := now_s - self._changed_s) > patience.freeze_s:
            return SourceState.STALLED, f"the same picture for {same_s:.0f} s"
        if (lag_s := self._lag_s - self._best_lag_s) > patience.late_s:
            return SourceState.LATE, f"frames come {lag_s:.1f} s later than their times say"
        return SourceState.LIVE, ""
