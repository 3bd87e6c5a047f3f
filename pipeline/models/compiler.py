"""Check what torch.compile needs from a machine before a run starts, not in the middle of it."""

import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

from pipeline.errors import ConfigError


def check_compiler(device: str) -> None:
    """Refuse to compile where torch.compile lacks a compiler or Python's headers.

    The machine that starts a run may have both while the nodes of its cluster have neither.

    Raises
    ------
    ConfigError
        Names what is missing, and the machine.
    """
    # torch.compile looks for a C++ compiler, its Triton for a C one.
    variable, language, compilers = "CXX", "C++", ["g++"]
    if device == "cuda":
        variable, language, compilers = "CC", "C", ["gcc", "clang"]
    if named := os.environ.get(variable):
        compilers = [named]
    if not any(shutil.which(compiler) for compiler in compilers):
        raise ConfigError(
            f"compile_model: torch.compile needs a {language} compiler, and there is no "
            f"{' or '.join(compilers)} on {platform.node()}; install one, or name it by {variable}"
        )
    header = Path(sysconfig.get_path("include", scheme="posix_prefix"), "Python.h")
    # On other systems Python comes with its headers, in other places.
    if sys.platform == "linux" and not header.exists():
        raise ConfigError(
            f"compile_model: torch.compile needs Python's headers, and there is no {header} on "
            f"{platform.node()}; install them (python3-dev)"
        )
