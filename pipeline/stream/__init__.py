"""A stream explained as it plays: sources, windows, one model for many streams, and a store."""
