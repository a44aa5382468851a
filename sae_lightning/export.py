"""Write an SAE in another library's files: ``python -m sae_lightning.export sae=PATH to=saelens out=DIR``."""

from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig
from pydantic import StringConstraints

from sae_lightning import command
from sae_lightning.config import Section, validate
from sae_lightning.core.errors import UserError

_Name = Annotated[str, StringConstraints(min_length=1)]
_License = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.+-]*$")]


class ExportConfig(Section):
    """What the command does; conf/export.yaml says what each key is."""

    sae: _Name
    to: _Name
    out: _Name
    overwrite: bool = False
    license: _License | None = None
    push: _Name | None = None
    private: bool = True


def task(composed: DictConfig) -> None:
    """Read, write beside, read back and compare, put in place, upload."""
    config = validate(command.plain(composed), ExportConfig)
    command.set_up_logging()
    command.quiet_warnings()
    from sae_lightning.sae import formats
    from sae_lightning.sae.card import model_card
    from sae_lightning.sae.formats.placing import CARD, check_place, placed
    from sae_lightning.sae.hub import check_hub, push
    from sae_lightning.studies.meaning import meaning

    form, source = formats.get(config.to), Path(config.sae).expanduser()
    out = Path(config.out).expanduser()
    if out.resolve() in (source.resolve(), source.resolve() / "export"):
        raise UserError(f"out={out}: is the folder that the SAE is read from; give another one")
    check_place(out, config.overwrite)
    if config.push:
        check_hub(config.push)
    sae = formats.read(source)
    sample = None if sae.sample is None else sae.sample[0]
    rows, which = (formats.probe_rows(sae), "made-up") if sample is None else (sample, "stored")
    with placed(out, config.overwrite) as folder:
        formats.write(form.name, sae, folder, sample)
        found = formats.agreement(sae, back := formats.read(folder), rows)
        if not found.active:
            rows, which = formats.probe_rows(sae), "made-up"
            found = formats.agreement(sae, back, rows)
        if not found.good:
            raise UserError(
                f"to={form.name}: what was written differs from this SAE ({found}; at most {formats.TOLERANCE:g} is "
                "right); such a format loses digits far from the origin: choose another one"
            )
        check = f"{found} ({which} activations)"
        title = out.name if config.push is None else None
        made = {"title": title, "repo": config.push, "license": config.license, "meaning": meaning, "check": check}
        (folder / CARD).write_text(model_card(sae, form=form.name, **made), encoding="utf-8")
    names = ", ".join(sorted(path.name for path in out.iterdir()))
    command.say(f"{out}: {sae.name}, {sae.d_in} -> {sae.d_sae} -> {sae.d_out}, as {form.name}: {names}")
    command.say(f"read back: {check}")
    if config.push:
        url = push(out, config.push, private=config.private, message=f"{sae.name} SAE in {form.name} format")
        command.say(f"pushed to {url}")


if __name__ == "__main__":
    command.main("export", task)
