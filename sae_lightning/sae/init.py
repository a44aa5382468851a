"""How an SAE starts, from a sample of the activations it will read."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from sae_lightning.core import UserError, torch_generator
from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.forms import BiasInit, Scheme
from sae_lightning.sae.geometry import geometric_median, renormalise

#: Rows of random numbers that are drawn at a time where a process keeps some of them alone.
_ROWS_DRAWN = 4096


@torch.no_grad()
def initialise(
    sae: SparseAutoencoder,
    sample_x: Float[Tensor, "n d_in"],
    sample_y: Float[Tensor, "n d_out"] | None = None,
    *,
    scheme: Scheme | None = None,
    decoder_norm: PositiveFloat | None = None,
    b_dec: BiasInit | None = None,
    seed: NonNegativeInt = 0,
) -> None:
    """Fill the weights of ``sae`` in place. None: the architecture's ``init_defaults``.

    sample_x, sample_y: activations as the SAE takes them (normalised); sample_y where the targets differ from x, and
    then the defaults are a transcoder's: scheme zero_decoder, b_dec mean.

    scheme:
    - ``tied``:         decoder rows in random directions, of length decoder_norm; W_enc = W_dec^T (independent random
                        directions where the widths differ)
    - ``kaiming``:      both matrices Kaiming uniform (bound sqrt(6 / d_in)), independent; decoder rows then scaled to
                        decoder_norm
    - ``kaiming_transpose``: W_enc Kaiming uniform; decoder rows are its columns, scaled to decoder_norm (a variant of
                        the crosscoder notes; as drawn they have a norm of about sqrt(2))
    - ``datapoint``:    decoder rows point from the sample's centre at random samples, of length decoder_norm;
                        W_enc = W_dec^T. A sample used again is mixed with 20 % of a random direction
    - ``zero_decoder``: W_enc Kaiming uniform, W_dec 0 (transcoders)

    decoder_norm: of a decoder row; of several sites (a crosscoder), of the part of it at each site. None: the
    architecture's own, which several sites share out among themselves: ``decoder_norm / sqrt(n_sites)`` each.

    b_dec: 0, the mean of the targets, or their geometric median (Weiszfeld). b_enc is 0. An architecture whose decoder
    is kept at unit norm starts at norm 1 unless told otherwise. The same seed gives the same weights.
    Raises UserError for a sample of the wrong width or with fewer than one row.
    """
    target = sample_x if sample_y is None else sample_y
    if sample_x.ndim != 2 or len(sample_x) < 1 or target.ndim != 2 or target.shape != (len(sample_x), sae.d_out):
        raise UserError(
            f"sample of shapes {tuple(sample_x.shape)} and {tuple(target.shape)}: initialisation needs at least "
            f"one row [n, {sae.d_in}] with its target [n, {sae.d_out}]"
        )
    defaults = sae.init_defaults
    transcoder = sample_y is not None and sample_y is not sample_x
    scheme = scheme or ("zero_decoder" if transcoder else defaults.scheme)
    b_dec = b_dec or ("mean" if transcoder else defaults.b_dec)
    norm = decoder_norm or (1.0 if sae.unit_norm_decoder else defaults.decoder_norm / math.sqrt(sae.n_sites))
    x = sae._rows(sample_x).x
    y = x if target is sample_x else target
    sae.b_enc.zero_()
    sae.b_dec.copy_(sae.execution.feature_ranks.from_first(_centre(y, b_dec)))
    if scheme == "kaiming_transpose" and sae.d_in != sae.d_out:
        raise UserError(
            f"init.scheme=kaiming_transpose: a decoder of width {sae.d_out} is no transpose of an encoder of width "
            f"{sae.d_in}; use kaiming"
        )
    if scheme in ("kaiming", "kaiming_transpose", "zero_decoder"):
        drawn = _kaiming(sae, sae.d_in, seed, "encoder")
        sae.W_enc.copy_(drawn.t())
        transposed = scheme == "kaiming_transpose"
        sae.W_dec.copy_(drawn if transposed else _kaiming(sae, sae.d_out, seed, "decoder"))
        if scheme == "zero_decoder":
            sae.W_dec.zero_()
        else:
            _at_each_site(sae, norm)
        return
    directions = _datapoints if scheme == "datapoint" else _random
    centre = _centre(y, "geometric_median" if b_dec == "geometric_median" else "mean")
    sae.W_dec.copy_(directions(y - centre.to(y), sae, seed, "decoder"))
    _at_each_site(sae, norm)
    if sae.d_in == sae.d_out and not transcoder:
        sae.W_enc.copy_(sae.W_dec.t())
        return
    # The same samples for a transcoder's encoder as for its decoder: the stream of draws has one name.
    stream = "decoder" if scheme == "datapoint" else "encoder"
    columns = directions(x - x.mean(0), sae, seed, stream).to(sae.W_enc)
    renormalise(columns, norm)
    sae.W_enc.copy_(columns.t())


def _at_each_site(sae: SparseAutoencoder, norm: float) -> None:
    for part in sae.W_dec.split(sae.site_widths or sae.d_out, dim=1):
        renormalise(part, norm)


def _centre(y: Float[Tensor, "n d"], kind: BiasInit) -> Float[Tensor, "d"]:
    if kind == "geometric_median":
        return geometric_median(y)
    return y.double().mean(0) if kind == "mean" else y.new_zeros(y.shape[1], dtype=torch.float64)


def _random(rows: Float[Tensor, "n d"], sae: SparseAutoencoder, seed: int, stream: str) -> Float[Tensor, "width d"]:
    return _drawn(torch.randn, sae, rows.shape[1], torch_generator(seed, "sae", "init", stream))


def _kaiming(sae: SparseAutoencoder, d: int, seed: int, stream: str) -> Float[Tensor, "width d"]:
    bound = math.sqrt(6 / d)
    return _drawn(torch.rand, sae, d, torch_generator(seed, "sae", "init", stream)) * (2 * bound) - bound


def _drawn(
    draw: Callable[..., Tensor], sae: SparseAutoencoder, d: int, generator: torch.Generator
) -> Float[Tensor, "width d"]:
    """Return the rows of ``draw(d_sae, d)`` that belong to this process's features, the same whoever holds the others.

    All rows are drawn, but for an SAE that has been cut some at a time: a normal draw fills numbers by sixteens, so
    draws of a multiple of 16 rows, the last of at least 16, follow each other like one.
    """
    if sae.width == sae.d_sae:
        return draw(sae.d_sae, d, generator=generator)
    out = torch.empty(sae.width, d)
    ends = [*range(_ROWS_DRAWN, sae.d_sae - 15, _ROWS_DRAWN), sae.d_sae]
    for first, end in zip([0, *ends], ends, strict=False):
        rows = draw(end - first, d, generator=generator)
        begin, stop = max(first, sae.first), min(end, sae.first + sae.width)
        if begin < stop:
            out[begin - sae.first : stop - sae.first] = rows[begin - first : stop - first]
    return out


def _datapoints(rows: Float[Tensor, "n d"], sae: SparseAutoencoder, seed: int, stream: str) -> Float[Tensor, "width d"]:
    usable = rows[rows.norm(dim=1) > 0].cpu()
    random = _random(rows, sae, seed, stream + "/noise")
    if not len(usable):
        return random
    generator = torch_generator(seed, "sae", "init", stream, "datapoint")
    rounds = [torch.randperm(len(usable), generator=generator) for _ in range(math.ceil(sae.d_sae / len(usable)))]
    own = torch.cat(rounds)[sae.first : sae.first + sae.width]
    chosen = torch.nn.functional.normalize(usable[own].float(), dim=1)
    used = max(0, len(usable) - sae.first)
    chosen[used:].mul_(0.8).add_(torch.nn.functional.normalize(random[used:], dim=1), alpha=0.2)
    return chosen
