"""The Zarr store of a run, and everything else in a run's folder."""
