"""Read features: ``python -m sae_lightning.analyze store=DIR`` asks studies of a store and writes the report."""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sae_lightning import command
from sae_lightning.config import AnalyzeConfig, validate
from sae_lightning.core.errors import UserError
from sae_lightning.core.files import write_json

logger = logging.getLogger("sae_lightning.analyze")


def analyze(config: AnalyzeConfig, out: Path, asked: frozenset[str] = frozenset()) -> None:
    """Ask the studies, print what they found, and write analysis.json and the report into ``out``."""
    command.quiet_warnings()
    from sae_lightning.build import analysis as build
    from sae_lightning.build.notes import read_explanations, read_notes
    from sae_lightning.reports import show_evaluation
    from sae_lightning.reports.analysis_table import show_results
    from sae_lightning.reports.curves import training_curves
    from sae_lightning.reports.site import Comparison, Extent, Reading, write_site
    from sae_lightning.reports.site.folder import check_replaceable
    from sae_lightning.store import FeatureStore

    # Whether all can be read, and the report written, shows before anything is asked.
    check_replaceable(out)
    for store in config.stores:
        if out.resolve().is_relative_to(Path(store).expanduser().resolve()):
            raise UserError(f"out={out}: lies in the store {store}; give a folder of its own")
    if not config.report and (out / "index.html").exists():
        raise UserError(f"out={out}: holds a report, whose pages would tell another story; give another folder")
    opened = [FeatureStore.open(store) for store in config.stores]
    notes_at, explanations_at = (config.of_each(getattr(config, key), key) for key in ("notes", "explanations"))
    notes = [read_notes(path, store.d_sae) for path, store in zip(notes_at, opened, strict=True)]
    explained = [read_explanations(path, store) for path, store in zip(explanations_at, opened, strict=True)]
    found = build.analyze(config, asked)
    for name, results in found.results.items():
        show_results(f"Analysis of {name}: {found.stored[name].store.n_kept:,} tokens", results)
    show_results("Side by side", found.comparisons)
    if found.evaluation is not None:
        show_evaluation(found.evaluation)
    if not config.report:
        write_json(out / "analysis.json", found.to_json())
        command.say(str(out / "analysis.json"))
        return
    readings = [
        Reading(
            name=name,
            store=one.store,
            results=found.results[name],
            evaluation=build.evaluation_of(found, name),
            curves=training_curves(one.run_dir),
            notes=said,
            explanations=meant,
            token_text=build.token_text(one),
        )
        for (name, one), said, meant in zip(found.stored.items(), notes, explained, strict=True)
    ]
    compare = Comparison(found.closest, found.comparisons, found.evaluation) if len(readings) > 1 else None

    def keep_all(folder: Path) -> None:
        write_json(folder / "analysis.json", found.to_json())

    extent = Extent(top=config.examples)
    write_site(out, readings, compare=compare, extent=extent, also=keep_all, show_progress=config.progress)
    command.say(str(out / "index.html"))
    command.say(str(out / "analysis.json"))


def out_folder(config: AnalyzeConfig) -> Path:
    """Return where the report goes: ``out``, or beside the first store."""
    if config.out:
        return Path(config.out).expanduser()
    first = Path(config.stores[0]).expanduser().resolve()
    return first.with_name(f"{first.name}_report")


def task(composed: DictConfig) -> None:
    """Analyse what the command line says."""
    chosen = [o for o in HydraConfig.get().overrides.task if command.key_of(o) == "studies"]
    config = validate(command.plain(composed), AnalyzeConfig)
    command.set_up_logging()
    analyze(config, out_folder(config), frozenset(config.studies) if chosen else frozenset())


def main() -> None:
    """Run the command."""
    command.main("analyze", task)


if __name__ == "__main__":
    main()
