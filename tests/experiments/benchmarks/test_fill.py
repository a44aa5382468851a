"""Pages go to their places in the README, and nowhere else."""

import re

from experiments.benchmarks.fill import README, filled

TEXT = "# A\n<!-- cpu/steps -->\n\nold\n\n<!-- end -->\nbetween\n<!-- gpu/steps -->\n\nold too\n\n<!-- end -->\n"


def test_a_page_replaces_its_own_place_alone() -> None:
    new = filled(TEXT, "cpu/steps", "| a \\1 |\n")
    assert new is not None
    assert "| a \\1 |" in new
    assert "old too" in new
    assert new.count("<!-- end -->") == 2
    assert "\nold\n" not in new
    assert filled(new, "cpu/steps", "| a \\1 |\n") == new


def test_a_page_without_a_place_is_told() -> None:
    assert filled(TEXT, "cpu/growth", "x") is None


def test_the_readme_has_a_place_for_every_page_of_the_cpu() -> None:
    places = re.findall(r"<!-- (\w+/\w+) -->\n", README.read_text(encoding="utf-8"))
    assert {"steps", "growth", "ceilings", "end_to_end", "data_loading", "startup"} == {
        place.split("/")[1] for place in places if place.startswith("cpu/")
    }
    assert README.read_text(encoding="utf-8").count("<!-- end -->") == len(places) == len(set(places))
