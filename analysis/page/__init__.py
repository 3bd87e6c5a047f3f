"""The page: a run's statistics and clips as a static site."""
