"""The charts' library: whole, with its licence, and without a request."""

from analysis.page.charts import chart_script


def test_the_script_has_its_licence_and_hands_over_one_name():
    script = chart_script()
    assert script.startswith("/*!\nVega ")
    assert "University of Washington Interactive Data Lab" in script[:300]
    assert "THIS SOFTWARE IS PROVIDED" in script[:3000]
    assert "window.vegaCharts" in script
    # With the rest of the first page, it stays below a megabyte.
    assert len(script) < 600_000
