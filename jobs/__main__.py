"""The console command: ``staa <verb> ...`` is ``python -m jobs.<verb> ...``."""

import ast
import difflib
import importlib.util
import pkgutil
import runpy
import sys
from typing import Any

import jobs


def verbs() -> dict[str, str]:
    """Every verb with what it does, from the first lines of the modules, which aren't run.

    A verb is a module that can be run; the others are what verbs share.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(jobs.__path__))
    sources = {name: _source(name) for name in names if name != "__main__"}
    runnable = {
        name: source for name, source in sources.items() if '__name__ == "__main__"' in source
    }
    return {name: _summary(source) for name, source in runnable.items()}


def _source(name: str) -> str:
    spec = importlib.util.find_spec(f"jobs.{name}")
    loader: Any = spec.loader if spec else None
    return loader.get_source(f"jobs.{name}") if loader else ""


def _summary(source: str) -> str:
    line = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    return line.partition(": ``")[0].rstrip(".")


def _usage() -> str:
    known = verbs()
    width = max(map(len, known))
    lines = (f"  {verb:<{width}}  {summary}" for verb, summary in known.items())
    return "\n".join(
        (
            "usage: staa VERB [options]",
            "",
            *lines,
            "",
            "staa VERB --help lists a verb's options; python -m jobs.VERB is the same command.",
        )
    )


def main() -> int:
    """Run the verb that the command line names; its exit code, or 2 if there is no such verb."""
    given = sys.argv[1:]
    if not given or given[0] in ("-h", "--help"):
        print(_usage(), file=sys.stdout if given else sys.stderr)
        return 0 if given else 2
    if given[0] == "--version":
        from pipeline import __version__

        print(f"staa {__version__}")
        return 0
    verb, *arguments = given
    known = verbs()
    if verb not in known:
        close = difflib.get_close_matches(verb, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
        print(f"staa: error: {verb!r} is not a verb; {hint}", file=sys.stderr)
        return 2
    sys.argv = [sys.argv[0], *arguments]
    # It ends by `sys.exit`, as under `python -m`.
    runpy.run_module(f"jobs.{verb}", run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
