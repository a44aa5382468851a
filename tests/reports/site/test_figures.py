"""Figures come out of TensorBoard as they went in."""

import io
from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sae_lightning.reports.site import Reading
from sae_lightning.reports.site.figures import figures, partners_figure, write_figures
from sae_lightning.studies.study import Result


def images(folder: Path) -> dict[str, bytes]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return {tag: events.Images(tag)[0].encoded_image_string for tag in events.Tags()["images"]}


def test_figures_of_the_report_are_in_tensorboard(site: Path, reading: Reading) -> None:
    found = images(site / "tensorboard" / "planted")
    assert sorted(found) == [f"features/{name}" for name in ("density", "firing_together", "map", "nearest")]
    from PIL import Image

    for encoded in found.values():
        image = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
        assert image.shape[0] > 200
        assert image.shape[1] > 400
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10  # something is drawn


def test_only_what_was_studied_is_drawn(tmp_path: Path, reading: Reading) -> None:
    bare = Reading("bare", reading.store)
    assert [tag for tag, _ in figures(bare)] == ["density"]
    write_figures(tmp_path / "tensorboard", [bare, Reading("bare two", reading.store)])
    assert sorted(p.name for p in (tmp_path / "tensorboard").iterdir()) == ["bare", "bare-two"]


def test_pairs_are_drawn_once_strongest_first(reading: Reading) -> None:
    partner = np.array([[1, 2], [0, -1], [0, -1]], np.int32)
    jaccard = np.array([[0.5, 0.2], [0.5, np.nan], [0.2, np.nan]], np.float32)
    arrays = {"partner": partner, "partner_jaccard": jaccard}
    figure = partners_figure(Reading("r", reading.store, {"cooccurrence": Result({}, arrays=arrays)}))
    assert figure is not None
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["0, 1", "0, 2"]
    np.testing.assert_allclose(
        [bar.get_width() for bar in axis.patches if isinstance(bar, Rectangle)], [0.5, 0.2], rtol=1e-6
    )
