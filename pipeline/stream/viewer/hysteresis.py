"""Which class is shown: a new one only once it has won, so that the name doesn't flicker."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ShownClass:
    """The class on display after a window.

    Attributes
    ----------
    label
        The class that is shown.
    probability
        Its probability in the newest window; None if it isn't among the window's best.
    leading
        The newest window's best class, if that is another one.
    """

    label: str
    probability: float | None
    leading: str | None


class ClassHysteresis:
    """Keep the shown class until another wins by a margin, or several windows in a row.

    Parameters
    ----------
    margin
        By so much more probability than the shown class another is shown at once.
    n_in_a_row
        Being the best in so many windows one after the other shows it, too.
    """

    def __init__(self, *, margin: float = 0.3, n_in_a_row: int = 3) -> None:
        if not 0 < margin <= 1 or n_in_a_row < 1:
            raise ValueError(
                f"margin is {margin} and n_in_a_row {n_in_a_row}, expected (0, 1] and at least 1"
            )
        self.margin, self.n_in_a_row = margin, n_in_a_row
        self._shown: str | None = None
        self._challenger: str | None = None
        self._wins = 0

    def update(self, window: int, top: Sequence[tuple[str, float]]) -> ShownClass:
        """Take a window's classes with their probabilities, best first; give the shown class.

        A shown class that isn't among them counts as no more probable than the last of them.
        """
        if not top:
            raise ValueError(f"window {window} has no classes, expected at least one")
        best, probability = top[0]
        by_label = dict(top)
        if self._shown is None:
            self._show(best)
        elif best == self._shown:
            self._challenger, self._wins = None, 0
        else:
            self._wins = self._wins + 1 if best == self._challenger else 1
            self._challenger = best
            lead = probability - by_label.get(self._shown, top[-1][1] if len(top) > 1 else 0.0)
            if lead >= self.margin or self._wins >= self.n_in_a_row:
                self._show(best)
        assert self._shown is not None
        return ShownClass(
            label=self._shown,
            probability=by_label.get(self._shown),
            leading=None if best == self._shown else best,
        )

    def _show(self, label: str) -> None:
        self._shown = label
        self._challenger, self._wins = None, 0
