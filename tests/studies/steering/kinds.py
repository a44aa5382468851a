"""SAEs of every kind on a small random model, and what steering is by hand: module hooks and dense arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from sae_lightning.activations import MaskPolicy
from sae_lightning.core import Sites, torch_generator
from sae_lightning.sae.standard import StandardSAE
from sae_lightning.store import Reader
from tests.lm.models import with_twin

RESID = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
MLP_IN = ("blocks.0.mlp.hook_in", "blocks.1.mlp.hook_in")
MLP_OUT = ("blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out")
WIDTH, D_SAE = 32, 24

#: kind -> sites, options of the SAE.
KINDS: dict[str, tuple[Sites, dict]] = {
    "sae": (Sites(RESID[1:2], RESID[1:2]), {}),
    "layer_norm": (Sites(RESID[1:2], RESID[1:2]), {"layer_norm": True}),
    "rescaled": (Sites(RESID[1:2], RESID[1:2]), {"rescale_acts_by_decoder_norm": True}),
    "transcoder": (Sites(MLP_IN[1:], MLP_OUT[1:]), {"subtract_b_dec": False, "skip": True}),
    "cross_layer_transcoder": (Sites(MLP_IN[:1], MLP_OUT), {"subtract_b_dec": False, "site_widths": (WIDTH, WIDTH)}),
    "crosscoder": (Sites(RESID[:2], RESID[:2]), {"site_widths": (WIDTH, WIDTH)}),
}
#: Kinds that read where another site is written below.
READS_ABOVE = ("crosscoder",)
# Paths of a llama's modules, and whether their input is meant.
PATHS = {
    **{site: (f"model.layers.{i}", False) for i, site in enumerate(RESID)},
    **{site: (f"model.layers.{i}.mlp", True) for i, site in enumerate(MLP_IN)},
    **{site: (f"model.layers.{i}.mlp", False) for i, site in enumerate(MLP_OUT)},
}


@dataclass(frozen=True)
class Kind:
    """A reader, and the plain model beside it."""

    reader: Reader
    twin: nn.Module


@cache
def made(kind: str, dtype: torch.dtype = torch.float32, masked: bool = True, feature_off: int | None = None) -> Kind:
    """Return an SAE of a kind with random weights. masked: the mask leaves out about a third of the tokens, by norm.

    Behind a norm all have one, and it is by token. feature_off: one that never fires.
    """
    lm, twin = with_twin("llama", dtype)
    sites, options = KINDS[kind]
    sae = StandardSAE(WIDTH * len(sites.read), D_SAE, WIDTH * len(sites.write), **options)
    generator = torch_generator(0, "tests", "steering", kind)
    for weight in sae.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=generator) / 4)
    if feature_off is not None:
        sae.b_enc.data[feature_off] = -1e4
    sae.metadata = {"sites": {"read": list(sites.read), "write": list(sites.write)}}
    tokens = torch.randint(0, 256, (4, 40), generator=generator)
    read = lm.activations(tokens, sites.read)
    norms = torch.cat([read[site] for site in sites.read], dim=-1).float().norm(dim=-1)[:, 1:]
    by_norm, some = masked and sites.read[0] in RESID, tuple(range(0, 256, 3))
    policy = MaskPolicy(
        special_ids=(*lm.special_ids, *(some if masked and not by_norm else ())),
        norm_multiple=1.0 if by_norm else None,
        median_norm=float(norms.quantile(0.67)) if by_norm else None,
    )
    return Kind(Reader(lm, sae.eval(), sites, policy, 40, 4), twin)


def features_by_hand(sae: StandardSAE, x: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
    """Return (f [n, d_sae], reconstruction [n, d_out], what a change of the features is multiplied by)."""
    mean, std = 0.0, 1.0
    if sae.layer_norm:
        mean = x.mean(-1, keepdim=True)
        std = ((x - mean).square().mean(-1, keepdim=True) + 1e-5).sqrt()
        x = (x - mean) / std
    centred = x - sae.b_dec if sae.subtract_b_dec else x
    norms = sae.W_dec.norm(dim=1) if sae.rescale_acts_by_decoder_norm else torch.ones(D_SAE)
    f = torch.relu((centred @ sae.W_enc + sae.b_enc) * norms)
    y = (f / norms) @ sae.W_dec + sae.b_dec
    if sae.W_skip is not None:
        y = y + centred @ sae.W_skip
    return f, y * std + mean, std / norms if isinstance(std, Tensor) else 1.0 / norms[None]


def by_hand(
    kind: Kind,
    tokens: Tensor,
    change: Callable[[Tensor], Tensor],
    chosen: Tensor,
    *,
    keep_error: bool = True,
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Return (logits, activations at the written sites, which tokens were steered [b, p]) of a whole steered run.

    tokens [b, p], the start first. change: f -> f' [n, d_sae]. chosen [b, p]: where to steer, before the mask.
    """
    reader, twin = kind.reader, kind.twin
    sae, policy, sites = reader.sae, reader.mask, reader.sites
    assert isinstance(sae, StandardSAE)
    assert policy is not None
    clean: dict[str, Tensor] = {}
    now: dict[str, Tensor] = {}
    where = torch.zeros_like(tokens, dtype=torch.bool)

    def rewritten(site: str, y: Tensor, x: Tensor) -> Tensor:
        number = sites.write.index(site)
        keep = chosen & ~torch.isin(tokens, torch.tensor(policy.special_ids))
        keep = keep & (torch.arange(tokens.shape[1]) > 0)
        if policy.norm_multiple is not None and policy.median_norm is not None:
            keep = keep & (x.norm(dim=-1) <= policy.norm_multiple * policy.median_norm)
        where.copy_(keep)
        out = y.clone()
        for row, position in keep.nonzero().tolist():
            f, y_hat, unit = features_by_hand(sae, x[row, position][None])
            delta = ((change(f) - f) * unit) @ sae.W_dec
            new = (torch.cat([clean.get(s, y) for s in sites.write], -1)[row, position] if keep_error else y_hat) * 1.0
            if keep_error and kind.reader.sites.read != sites.write:
                new = torch.cat([y] * len(sites.write), -1)[row, position]
            width = slice(number * WIDTH, (number + 1) * WIDTH)
            out[row, position] = (new + delta).reshape(-1)[width]
        return out

    def run(writes: bool) -> Tensor:
        handles = []
        for site in dict.fromkeys((*sites.read, *sites.write)):
            path, before = PATHS[site]
            module = twin.get_submodule(path)

            def come_by(value: Tensor, site: str = site) -> Tensor:
                if not writes:
                    clean[site] = value
                    return value
                source = clean if sites.read == sites.write else now
                if site in sites.read and site not in clean:
                    now[site] = value
                if site in sites.write:
                    value = rewritten(site, value, torch.cat([source[s] for s in sites.read], -1))
                    seen[site] = value
                return value

            if before:
                handles.append(module.register_forward_pre_hook(lambda _m, a, f=come_by: (f(a[0]), *a[1:])))
            else:
                handles.append(
                    module.register_forward_hook(
                        lambda _m, _a, out, f=come_by: (f(out[0]), *out[1:]) if isinstance(out, tuple) else f(out)
                    )
                )
        try:
            return twin(input_ids=tokens, use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()

    seen: dict[str, Tensor] = {}
    with torch.no_grad():
        if sites.read == sites.write:
            run(writes=False)
        logits = run(writes=True)
    return logits, seen, where
