"""Every metric has one meaning, in one place."""

from sae_lightning.studies.evaluation import HELDOUT_KEYS
from sae_lightning.studies.meaning import MEANING, better, meaning


def test_every_held_out_metric_has_a_short_meaning() -> None:
    assert set(HELDOUT_KEYS) <= set(MEANING)
    assert all(0 < len(m.text) < 90 for m in MEANING.values())


def test_what_a_setting_says_is_not_said_here() -> None:
    assert "1e-5" not in MEANING["rare"].text
    assert "rare_below" in MEANING["rare"].text
    assert "dense_above" in MEANING["dense_share"].text


def test_directions() -> None:
    assert better("fvu") == better("delta_ce") == better("dead") == "lower"
    assert better("explained_variance") == better("ce_recovered_mean") == "higher"
    assert better("l2_ratio") == "one"
    assert better("l0") is better("ce_clean") is better("no_such_metric") is None


def test_a_metric_of_something_is_a_kind_of_the_metric() -> None:
    assert meaning("f1/root") == meaning("f1")
    assert meaning("no_such_metric") == ""
