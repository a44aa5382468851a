"""Hydra's sweep syntax becomes the distributions it says, and values become overrides that hydra reads back."""

import itertools

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sae_lightning.core import UserError
from sae_lightning.launch.search_space import SearchSpace, read_space


def space(*texts: str) -> SearchSpace:
    return read_space(OverridesParser.create().parse_overrides(list(texts)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1,2", CategoricalDistribution(["1", "2"])),
        ("a=choice(1,2,2)", CategoricalDistribution(["1", "2"])),
        ("a=null,[1,2],'x y'", CategoricalDistribution(["null", "[1,2]", "'x y'"])),
        ("a=range(4)", IntDistribution(0, 3)),
        ("a=range(1024,8192,step=1024)", IntDistribution(1024, 7168, step=1024)),
        ("a=range(9,0,step=-4)", IntDistribution(1, 9, step=4)),
        ("a=range(0,1,step=0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("a=interval(1,3)", FloatDistribution(1.0, 3.0)),
        ("a=tag(log, interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("a=tag(int, log, interval(4,64))", IntDistribution(4, 64, log=True)),
        ("a=int(interval(4,64))", IntDistribution(4, 64)),
    ],
)
def test_each_form_is_the_distribution_it_says(text: str, expected: object) -> None:
    assert space(text).distributions == {"a": expected}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a=range(5,5)", ("a=range(5,5)", "empty grid")),
        ("a=range(5,1)", ("empty grid",)),
        ("a=range(1,5,step=0)", ("step must not be 0",)),
        ("a=interval(2,1)", ("low=2", "below high=1")),
        ("a=interval(1,1)", ("below",)),
        ("a=interval(0,inf)", ("finite",)),
        ("a=tag(log, interval(0,1))", ("logarithmic",)),
        ("a=tag(lg, interval(1,2))", ("unknown tag 'lg'", "did you mean 'log'")),
        ("a=tag(log, choice(1,2))", ("needs an interval",)),
        ("a=tag(int, interval(0.1,0.2))", ("no whole number",)),
        ("a=3", ("nothing to search",)),
    ],
)
def test_what_is_no_search_space_is_refused(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        space(text)
    assert all(word in str(caught.value) for word in words), caught.value


def test_the_grid_is_every_combination_in_the_order_of_the_command_line() -> None:
    grid = space("a=x,y", "seed=0", "b=range(0,3)", "c=range(0,1,step=0.5)").grid()
    naive = itertools.product(["x", "y"], [0, 1, 2], [0.0, 0.5])
    assert grid == [dict(zip("abc", point, strict=True)) for point in naive]
    with pytest.raises(UserError, match="an interval has no grid"):
        space("a=x,y", "b=interval(0,1)").grid()


def test_overrides_keep_the_fixed_ones_and_read_back_as_the_values() -> None:
    made = space("seed=3", "+x.y='a b'", "~logger", "a=interval(0,1)", "b=null,'q,r'", "a=interval(0,2)")
    overrides = made.overrides({"a": 1.25e-05, "b": made.distributions["b"].choices[1]})  # pyright: ignore
    parsed = OverridesParser.create().parse_overrides(overrides)
    assert [o.get_key_element() for o in parsed] == ["seed", "+x.y", "~logger", "b", "a"]
    assert [o.value() for o in parsed] == [3, "a b", None, "q,r", 1.25e-05]
    assert made.sampled({"a": 0.5, "b": "null"}) == ["b=null", "a=0.5"]
