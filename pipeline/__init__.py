"""Clips to attributions: manifest, frames, model, STAA and the Zarr store that keeps them."""

__version__ = "0.1.0"
