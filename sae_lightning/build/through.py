"""From config to objectives that are measured through the language model: where its runs begin and what they show."""

from sae_lightning.build.data import Data
from sae_lightning.core import Sites, UserError
from sae_lightning.lm import FrozenLM, resume_site, site_layer
from sae_lightning.lm.sites import member_of
from sae_lightning.losses import BlockMSE, Objective
from sae_lightning.training.downstream import Downstream


def later_sites(objective: Objective, sites: Sites, lm: FrozenLM) -> list[str]:
    """Return the residual sites that an objective compares, and tell its terms which are theirs.

    Raises UserError for layers that do not come after the sites.
    """
    found: dict[str, None] = {}
    for name, term in objective.terms.items():
        if isinstance(term, BlockMSE):
            first = 1 + max(_last_clean_block(site) for site in sites.write)
            if first >= lm.n_layers:
                where = ", ".join(sites.write)
                raise UserError(f"losses.{name}: no block comes after {where}; leave objective.block_mse at 0")
            layers = list(range(first, lm.n_layers)) if term.layers is None else list(term.layers)
            for layer in layers:
                if not first <= layer < lm.n_layers:
                    raise UserError(
                        f"losses.{name}.layers={layer}: is not a block above {', '.join(sites.write)}, where the "
                        f"reconstruction is written; choose from {first} to {lm.n_layers - 1} (objective.block_layers)"
                    )
            # Of its own: the lanes of a bank share the runs, which show what any of them asks for.
            term.sites = tuple(f"blocks.{layer}.hook_resid_post" for layer in layers)
            found |= dict.fromkeys(term.sites)
    return list(found)


def _last_clean_block(site: str) -> int:
    """Return the last block whose output a reconstruction at ``site`` is itself, or does not reach."""
    layer = site_layer(site)
    if layer is None:
        return -1
    # What is written within a block shows in the block's own output. A module path may be that of the block itself.
    of_block = site.endswith((".hook_resid_post", ".hook_out")) and site.count(".") == 2
    return layer if of_block or site.rsplit(".", 1)[-1].isdigit() else layer - 1


def build_downstream(data: Data, sites: Sites, objectives: list[Objective]) -> Downstream | None:
    """Return what runs the rest of the language model; None where no lane's objective asks for it."""
    asking = [objective for objective in objectives if objective.reads_model]
    if not asking:
        return None
    assert data.lm is not None, "an end-to-end objective has a language model (RunConfig)"
    if any(member_of(site)[0] is not None for site in (*sites.read, *sites.write)):
        raise UserError(
            "objective.end_to_end=true: is measured through one language model, and the sites are of two; use "
            "objective=local with sites=diff"
        )
    later = dict.fromkeys(site for objective in asking for site in later_sites(objective, sites, data.lm))
    return Downstream(data.lm, sites.write, resume_site(sites.write), list(later))
