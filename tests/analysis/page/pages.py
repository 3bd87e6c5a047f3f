"""Runs and findings for the tests of the page."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from analysis.audit.finding import Example, Finding, Place, Proof
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import read_manifest, write_manifest
from tests.support.clips import numbered_frames, write_mp4

HOSTILE = ('<script>alert("x")</script>', '"onerror="alert(1)', "{{ 7 * 7 }} $x_2$ %s")
N_FRAMES = 12
SEEN = np.array([1, 4, 7, 10], np.int32)
"""Frames of a clip of 12 that a model of 4 sees."""


def write_dataset(folder: Path, n_clips: int) -> dict[str, str]:
    """A manifest of small clips; what `write_run` is to be told of it."""
    clips = folder / "clips"
    clips.mkdir(parents=True)
    for row in range(n_clips):
        write_mp4(clips / f"{row:02d}.mp4", numbered_frames(N_FRAMES))
    url = str(folder / "manifest.parquet")
    write_manifest(build_manifest(layout="files", clips=str(clips)), url)
    return {"manifest": url, "digest": read_manifest(url).digest}


def finding(kind: str, subject: str, rows: tuple[int, ...], **given: Any) -> Finding:
    """A finding with made-up numbers."""
    made_up: dict[str, Any] = {
        "scope": "class",
        "seen": f"In {subject!r} a corner gets much of the weight.",
        "check": "Look at that corner.",
        "effect": 2.5,
        "effect_name": "share over that of other classes",
        "low": 2.1,
        "high": 2.9,
        "p": 0.0001,
        "q": 0.001,
        "n": 20,
        "strength": 0.8,
        "method": "staa-paper",
        "class_specific": False,
        "place": Place(y=(0, 1), x=(1, 2)),
    }
    examples = tuple(Example(row, f"clip{row}", f"{row:02d}.mp4") for row in rows)
    return Finding(kind=kind, subject=(subject,), examples=examples, **{**made_up, **given})


def findings_of(names: tuple[str, ...]) -> list[Finding]:
    """Findings of every state, ranked."""
    proof = Proof("confirmed", change=-0.31, low=-0.36, high=-0.2, random_change=-0.02, n_clips=9)
    return [
        finding("logo", names[0], (0, 3), proof=proof),
        finding("static", names[1], (1, 4), strength=0.6),
        finding("label_suspect", "clip5", (5,), scope="clip", low=np.nan, high=np.nan),
        finding(
            "strategies",
            names[1],
            (4, 7),
            strength=0.4,
            low=np.nan,
            high=np.nan,
            proof=Proof("not applicable"),
        ),
        finding("first_last_frames", names[2], (2,), proof=Proof("not confirmed", -0.01, -0.1, 0)),
    ]


def data_of(page: str | Path, name: str) -> Any:
    """What a script of the page's data hands over."""
    text = (Path(page).parent / "data" / f"{name}.js").read_text(encoding="utf-8")
    match = re.fullmatch(r'staa\.take\("[\w-]+",(.*)\);\n', text)
    assert match, text[:80]
    return json.loads(match[1])
