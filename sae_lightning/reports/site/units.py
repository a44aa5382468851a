"""What a figure was counted over, in words: a number without a unit says nothing."""

from collections.abc import Mapping, Sequence

#: What the number beside a study's figures counts. Studies that are not named here count tokens.
_UNITS = {
    "similarity": "features",
    "neuron_correlation": "features",
    "splitting": "features",
    "consistency": "features",
    "completeness": "concepts",
    "groundtruth": "rows",
}


def unit(study: str) -> str:
    """Return what a study's figures are counted over."""
    return _UNITS.get(study, "tokens")


def over(study: str, numbers: Mapping[str, int] | Sequence[int]) -> str:
    """Return what a figure is over: one number where all SAEs share it, else each SAE's own; empty without any.

    numbers: by SAE's name, or of SAEs whose names stand elsewhere, in their order.
    """
    values = list(numbers.values() if isinstance(numbers, Mapping) else numbers)
    if not any(values):
        return ""
    if len(set(values)) == 1:
        return f"{values[0]:,} {unit(study)}"
    if isinstance(numbers, Mapping):
        return f"{', '.join(f'{value:,} ({name})' for name, value in numbers.items())} {unit(study)}"
    return f"{' and '.join(f'{value:,}' for value in values)} {unit(study)}"
