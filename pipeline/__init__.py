"""Clips to attributions: manifest, frames, model, method and the Zarr store that keeps them."""

__version__ = "0.1.0"
