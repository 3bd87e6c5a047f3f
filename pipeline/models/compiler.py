"""What torch.compile needs of a machine, said before it is missed in the middle of a run."""

import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

from pipeline.errors import ConfigError


def check_compiler(device: str) -> None:
    """Refuse to compile where torch.compile has no compiler, or no headers of Python.

    Where a run's command is given there may be both, and on the nodes of its cluster neither.

    Raises
    ------
    ConfigError
        Names what is missing, and the machine.
    """
    # As they are looked for: C++ by torch.compile, C by its Triton.
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
    # Elsewhere Python comes with them, in places of their own.
    if sys.platform == "linux" and not header.exists():
        raise ConfigError(
            f"compile_model: torch.compile needs Python's headers, and there is no {header} on "
            f"{platform.node()}; install them (python3-dev)"
        )
