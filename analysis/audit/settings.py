"""What an audit takes for a finding."""

from pydantic import Field

from pipeline.base_config import FrozenConfig


class AuditSettings(FrozenConfig):
    """Thresholds of an audit."""

    q: float = Field(default=0.05, gt=0, lt=1)
    """Share of false findings of a kind that is accepted (Benjamini-Hochberg)."""
    min_clips: int = Field(default=10, ge=3)
    """Videos that a class has at least to be tested."""
    least_logo_ratio: float = Field(default=2.0, gt=1)
    """A patch's share in a class over that in others, below which it is no finding."""
    min_cluster: int = Field(default=8, ge=3)
    """Videos of a strategy within a class at least."""
    duplicate_neighbours: int = Field(default=10, ge=3)
    """Neighbours that a near duplicate's distance is compared with; more copies hide each other."""
    duplicate_ratio: float = Field(default=1 / 3, gt=0, lt=1)
    """A near duplicate's distance over that to its last neighbour at most."""
