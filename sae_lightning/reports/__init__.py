"""What a person looks at: the held-out table, the evaluation's table and page, the preflight, the run's environment.

Draws results, computes none. Names are loaded when they are first used: a page does not wait for Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_lightning.reports.environment import describe_environment
    from sae_lightning.reports.evaluation_html import write_evaluation_html
    from sae_lightning.reports.evaluation_table import show_evaluation
    from sae_lightning.reports.lanes import show_lanes
    from sae_lightning.reports.preflight import preflight_text
    from sae_lightning.reports.summary import show_summary

_HOME = {
    "describe_environment": "environment",
    "write_evaluation_html": "evaluation_html",
    "show_evaluation": "evaluation_table",
    "show_lanes": "lanes",
    "preflight_text": "preflight",
    "show_summary": "summary",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


__all__ = [
    "describe_environment",
    "preflight_text",
    "show_evaluation",
    "show_lanes",
    "show_summary",
    "write_evaluation_html",
]
