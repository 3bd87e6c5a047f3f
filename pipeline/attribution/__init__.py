"""Pure functions from attention to maps over (time, y, x)."""
