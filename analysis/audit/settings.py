"""What counts as a finding in an audit."""

from pydantic import Field

from pipeline.base_config import FrozenConfig


class AuditSettings(FrozenConfig):
    """Thresholds of an audit."""

    q: float = Field(default=0.05, gt=0, lt=1)
    """Accepted share of false findings of a kind (Benjamini-Hochberg)."""
    min_clips: int = Field(default=10, ge=3)
    """Fewest videos with which a class is tested."""
    least_logo_ratio: float = Field(default=2.0, gt=1)
    """Least ratio of a patch's share in a class to that in others that is a finding."""
    min_cluster: int = Field(default=8, ge=3)
    """Fewest videos in a strategy within a class."""
    duplicate_neighbours: int = Field(default=10, ge=3)
    """Number of neighbours with which a near duplicate's distance is compared; more copies than
    that hide each other."""
    duplicate_ratio: float = Field(default=1 / 3, gt=0, lt=1)
    """Highest ratio of a near duplicate's distance to that of its last neighbour."""
