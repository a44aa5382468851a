"""From config to a run on synthetic data: the planted model, its training stream, its held-out rows."""

from sae_lightning.activations.synthetic import PlantedModel, SyntheticRows, SyntheticSource
from sae_lightning.build.checks import check_kind
from sae_lightning.build.data import Data, Fitted, data_from_rows
from sae_lightning.build.instantiate import make
from sae_lightning.build.layout import Layout
from sae_lightning.config import DataConfig, RunConfig
from sae_lightning.core import Sites


def build_planted(data: DataConfig) -> PlantedModel:
    """Build the model that ``data.synthetic`` names. Raises UserError for a class of another kind."""
    assert data.synthetic is not None
    check_kind(data.synthetic, "data.synthetic", PlantedModel)
    return make(data.synthetic, "data.synthetic")


def data_from_synthetic(config: RunConfig, fitted: Fitted | None) -> Data:
    """Build what a run on synthetic data reads. With ``fitted`` (a resumed run) nothing is estimated anew."""
    model = build_planted(config.data)
    source = SyntheticSource(model, config.data.batch_size, config.stream_seed)
    told = {"synthetic": model.parameters()}
    layout = planted_layout(model)
    return data_from_rows(source, SyntheticRows(model), told, config.normalise.sample_tokens, fitted, layout)


def planted_layout(model: PlantedModel) -> Layout:
    """Return how a planted model's rows are made up: of sites with names, read and written, or of one without."""
    if model.site_widths is None:
        return Layout.of_rows(model.hidden_dim)
    names, widths = tuple(model.site_widths), tuple(model.site_widths.values())
    return Layout(Sites(names, names), widths, widths)
