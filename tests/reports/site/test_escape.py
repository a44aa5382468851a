"""Text from outside can't end a script, open a tag, hide, or lead anywhere but to http and https."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_lightning.reports.site.escape import safe_link, script_json, visible
from tests.store.planted import HOSTILE

_ANY = st.text(st.characters(codec=None))


@given(_ANY)
def test_json_in_a_script_holds_nothing_that_ends_it_and_reads_back(text: str) -> None:
    found = script_json({"text": [text]})
    assert json.loads(found) == {"text": [text]}
    assert not set(found) & set("<>&\x7f\u2028\u2029\u202e\ufeff")
    assert all(ord(c) >= 0x20 and not 0xD800 <= ord(c) <= 0xDFFF for c in found)
    found.encode("utf-8")


def test_a_hostile_text_is_inert() -> None:
    found = script_json(HOSTILE)
    for word in ("</script", "<img", "<!--", "\u2028", "\u202e", "\x00", "\x1b"):
        assert word not in found
    assert json.loads(found) == HOSTILE


def test_numbers_that_json_has_no_word_for_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json([float("nan")])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a↵b"),
        ("\t", "⇥"),
        ("\r\x00\x1b\x7f", "␍␀␛␡"),
        ("x\u202ey", "x[U+202E]y"),
        ("\u2028\ufeff\ud800", "[U+2028][U+FEFF][U+D800]"),
        ("👩\u200d👩 नि \u200cx", "👩\u200d👩 नि \u200cx"),  # joiners belong to what they join
        ("naïve <b>日本</b>", "naïve <b>日本</b>"),  # escaping tags is the template's work
    ],
)
def test_what_is_not_seen_becomes_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("link", ["http://example.org/a?b=c#d", "https://example.org", "HTTPS://EXAMPLE.ORG/ü"])
def test_links_to_the_web_stay(link: str) -> None:
    assert safe_link(link) == link


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        " https://example.org",
        "java\nscript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "file:///etc/passwd",
        "//example.org",
        "https:",
        "http://[",
        "https://exa mple.org",
        "https://x\u202e.org",
        "",
        None,
        7,
    ],
)
def test_other_links_lead_nowhere(link: object) -> None:
    assert safe_link(link) is None
