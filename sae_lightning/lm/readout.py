"""How a language model turns the end of its residual stream into logits: its final norm and its unembedding."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_lightning.lm.agreement import tolerance
from sae_lightning.lm.frozen_lm import FrozenLM
from sae_lightning.lm.modules import INPUT
from sae_lightning.lm.outline import outline
from sae_lightning.lm.sizes import text_config

_LENGTH = 11  # of the window that is watched
_PROBES = 32  # rows that tell what a norm does
_EXACT = 1e-4  # how far a norm may be off what is found of it, relatively: modules may compute in float32
_WRAPPED = "_original_component"  # what a bridge's module wraps
_RESIDUAL = re.compile(r"blocks\.\d+\.hook_(?:resid_pre|resid_mid|resid_post|in|out)")
_ADDED = re.compile(r"blocks\.(\d+)\.hook_(?:attn|mlp)_out")


class NoReadout(Exception):  # noqa: N818 - a way that is not there, not a failure
    """The model's logits are not a final norm and an unembedding of its residual stream, as far as can be seen."""


@dataclass(frozen=True)
class Readout:
    """``logits = factor * (gamma ∘ u / s(x) + beta) W_U^T + bias``, u = x or, where the norm centres, x - mean(x).

    x [d_model] is the residual stream after the last block, s(x) its norm's scale: ``sqrt(mean(u²) + eps)`` of a
    LayerNorm or RMSNorm, 1 where there is no final norm. gamma is what the norm multiplies by, whatever its weights
    are called (1 + w of Gemma), float64 on the CPU; W_U [vocab, d_model] in the LM's dtype on its device.

    norm: path of the norm's module, None without one. site: where x is read, see ``FrozenLM.activations``.
    factor: what the model multiplies its unembedding's output by. capped: it does something else to it as well (Gemma 2
    bends large logits), which keeps their order.
    """

    gamma: Float[Tensor, "d_model"]
    centred: bool
    W_U: Float[Tensor, "vocab d_model"]
    factor: float
    capped: bool
    norm: str | None
    site: str
    _norm: Callable[[Tensor], Tensor] | None = None
    _beta: Tensor | float = 0.0

    def folded(self, rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """Return ``factor * gamma ∘ (rows - mean)``, float64: times W_U^T over s, what rows add to the logits."""
        rows = rows.double()
        if self.centred:
            rows = rows - rows.mean(dim=1, keepdim=True)
        return self.factor * self.gamma.to(rows.device) * rows

    def scales(self, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n"]:
        """Return the norm's scale s(x), float64, of rows read at ``site``."""
        x = x.double().cpu()
        if self._norm is None:
            return torch.ones(len(x), dtype=torch.float64)
        u = self.gamma * (x - x.mean(dim=1, keepdim=True) if self.centred else x)
        normed = self._norm(x) - self._beta
        return (u * u).sum(1) / (u * normed).sum(1)


@torch.no_grad()
def find_readout(lm: FrozenLM) -> Readout:
    """Return how ``lm`` reads its residual stream out. Raises NoReadout, its message the end of a sentence.

    Nothing depends on what modules are called. A short window runs once with every module watched: the unembedding is
    what the model says it is, or the last matrix [vocab, d_model] that ran; the final norm is the module whose output
    the unembedding takes in; what it multiplies by and whether it centres is found by calling it with random rows.
    """
    plain = lm._reader.plain
    model = lm.model if plain is None else plain.twin
    tokens = (torch.arange(min(_LENGTH, lm.n_ctx))[None] % lm.vocab_size).to(lm.device)

    def run() -> Any:
        if plain is not None:
            return plain.twin(input_ids=tokens, use_cache=False)
        assert lm.bridge is not None
        return lm.bridge(tokens, use_cache=False)

    with lm._one_at_a_time:
        seen, logits = _watched(model, run)
    head, W_U = _unembedding(model, seen, lm)
    taken, z = seen[head]
    factor, capped = _after(z, logits)
    # A cap is hardly seen on small logits.
    capped = capped or getattr(text_config(model), "final_logit_softcapping", None) is not None
    path = _source(model, seen, taken, head)
    blocks = [name for name, _ in _blocks(model)]
    if path in blocks:
        ones = torch.ones(lm.d_model, dtype=torch.float64)
        return Readout(ones, False, W_U, factor, capped, None, _plain_path(path))
    if any(path.startswith(f"{block}.") for block in blocks):
        raise NoReadout("its blocks end in a norm, so that nothing is added to what its unembedding reads")
    if not any(_same(seen[path][0], seen[block][1]) for block in blocks if block in seen):
        raise NoReadout(f"its final norm {_plain_path(path)} reads something else than what its blocks give out")
    gamma, beta, centred, norm = _probed(model.get_submodule(path), lm.d_model, _plain_path(path))
    name = _plain_path(path)
    return Readout(gamma, centred, W_U, factor, capped, name, name + INPUT, norm, beta)


@torch.no_grad()
def in_stream(lm: FrozenLM, site: str) -> bool:
    """Whether ``site`` is the residual stream, or is what is added to it as it is, as far as can be seen.

    Residual hooks and blocks are. An attention's or MLP's ``hook_attn_out`` and ``hook_mlp_out`` are where block,
    attention and MLP add up on a short window: with a norm behind them, or a factor, something else is added.
    """
    if _RESIDUAL.fullmatch(site):
        return True
    plain = lm._reader.plain
    named = outline(lm.model if plain is None else plain.twin, lm.n_layers)
    if site.removesuffix(INPUT) in {
        _plain_path(path) for hook, (path, _) in named.items() if _RESIDUAL.fullmatch(hook)
    }:
        return True
    if (added := _ADDED.fullmatch(site)) is None:
        return False
    names = [f"blocks.{added[1]}.hook_{name}" for name in ("resid_pre", "resid_post", "attn_out", "mlp_out")]
    if any(name not in lm.sites() for name in names):
        return False
    tokens = (torch.arange(min(_LENGTH, lm.n_ctx))[None] % lm.vocab_size).to(lm.device)
    read = lm.activations(tokens, names)
    before, after, attn, mlp = (read[name].float() for name in names)
    return bool((after - before - attn - mlp).norm() <= tolerance(lm.dtype, lm.device) * (after - before).norm())


def _watched(model: nn.Module, run: Callable[[], Any]) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor]:
    """Return what each module took in and gave out, in the order in which they ended, and the logits."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            taken = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
            given = out[0] if isinstance(out, tuple) and out else out
            if taken is not None and isinstance(given, Tensor):
                seen.pop(path, None)
                seen[path] = taken.clone(), given.clone()  # before the next module changes it in place

        return hook

    modules = [(path, m) for path, m in model.named_modules() if path and not _is_hook(path)]
    handles = [m.register_forward_hook(watch(path), with_kwargs=True) for path, m in modules]
    try:
        out = run()
    finally:
        for handle in handles:
            handle.remove()
    return seen, out[0] if isinstance(out, tuple) else getattr(out, "logits", out)


def _is_hook(path: str) -> bool:
    return path.rpartition(".")[2].startswith("hook_")


def _plain_path(path: str) -> str:
    return ".".join(part for part in path.split(".") if part != _WRAPPED)


def _blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    lists = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    return [(f"{path}.{i}", block) for path, m in lists for i, block in enumerate(m)]


def _unembedding(model: nn.Module, seen: dict[str, tuple[Tensor, Tensor]], lm: FrozenLM) -> tuple[str, Tensor]:
    """Return the path of the unembedding's module and its weight."""
    says = getattr(model, "get_output_embeddings", lambda: None)()
    modules = dict(model.named_modules())
    fitting: dict[str, Tensor] = {}
    for path, (taken, given) in seen.items():
        weight = getattr(modules[path], "weight", None)
        if isinstance(weight, Tensor) and not isinstance(modules[path], nn.Embedding):
            rows = given.shape[-1] if modules[path] is says else lm.vocab_size
            if weight.shape == (rows, lm.d_model) == (given.shape[-1], taken.shape[-1]):
                fitting[path] = weight.detach()
    if not fitting:
        raise NoReadout(f"no matrix of its own turns {lm.d_model} numbers into {lm.vocab_size:,} logits")
    path = next((path for path in fitting if modules[path] is says), [*fitting][-1])
    return path, fitting[path]


def _after(z: Tensor, logits: Tensor) -> tuple[float, bool]:
    """Return by what the model multiplies its unembedding's output, and whether it does something else."""
    a, b = z.double().flatten(), logits.double().flatten()
    if a.shape != b.shape:
        raise NoReadout("its logits are not what its unembedding gives out")
    if torch.equal(a, b):
        return 1.0, False
    allowed = tolerance(z.dtype, z.device) / 16 * float(b.norm())
    factor = float(a @ b / (a @ a))
    return next(((f, False) for f in (1.0, factor) if (b - f * a).norm() <= allowed), (1.0, True))


def _source(model: nn.Module, seen: dict[str, tuple[Tensor, Tensor]], taken: Tensor, head: str) -> str:
    """Return the innermost module whose output is what the unembedding takes in, and not its own input."""
    found = [
        path
        for path, (inside, out) in seen.items()
        if path != head and _same(out, taken) and not _same(inside, out) and head not in (path, f"{path}.{_WRAPPED}")
    ]
    if not found:
        raise NoReadout("no module gives out what its unembedding takes in")
    return min(found, key=lambda path: sum(not _is_hook(name) for name, _ in model.get_submodule(path).named_modules()))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.numel() == b.numel() and a.dtype == b.dtype and torch.equal(a.flatten(), b.flatten())


def _probed(module: nn.Module, width: int, name: str) -> tuple[Tensor, Tensor, bool, Callable[[Tensor], Tensor]]:
    """Return (gamma, beta, whether it centres, the norm in float64 on the CPU) of a LayerNorm or RMSNorm."""
    own: nn.Module = copy.deepcopy(module).to(device="cpu", dtype=torch.float64)

    def norm(rows: Tensor) -> Tensor:
        out: Any = own(rows[None])
        return (out[0] if isinstance(out, tuple) else out)[0].double()

    # Large, so that the norm's epsilon is nothing.
    x = 1e3 * torch.randn(_PROBES, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    try:
        over, under = norm(x), norm(-x)
    except (TypeError, RuntimeError) as error:  # it takes more than the stream, or another kind of number
        raise NoReadout(f"{name}, which its unembedding reads, can't be called by itself ({error})") from error
    beta, odd = (over + under) / 2, (over - under) / 2
    centred = _close(norm(x + 500.0) - beta, odd)
    u = x - x.mean(dim=1, keepdim=True) if centred else x
    u = u / u.square().mean(dim=1, keepdim=True).sqrt()
    gamma = (odd * u).sum(0) / (u * u).sum(0)
    if not (_close(gamma * u, odd) and _close(norm(3 * x) - beta, odd) and _close(beta, beta[:1].expand_as(beta), odd)):
        raise NoReadout(f"{name}, which its unembedding reads, is neither a LayerNorm nor an RMSNorm")
    return gamma, beta[0], centred, norm


def _close(a: Tensor, b: Tensor, size: Tensor | None = None) -> bool:
    return bool((a - b).norm() <= _EXACT * (b if size is None else size).norm())
