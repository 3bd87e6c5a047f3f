"""Whoever watches: a page by WebSocket, MJPEG, and what lies between them and the engine.

Raises
------
ConfigError
    On import, when the extra `live` isn't installed.
"""

from importlib.util import find_spec

from pipeline.errors import ConfigError

if _missing := [name for name in ("starlette", "uvicorn", "websockets") if find_spec(name) is None]:
    raise ConfigError(f"the live page needs {', '.join(_missing)}: pip install 'staa[live]'")

from pipeline.stream.viewer.server import Running, serve

__all__ = ["Running", "serve"]
