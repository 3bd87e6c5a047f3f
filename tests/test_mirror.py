"""Each module has a test file of its name, in the folder of its room."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"

ELSEWHERE = {
    **{
        f"pipeline/models/{name}.py": (
            "models/test_families.py",
            "one contract, held by each family",
        )
        for name in ("adapter", "pooler", "registry", "videomae", "videoprism", "vivit", "vjepa2")
    },
    "pipeline/models/processor.py": ("models/test_checkpoint.py", "a part of reading a checkpoint"),
    "pipeline/models/device.py": ("run/test_resources.py", "a line; what follows from it is there"),
    "pipeline/attribution/evidence.py": ("models/test_evidence.py", "evidence needs whole models"),
    "pipeline/clips/columns.py": ("clips/test_loader.py", "the name of a type"),
    **{
        f"pipeline/clips/{name}.py": ("clips/test_libav_recording.py", "parts of reading one file")
        for name in ("matroska", "pictures", "reading_plan", "recording")
    },
    "pipeline/clips/decord_recording.py": ("clips/test_decode.py", "one of the decoders there"),
    "pipeline/clips/reachable.py": ("clips/test_fetch.py", "what is looked at is fetched"),
    "pipeline/dataset/columns.py": ("dataset/test_tables.py", "columns of others' tables"),
    "pipeline/attribution/relevance.py": ("models/test_backward.py", "needs whole models"),
    "jobs/verify.py": ("store/test_verify.py", "damage is made and named there"),
    "pipeline/synthetic/config.py": (
        "synthetic/test_dataset.py",
        "the flags of its jobs",
    ),
    "pipeline/evaluation/ground_truth.py": (
        "jobs/test_ground_truth.py",
        "runs and files of annotations take long to make",
    ),
    "jobs/evaluate.py": ("evaluation/test_evaluate.py", "runs and ground truth take long to make"),
    "jobs/synthesize.py": ("jobs/test_manifest.py", "the clips that it writes are listed there"),
    "jobs/train.py": ("synthetic/test_training.py", "a model that was trained takes long to make"),
    **{
        f"pipeline/execution/{name}.py": (
            "execution/test_passes.py",
            "parts of one graph, on Ray alone",
        )
        for name in ("graph", "sink", "source")
    },
}
"""Modules whose tests are in a file of another name, with the file and the reason."""

OWED: dict[str, str] = {}
"""New modules that are still to get a file of their own, with the one that tests them until then:
this list gets shorter, and never longer."""


def modules():
    """Every module but for ``__init__``, whose tests would be those of what it imports."""
    found = (
        path
        for package in ("pipeline", "analysis", "jobs")
        for path in (ROOT / package).rglob("*.py")
    )
    return sorted(path.relative_to(ROOT).as_posix() for path in found if path.stem != "__init__")


def mirror(module):
    """Test file of a module: rooms of `pipeline` are folders of `tests` themselves."""
    path = Path(module)
    room = path.parent.as_posix().removeprefix("pipeline").removeprefix("/")
    return (TESTS / room / f"test_{path.stem.strip('_')}.py").relative_to(TESTS).as_posix()


@pytest.mark.parametrize("module", modules())
def test_a_module_has_its_test_file(module):
    if module in ELSEWHERE or module in OWED:
        file = OWED.get(module) or ELSEWHERE[module][0]
        assert not (TESTS / mirror(module)).exists(), "it has its own by now: take it off the list"
    else:
        file = mirror(module)
    text = (TESTS / file).read_text() if (TESTS / file).exists() else ""
    assert "def test_" in text, f"tests/{file} has no test of {module}"


def test_what_is_listed_exists():
    assert set(ELSEWHERE) | set(OWED) <= set(modules())
    assert not set(ELSEWHERE) & set(OWED)
    assert all(reason for _, reason in ELSEWHERE.values())
