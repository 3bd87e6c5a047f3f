"""A finding as JSON, as a row of a table, and in its rank."""

import json
from dataclasses import replace

import pytest

from analysis.audit.audit import audit
from analysis.audit.finding import Finding, Place, Proof, as_table, kinds, ranked


@pytest.fixture(scope="module")
def found(planted):
    return audit(planted[1])


def test_a_finding_survives_json(found):
    assert found
    for finding in found:
        again = Finding.from_json(json.loads(json.dumps(finding.to_json())))
        assert json.dumps(again.to_json()) == json.dumps(finding.to_json())
        assert finding.kind in kinds()


def test_what_was_confirmed_comes_first_and_what_was_refuted_last(found):
    weak, strong = replace(found[0], strength=0.1), replace(found[0], strength=0.9)
    confirmed = weak.with_proof(Proof("confirmed", change=-0.3))
    refuted = strong.with_proof(Proof("not confirmed"))
    assert ranked([refuted, weak, strong, confirmed]) == [confirmed, strong, weak, refuted]


def test_a_table_has_a_row_a_finding_and_a_column_a_part(found):
    table = as_table(found)
    assert table["key"].tolist() == [finding.key for finding in found]
    assert table["proof_state"].tolist() == [finding.proof.state for finding in found]
    logo = next(finding for finding in found if finding.kind == "logo")
    row = table.set_index("key").loc[logo.key]
    assert row["place_y"] == list(logo.place.y)
    assert list(as_table([])) == ["key", "kind", "scope", "seen", "check"]


def test_findings_of_a_class_at_both_ends_have_names_of_their_own(found):
    flash = next(finding for finding in found if finding.kind == "first_last_frames")
    last = replace(flash, place=Place(time=(7, 8)))
    assert flash.key != last.key
    assert flash.key == replace(flash, place=Place(time=(0, 2))).key
