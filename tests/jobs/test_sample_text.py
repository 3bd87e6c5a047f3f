"""What is printed of a sample, where there is nothing to print of a class."""

from jobs.sample_text import _print_classes


def test_a_sample_without_labels_has_one_line_in_the_place_of_classes(capsys):
    _print_classes("gap patches", "mean", {})
    assert capsys.readouterr().out == "gap patches of class: no clip of the sample has a label\n\n"
