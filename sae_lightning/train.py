"""Train a sparse autoencoder: ``python -m sae_lightning.train``, or with ``--multirun`` a sweep of them."""

import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sae_lightning import command, launch
from sae_lightning.config import RunConfig, load_config, save_config, validate, with_absolute_paths
from sae_lightning.core.errors import UserError
from sae_lightning.core.files import write_json
from sae_lightning.launch.ranks import join, leave, place
from sae_lightning.launch.supervisor import as_a_run_of_many, supervise

logger = logging.getLogger("sae_lightning.train")
_ALLOWED_WITH_RESUME = ("resume", "progress")


def train(
    config: RunConfig,
    run_dir: Path,
    lanes: Mapping[str, RunConfig] | None = None,
    *,
    overrides: Sequence[str] | None = None,
    resume: bool = False,
) -> Path:
    """Train the run of a config in its folder (from its last good checkpoint with ``resume``); return the folder.

    lanes: of a bank, each lane's own config; a resumed one has them in its folder. overrides: of a bank, the command
    line that its lanes were composed from, kept for lanes that are added later.

    With ``trainer.devices`` above 1 this process only looks after those that train, unless it is one of them.
    """
    if config.trainer.devices > 1 and place() is None:
        return supervise(config, run_dir, lanes, overrides, resume=resume)
    command.quiet_warnings()
    import torch

    # Before torch has started its threads: they inherit it. See SAEModule.on_fit_start.
    torch.set_flush_denormal(True)
    from sae_lightning.activations import StopRequested
    from sae_lightning.build import build_run, find_checkpoint, save_overrides, saved_lanes
    from sae_lightning.reports import describe_environment, preflight_text, show_lanes, show_summary
    from sae_lightning.training.callbacks import Pruned, ScalingLog, StopSignal, find

    command.quiet_warnings()  # once more: Lightning sets its loggers' levels when it is imported
    ranks = join(config)
    first = ranks.rank == 0
    checkpoint = ranks.told(find_checkpoint(run_dir) if resume and first else None)
    if resume and checkpoint is None and ranks.alone:
        # Killed before its first checkpoint, or only queued: the same seed from step 0 gives the same bits.
        logger.info("%s: no checkpoint yet, starting from step 0", run_dir)
    with command.run_folder(run_dir, keep=resume or not first):
        if resume and lanes is None:
            lanes = saved_lanes(run_dir, config)
        ranks.wait()  # all have read what is there before the first one writes
        if first:
            save_config(config, run_dir)
        if overrides is not None and first:
            save_overrides(run_dir, overrides)
        run = build_run(config, run_dir, lanes, resume=checkpoint is not None)
        begun = (run_dir / "environment.json").is_file()
        environment = "environment_resumed.json" if begun else "environment.json"
        if first:
            write_json(run_dir / environment, describe_environment())
        for line in preflight_text(run.preflight).splitlines():
            logger.info("%s", line)
        if checkpoint is not None:
            logger.info("resuming from %s", checkpoint)
    try:
        run.trainer.fit(run.module, datamodule=run.datamodule, ckpt_path=checkpoint, weights_only=True)
        ranks.wait()  # the first one measures and writes
        leave()
    except StopRequested as stop:
        leave()
        logger.warning("stopped (%s); continue with: python -m sae_lightning.train resume=%s", stop, run_dir)
        stopped = find(run.trainer, StopSignal)
        raise SystemExit(128 + ((stopped and stopped.received) or signal.SIGINT)) from None
    except Pruned as pruned:
        logger.info("%s", pruned)
        return run_dir
    finally:
        run.data.source.close()
    if not first:
        return run_dir
    if config.trainer.profiler:
        command.say(run.trainer.profiler.summary())  # pyright: ignore[reportAttributeAccessIssue]
    if config.bank is not None:
        show_lanes(Path(config.add_to) if config.add_to else run_dir)
    else:
        log = find(run.trainer, ScalingLog)
        assert log is not None
        files = {"run folder": run_dir, "export": run_dir / "export", "metrics": run_dir / "metrics.json"}
        summary = next(iter(log.summaries.values()))
        show_summary(summary["heldout"], files, summary["intervals"])
    return run_dir


def task(composed: DictConfig) -> None:
    """One composed config, as the command line or a sweep made it."""
    raw = command.plain(composed)
    hydra_config = HydraConfig.get()
    sweep = hydra_config.mode == RunMode.MULTIRUN
    choices = hydra_config.runtime.choices
    for group in ("launcher", "sweep"):
        if not sweep and choices.get(group) != "basic":
            raise UserError(f"{group}={choices.get(group)}: is for sweeps; add --multirun, or leave {group} out")
    overrides = list(hydra_config.overrides.task)
    if raw["resume"] is not None:
        with as_a_run_of_many():
            resume(raw, overrides)
        return
    if sweep and (raw["paths"]["run_dir"] or raw["add_to"] is not None):
        key = "add_to" if raw["add_to"] is not None else "paths.run_dir"
        raise UserError(f"{key}: is one folder and a sweep needs many; leave it out, hydra.sweep.dir names the sweep's")
    if not sweep:
        with as_a_run_of_many():
            begin(raw, overrides)
        return
    run_dir = Path(hydra_config.sweep.dir, str(hydra_config.sweep.subdir)).resolve()
    there = (run_dir / "config.yaml").is_file()
    try:
        begin(raw, overrides, str(run_dir))
    except UserError as error:
        if not there:  # else it is about another run, which this one would have overwritten
            write_json(run_dir / "failed.json", {"reason": str(error)})
        if choices.get("launcher") == choices.get("sweep") == "basic":
            # Hydra tells of the first failed run only, and when all have ended.
            command.set_up_logging()
            logger.error("run %s: %s; the others go on", run_dir.name, error)
        raise


def begin(raw: Mapping[str, Any], overrides: list[str], sweep_dir: str | None = None) -> None:
    """Check a composed config, choose its folder and train it."""
    from sae_lightning.build import added_to, lane_configs, new_run_dir

    if raw["add_to"] is not None:
        config, overrides = added_to(raw, overrides)
    else:
        config = with_absolute_paths(validate(raw))
    lanes = lane_configs(config, overrides) if config.bank is not None else None
    ranks = join(config) if place() is not None else None
    if ranks is None:
        run_dir = new_run_dir(config, sweep_dir)
    else:
        run_dir = ranks.told(new_run_dir(config, sweep_dir) if ranks.rank == 0 else None)
    log_to(run_dir)
    train(config, run_dir, lanes, overrides=None if lanes is None else overrides)


def resume(raw: Mapping[str, Any], overrides: list[str]) -> None:
    """Go on with the run in a folder: a stopped one, a lane of a stopped bank, or one that was queued."""
    if not isinstance(raw["resume"], str) or not raw["resume"]:
        raise UserError(f"resume={raw['resume']}: must be the folder of a run; give its path")
    run_dir = Path(raw["resume"]).expanduser().resolve()
    given = [command.key_of(o) for o in overrides]
    extra = [key for key in given if key not in _ALLOWED_WITH_RESUME]
    if extra:
        raise UserError(f"resume={raw['resume']}: a run goes on with its own config; leave out {', '.join(extra)}")
    config = load_config(run_dir).model_copy(update={"progress": raw["progress"]})
    if (run_dir / "metrics.json").is_file():
        raise UserError(f"resume={raw['resume']}: this run is complete (it has metrics.json); start a new one")
    log_to(run_dir)
    train(config, run_dir, resume=True)


def log_to(run_dir: Path) -> None:
    """Log to the run's file and the terminal; of several processes the first does, the others to the terminal alone."""
    here = place()
    command.set_up_logging(run_dir / "train.log" if here is None or here.rank == 0 else None)


def main() -> None:
    """Run the command; ``bank=grid`` is written out before Hydra takes the sweeps for a multirun's."""
    if "bank=grid" in sys.argv:
        from sae_lightning.build.bank import expand_grid

        try:
            sys.argv[1:] = expand_grid(sys.argv[1:])
        except UserError as error:
            command.fail(str(error))
    launch.register()
    command.main("train", task)


if __name__ == "__main__":
    main()
