"""The one error for users' mistakes, and the hint at what was meant."""

import pytest

from sae_lightning.core import UserError, nearest


def test_a_user_error_is_one_line_whatever_its_cause() -> None:
    error = UserError("path a\n  b\tc: cannot be read\r\n(because);   give another  ")
    assert str(error) == "path a b c: cannot be read (because); give another"
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("d_sea", "; did you mean 'd_sae'?"),
        ("batch_topk", "; did you mean 'batch_topk', 'topk'?"),
        ("zzz", ""),
    ],
)
def test_nearest_names_what_is_close_and_nothing_else(word: str, hint: str) -> None:
    assert nearest(word, ["d_sae", "topk", "batch_topk", "lr"]) == hint


def test_nearest_gives_at_most_n_best_first() -> None:
    assert nearest("hook_out", ["hook_in", "hook_ou", "hook_outs", "hook_o"], n=1) == "; did you mean 'hook_outs'?"
