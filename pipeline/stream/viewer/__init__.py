"""Whoever watches: a page by WebSocket, MJPEG, and what lies between them and the engine."""

from pipeline.stream.viewer.server import Running, serve

__all__ = ["Running", "serve"]
