"""No test changes the inside of a module: what a test needs to set is handed in.

A patch says that a name of a module is part of what the module promises, and that somebody may set
it while the program runs. Neither is so. A limit is an argument with a default, a seam is an object
that the caller gives, and a fault is made outside: in a file, a folder or a server. What belongs to
others (a library, the system's clock, the environment) may be patched where it has no such place.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
OURS = ("pipeline", "analysis", "jobs")

SETTERS = ("setattr", "delattr", "setitem", "delitem", "patch")
"""Calls that change what their first argument names: pytest's, the built-in ones, and
``mock.patch``."""
OF_PATCH = ("object", "dict", "multiple")
"""The same, as attributes of ``patch``."""


def is_ours(dotted):
    return (dotted or "").partition(".")[0] in OURS


def names_of_ours(tree):
    """Names that an import binds, anywhere in a file, to something in this project's modules."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            ours = [each for each in node.names if is_ours(each.name)]
            names |= {each.asname or each.name.partition(".")[0] for each in ours}
        elif isinstance(node, ast.ImportFrom) and not node.level and is_ours(node.module):
            names |= {each.asname or each.name for each in node.names}
    return names


def changed(tree):
    """What is changed in a file: what is set or deleted, and what is given to a setter."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript):
            if not isinstance(node.ctx, ast.Load):
                yield node
        elif isinstance(node, ast.Call) and node.args and sets(node.func):
            yield node.args[0]


def sets(function):
    if isinstance(function, ast.Name):
        return function.id in SETTERS
    if not isinstance(function, ast.Attribute):
        return False
    owner = function.value
    of_patch = getattr(owner, "id", getattr(owner, "attr", "")) == "patch"
    return function.attr in SETTERS or (of_patch and function.attr in OF_PATCH)


def roots(target):
    """Names at the start of an expression: of ``a.b["c"]``, ``getattr(a, n)``, ``type(a)``, a."""
    if isinstance(target, ast.Attribute | ast.Subscript | ast.Starred):
        return roots(target.value)
    if isinstance(target, ast.IfExp):
        return roots(target.body) | roots(target.orelse)
    if isinstance(target, ast.Call) and target.args:
        called = getattr(target.func, "id", "")
        return roots(target.args[0]) if called in ("getattr", "type", "vars") else set()
    return {target.id} if isinstance(target, ast.Name) else set()


def patches(source):
    """Lines in which some source patches this project, that of programs in its strings too."""
    tree = ast.parse(source)
    names = names_of_ours(tree)
    found = []
    for target in changed(tree):
        text = getattr(target, "value", None) if isinstance(target, ast.Constant) else None
        if (isinstance(text, str) and is_ours(text)) or roots(target) & names:
            found.append(target.lineno)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [node.lineno] * bool(is_program(node.value) and patches(node.value))
    return sorted(found)


def is_program(text):
    if "import " not in text or "\n" not in text:
        return False
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def test_no_test_patches_the_inside_of_this_project():
    files = [path for path in TESTS.rglob("*.py") if path != Path(__file__)]
    found = {path.relative_to(TESTS).as_posix(): patches(path.read_text()) for path in files}
    found = {file: lines for file, lines in sorted(found.items()) if lines}
    assert not found, (
        f"lines of tests that patch the project, which hands in what they need: {found}"
    )


PATCHED = {
    "an attribute of a module": "from pipeline.clips import fetch\nfetch.limit = 3",
    "a member of a module": "import pipeline.clips.fetch\npipeline.clips.fetch.KNOWN['a'] = 1",
    "one that is imported in a test": "def test():\n    import jobs.live as live\n    del live.x",
    "pytest, a class": "from pipeline.a import Lease\nmonkeypatch.setattr(Lease, 'check', None)",
    "pytest, a text": "with monkeypatch.context() as m:\n    m.setattr('pipeline.a.b', 1)",
    "pytest, an item": "from analysis import runs as r\nmonkeypatch.setitem(r.KINDS, 'a', 1)",
    "by a name": "from pipeline.a import b\nmonkeypatch.setattr(getattr(b, name), 'c', 1)",
    "one of two": "from pipeline.a import B, c\npatch.setattr(B if one else c, name, 1)",
    "built in": "from pipeline import a\nsetattr(a, 'b', 1)",
    "unittest": "mock.patch('jobs.live.live')",
    "unittest, an object": "from jobs import live\nmock.patch.object(live, 'live')",
    "in a program": "RUN = 'from pipeline import a\\na.b = 1\\n'",
}
ALLOWED = {
    "another's module": "import ray\nmonkeypatch.setattr(ray, 'init', None)",
    "the environment": "monkeypatch.setenv('pipeline.a', '1')",
    "what a call gives": "from pipeline.a import opened\nopened(url).array('status')[:] = 0",
    "a local object": "from pipeline.a import A\na = A()\na.limit = 1",
    "by one's own index": "from pipeline.a import ring\nvalues[ring(3)] = 0",
    "what is read": "from pipeline import a\nvalue = a.b",
}


@pytest.mark.parametrize("source", PATCHED.values(), ids=PATCHED)
def test_a_patch_is_found(source):
    assert patches(source)


@pytest.mark.parametrize("source", ALLOWED.values(), ids=ALLOWED)
def test_what_is_none_is_not(source):
    assert patches(source) == []
