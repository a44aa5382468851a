"""Whether an SAE and what it is read on fit together: language model, sites, widths."""

from typing import Any

from sae_lightning.build.origin import Origin
from sae_lightning.core import UserError
from sae_lightning.sae import SparseAutoencoder


def check_lm(
    trained: dict[str, Any] | None,
    here: dict[str, Any],
    path: str,
    key: str = "sae",
    remedy: str = "give lm=... with the one it was trained on, or any_lm=true to measure it all the same",
) -> None:
    """Raise UserError unless an SAE was trained on this language model, as far as it says. key: what names its path."""
    if not trained:
        return
    if trained.get("tuned") and here.get("tuned"):
        check_lm(trained["tuned"], here["tuned"], path, key, remedy.replace("give lm=", "give sites.tuned.name="))
    if trained.get("sha256") and here["sha256"]:
        if trained["sha256"] != here["sha256"]:
            raise UserError(
                f"lm={here['name']}: {key}={path} was trained on {trained.get('name')}, whose weights are others "
                f"(SHA-256 {str(trained['sha256'])[:12]}, not {str(here['sha256'])[:12]}); {remedy}"
            )
    elif trained.get("name") and _short(str(trained["name"])) != _short(str(here["name"])):
        raise UserError(f"lm={here['name']}: {key}={path} was trained on {trained['name']}; {remedy}")


def check_width(sae: SparseAutoencoder, d_in: int, d_out: int, where: str) -> None:
    """Raise UserError unless an SAE reads and writes rows of these widths. where: what has them, in words."""
    if (sae.d_in, sae.d_out) != (d_in, d_out):
        raise UserError(
            f"this SAE reads rows of width {sae.d_in} and writes {sae.d_out}, but {where} has {d_in} and {d_out}; give "
            "the site and language model it was trained on (sites.read=[...] lm=...)"
        )


def differences(sae: SparseAutoencoder, here: dict[str, Any], origin: Origin) -> list[str]:
    """Return in words where an SAE is not measured as it was trained."""
    found = []
    said, sites = sae.metadata.get("lm") or {}, sae.metadata.get("sites") or {}
    for lm, used in ((said, here), (said.get("tuned") or {}, here.get("tuned") or {})):
        if lm.get("sha256") and lm["sha256"] != used.get("sha256"):
            found.append(
                f"trained on {lm.get('name')} (other weights, SHA-256 {str(lm['sha256'])[:12]}) than {used.get('name')}"
            )
        elif lm.get("name") and _short(str(lm["name"])) != _short(str(used.get("name"))):
            found.append(f"trained on {lm['name']}, measured on {used.get('name')}")
    for key, used in (("read", origin.read), ("write", origin.write)):
        if sites.get(key) and list(sites[key]) != list(used or ()):
            found.append(f"trained to {key} {', '.join(sites[key])}, measured at {', '.join(used or ())}")
    return found


def _short(name: str) -> str:
    """Return a model's name without its owner and spelling: gpt2-small, openai-community/gpt2 and gpt2 are one."""
    return name.rsplit("/", 1)[-1].lower().replace("_", "-").removesuffix("-small")
