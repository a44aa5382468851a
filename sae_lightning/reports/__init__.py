"""What a person looks at: the held-out table, the evaluation's table and page, the preflight, the run's environment.

Draws results, computes none.
"""

from sae_lightning.reports.environment import describe_environment
from sae_lightning.reports.evaluation_html import write_evaluation_html
from sae_lightning.reports.evaluation_table import show_evaluation
from sae_lightning.reports.lanes import show_lanes
from sae_lightning.reports.preflight import preflight_text
from sae_lightning.reports.summary import show_summary

__all__ = [
    "describe_environment",
    "preflight_text",
    "show_evaluation",
    "show_lanes",
    "show_summary",
    "write_evaluation_html",
]
