"""What every architecture is: four matrices, an encoder that picks features, a linear decoder."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_lightning.activations.normalise import row_statistics
from sae_lightning.core import Features, SAEOutput, UserError
from sae_lightning.sae.forms import Encoded, InitDefaults, Rows
from sae_lightning.sae.kernels import (
    Execution,
    SparsePattern,
    all_parts,
    gather_features,
    own_part,
    pattern_of,
    sparse_decode,
    sparse_encode,
)


class SparseAutoencoder(nn.Module, ABC):
    """``z = (x - b_dec) W_enc + b_enc``, ``f = activation(z)``, ``y_hat = f W_dec + b_dec``.

    Shapes: x [n, d_in], z and f [n, d_sae], y_hat [n, d_out]; W_enc [d_in, d_sae], b_enc [d_sae],
    W_dec [d_sae, d_out], b_dec [d_out]. Units: those of x. All weights are 0 until ``sae.init.initialise`` or
    ``sae.io.load_sae`` fills them: nothing here draws random numbers.

    rescale_acts_by_decoder_norm: ``f = activation(z ||d||)`` and ``y_hat = sum_i f_i d_i / ||d_i|| + b_dec``, as if
        every decoder row d_i had unit norm; of several sites, ``||d_i||`` is the sum of their norms. None: of several
        sites where the architecture keeps a unit-norm decoder for one, else false.
    subtract_b_dec: whether the encoder reads x - b_dec. None: where d_out equals d_in; set false for a transcoder.
    unit_norm_decoder: what training does to W_dec after each step. None: the architecture's own, and false where
        d_out differs from d_in.
    skip: adds ``(x - b_dec) W_skip`` to the output (a transcoder's linear path).
    site_widths: widths of the sites that lie side by side in a decoder row (a crosscoder). None: one site.
    layer_norm: reads raw rows as ``(x - mean(x)) / sqrt(var(x) + 1e-5)`` and gives the output back in raw units.

    W_enc lies by feature in memory (its transpose is contiguous), like W_dec: what touches some features touches whole
    lines. Sparse architectures compute z without gradients; their gradient passes through the selected values alone.
    ``execution`` says how products are computed; it is no part of what the SAE means.

    Where several processes share the features (``sae.sharding.cut``), this one holds ``width`` of the ``d_sae``, from
    number ``first`` on. In training its features are then its own ones and y_hat is everybody's; in eval mode features
    are everybody's too. Both are collectives.
    A subclass with a ``name`` of its own registers itself (see sae.registry). Raises UserError for sizes that
    contradict each other and for input of the wrong width.
    """

    name: ClassVar[str]
    unit_norm_default: ClassVar[bool] = False
    init_defaults: ClassVar[InitDefaults] = InitDefaults()
    # Whether multiplying one feature's scale leaves which features fire unchanged (false where features compete).
    features_scale_freely: ClassVar[bool] = True
    # Parameters and buffers that keep their precision whatever `.to(dtype)` asks.
    keep_dtype: ClassVar[tuple[str, ...]] = ()
    encoder_biases: ClassVar[tuple[str, ...]] = ("b_enc",)
    # Parameters that belong to no feature.
    without_features: ClassVar[tuple[str, ...]] = ("b_dec", "W_skip")
    registered: ClassVar[dict[str, type["SparseAutoencoder"]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            known = SparseAutoencoder.registered.setdefault(cls.name, cls)
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise TypeError(f"two SAE classes are named {cls.name!r}: {known} and {cls}")
            SparseAutoencoder.registered[cls.name] = cls

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        d_out: int | None = None,
        *,
        rescale_acts_by_decoder_norm: bool | None = None,
        subtract_b_dec: bool | None = None,
        unit_norm_decoder: bool | None = None,
        skip: bool = False,
        layer_norm: bool = False,
        site_widths: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        d_out = d_in if d_out is None else d_out
        if min(d_in, d_sae, d_out) < 1:
            raise UserError(f"d_in={d_in}, d_sae={d_sae}, d_out={d_out}: all widths must be at least 1")
        if subtract_b_dec and d_out != d_in:
            raise UserError(f"subtract_b_dec=true with d_in={d_in}, d_out={d_out}: needs equal widths; set it to false")
        self.d_in, self.d_sae, self.d_out = d_in, d_sae, d_out
        self.first, self.width = 0, d_sae
        self.subtract_b_dec = d_in == d_out if subtract_b_dec is None else subtract_b_dec
        if site_widths is not None and sum(site_widths) != d_out:
            raise UserError(f"site_widths={list(site_widths)}: must add up to d_out={d_out}; one width a written site")
        self.site_widths = None if site_widths is None else tuple(site_widths)
        rescale = self.unit_norm_default and self.n_sites > 1
        self.rescale_acts_by_decoder_norm = (
            rescale if rescale_acts_by_decoder_norm is None else rescale_acts_by_decoder_norm
        )
        default = self.unit_norm_default and d_in == d_out and self.n_sites == 1
        self.unit_norm_decoder = default if unit_norm_decoder is None else unit_norm_decoder
        self.skip, self.layer_norm = skip, layer_norm
        self.progress = 0.0
        self.metadata: dict[str, Any] = {}
        self.sample: tuple[Tensor, Tensor] | None = None
        self.execution = Execution()
        self.W_enc = nn.Parameter(torch.zeros(d_sae, d_in).t())
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(torch.zeros(d_sae, d_out))
        self.b_dec = nn.Parameter(torch.zeros(d_out))
        self.W_skip = nn.Parameter(torch.zeros(d_in, d_out)) if skip else None

    # Forward

    def pre_acts(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_sae"]:
        """Return z, differentiable (times the decoder norms under ``rescale_acts_by_decoder_norm``)."""
        return self._pre_acts(self._rows(x))

    def encode(self, x: Float[Tensor, "n d_in"]) -> Features:
        """Return the features of each row: the training selection in train mode, the inference one in eval mode."""
        return self._shown(self._encode(self._rows(x)).features)

    def decode(self, features: Features) -> Float[Tensor, "n d_out"]:
        """Return ``f W_dec + b_dec`` in raw units (without the skip path, which needs x)."""
        own = features if features.d_sae == self.width else own_part(features, self.first, self.width)
        return self._undo(self._decode(own), features)

    def forward(self, x: Float[Tensor, "n d_in"]) -> SAEOutput:
        """Return reconstruction, features and pre-activations."""
        rows = self._rows(x)
        features, pre_acts, selected = self._encode(rows)
        y_hat = self._decode(features)
        if self.W_skip is not None:
            y_hat = y_hat + self._skipped(rows)
        y_hat = self._undo(y_hat, features)
        if self.width < self.d_sae and not self.training:
            return SAEOutput(y_hat, self._shown(features), None)
        return SAEOutput(y_hat, features, pre_acts, selected)

    @abstractmethod
    def _encode(self, rows: Rows) -> Encoded:
        """Return features and what they were chosen from."""

    def _dense_features(self, values: Float[Tensor, "n d_sae"], rows: Rows) -> Features:
        return Features(values, None, None, self.width, rows.mean, rows.std)

    def _shown(self, features: Features) -> Features:
        """Return what a caller sees of this process's features: in eval mode those of all that share them."""
        ranks = self.execution.feature_ranks
        return features if self.training or ranks.alone else all_parts(features, ranks, self.first, self.d_sae)

    def over_shards(self, partial: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return a sum over this process's features as the sum over all; its gradient goes to each part as it is."""
        return self.execution.feature_ranks.summed(partial)

    def _skipped(self, rows: Rows) -> Float[Tensor, "n d_out"]:
        # Not ``rows.centred``: every process computes this path whole, and its gradients are not to be added up.
        assert self.W_skip is not None
        return (rows.x - self.b_dec if self.subtract_b_dec else rows.x) @ self.W_skip

    def _rows(self, x: Float[Tensor, "n d_in"]) -> Rows:
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise UserError(
                f"input of shape {tuple(x.shape)}: this SAE reads rows [n, {self.d_in}]; reshape or change d_in"
            )
        x = x.to(self.W_enc.dtype)
        mean = std = None
        if self.layer_norm:
            mean, std = row_statistics(x)
            x = (x - mean) / std
        return Rows(x, x - self._read_b_dec() if self.subtract_b_dec else x, mean, std)

    def _read_b_dec(self) -> Float[Tensor, "d_in"]:
        return self.execution.feature_ranks.handed_out(self.b_dec)

    def _pre_acts(self, rows: Rows) -> Float[Tensor, "n d_sae"]:
        z = torch.addmm(self.b_enc, rows.centred, self.W_enc)
        return z * self.decoder_norms() if self.rescale_acts_by_decoder_norm else z

    def _decode(self, features: Features) -> Float[Tensor, "n d_out"]:
        if features.indices is not None:
            assert features.offsets is not None
            return self.decode_sparse(features.values, features.indices, features.offsets)
        values = features.values
        if self.rescale_acts_by_decoder_norm:
            values = values / self.decoder_norms()
        # Outside autocast's reach only the sum with the bias: bfloat16 would round it at the size of b_dec.
        return self.over_shards((values.to(self.W_dec.dtype) @ self.W_dec).to(self.b_dec.dtype)) + self.b_dec

    def _undo(self, y_hat: Float[Tensor, "*prefix n d_out"], features: Features) -> Float[Tensor, "*prefix n d_out"]:
        if features.input_std is None or features.input_mean is None:
            return y_hat
        return y_hat * features.input_std + features.input_mean

    # Sparse pieces that losses use too

    def selected_pre_acts(
        self,
        x: Float[Tensor, "n d_in"],
        indices: Int[Tensor, "nnz"],
        offsets: Int[Tensor, "n_plus_1"],
        pre_acts: Float[Tensor, "n d_sae"] | None = None,
    ) -> Float[Tensor, "nnz"]:
        """Return z at the pairs of a CSR pattern, differentiable in x and every encoder parameter.

        pre_acts: ``SAEOutput.pre_acts`` of the same x, which saves computing the values again. No gradient goes into
        it. Nothing of size n x d_sae is made.
        """
        pattern = pattern_of(indices, offsets, self.width)
        # Rounded ones are computed anew.
        exact = pre_acts is not None and pre_acts.dtype == self.W_enc.dtype
        scores = pre_acts.detach()[pattern.rows, pattern.indices] if exact and pre_acts is not None else None
        return self._selected(self._rows(x), pattern, scores)

    def _selected(self, rows: Rows, pattern: SparsePattern, scores: Tensor | None) -> Float[Tensor, "nnz"]:
        """Return z at the pairs of ``pattern``, differentiable. scores: the same numbers, where they are known."""
        b_dec, memory = self._read_b_dec() if self.subtract_b_dec else None, self.execution.memory
        if not self.rescale_acts_by_decoder_norm:
            return sparse_encode(rows.x, b_dec, self.W_enc, self.b_enc, pattern, scores, memory)
        norms = self.decoder_norms()
        if scores is not None:
            scores = scores / norms.detach()[pattern.indices]
        z = sparse_encode(rows.x, b_dec, self.W_enc, self.b_enc, pattern, scores, memory)
        return z * gather_features(norms, pattern)

    def decode_sparse(
        self,
        values: Float[Tensor, "nnz"],
        indices: Int[Tensor, "nnz"],
        offsets: Int[Tensor, "n_plus_1"],
        *,
        bias: bool = True,
    ) -> Float[Tensor, "n d_out"]:
        """Return the reconstruction from a CSR pattern, in the units the SAE works in (layer norm not undone)."""
        pattern = pattern_of(indices, offsets, self.width)
        if self.rescale_acts_by_decoder_norm:
            values = values / gather_features(self.decoder_norms(), pattern)
        y_hat = self.over_shards(sparse_decode(values, pattern, self.W_dec, self.execution.memory))
        return y_hat + self.b_dec if bias else y_hat

    def decoder_norms(self) -> Float[Tensor, "d_sae"]:
        """Return ``sum_l ||d_i^l||`` over the sites written, for one site ``||d_i||``; differentiable.

        Never 0: a row of zeros counts as the smallest normal number.
        """
        if self.site_widths is None or self.n_sites == 1:
            norms = self.W_dec.norm(dim=1)
        else:
            norms = torch.stack([part.norm(dim=1) for part in self.W_dec.split(self.site_widths, dim=1)]).sum(0)
        return norms.clamp(min=torch.finfo(self.W_dec.dtype).tiny)

    @property
    def n_sites(self) -> int:
        """Number of sites that are written."""
        return 1 if self.site_widths is None else len(self.site_widths)

    # What training, folding and saving need to know

    @property
    def n_parameters(self) -> int:
        """Number of trained numbers, those that other processes hold too."""
        held = {name: p.numel() for name, p in self.named_parameters()}
        return sum(n if name in self.without_features else n // self.width * self.d_sae for name, n in held.items())

    @property
    def nominal_l0(self) -> int | None:
        """The number of features a row uses by design, or None where training decides."""
        return None

    def set_progress(self, progress: float) -> None:
        """Tell the SAE which share of training is over (for annealing; the training loop calls it every step)."""
        self.progress = min(max(float(progress), 0.0), 1.0)

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments, such that ``type(sae)(**sae.options())`` is the same SAE untrained."""
        return {
            name: getattr(self, name) for name in inspect.signature(type(self).__init__).parameters if name != "self"
        }

    @torch.no_grad()
    def scale_features_(self, factor: Float[Tensor, "d_sae"]) -> None:
        """Multiply feature i's activations by ``factor[i] > 0`` with the reconstruction unchanged, in place.

        Exact per feature where ``features_scale_freely``; elsewhere all factors must be equal.
        """
        assert not self.rescale_acts_by_decoder_norm, "rescaled activations have no scale of their own"
        self._scale_encoder_(factor)
        self._scale_thresholds_(factor.double())

    @torch.no_grad()
    def shift_input_(self, shift: Float[Tensor, "d_in"]) -> None:
        """Change biases so that input x gives what ``x + shift`` gave, in place."""
        assert not self.subtract_b_dec, "a subtracted b_dec shifts the input already"
        assert not self.rescale_acts_by_decoder_norm, "absorb the decoder norms first"
        self.b_enc.add_(shift @ self.W_enc)
        if self.W_skip is not None:
            self.b_dec.add_(shift @ self.W_skip)

    def _scale_encoder_(self, factor: Tensor) -> None:
        wide = factor.double()
        for parameter in (self.W_enc, *(getattr(self, bias) for bias in self.encoder_biases)):
            parameter.copy_(parameter.double() * wide)
        self.W_dec.copy_(self.W_dec.double() / wide[:, None])

    def _scale_thresholds_(self, factor: Tensor) -> None:
        """Multiply what features are compared with."""

    def start_thresholds_(self) -> None:
        """Give each feature's threshold the value that the constructor does."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SparseAutoencoder":
        held = {name: getattr(self, name).detach() for name in self.keep_dtype}
        super()._apply(fn, recurse)
        for name, before in held.items():
            now = getattr(self, name)
            if now.dtype.itemsize < before.dtype.itemsize:
                now.data = before.to(now.device)
        return self

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.options().items())
