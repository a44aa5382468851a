"""The report of features as a static site: opens from disk, without a server and without a network.

``write_site`` writes it from readings (a store and what studies found); nothing is computed here but what is drawn.
"""

from sae_lightning.reports.site.reading import Comparison, Extent, Reading
from sae_lightning.reports.site.writer import write_site

__all__ = ["Comparison", "Extent", "Reading", "write_site"]
