"""A client that is a Hugging Face chat model on this machine, such as the embedded SmolLM2."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge

from sae_lightning.core import UserError, derive_seed
from sae_lightning.core.processor import fast_bfloat16
from sae_lightning.core.progress import progress
from sae_lightning.lm.embedded import smollm2_folder
from sae_lightning.lm.hub import model_folder, read_tokenizer
from sae_lightning.lm.quiet import quiet_libraries
from sae_lightning.lm.weights import folder_sha256
from sae_lightning.studies.autointerp.clients.chat_format import ChatFormat
from sae_lightning.studies.autointerp.clients.choosing import choose
from sae_lightning.studies.autointerp.clients.client import Answer, Request, Usage, in_order
from sae_lightning.studies.autointerp.clients.continuations import Continuations
from sae_lightning.studies.autointerp.clients.protocol import clean
from sae_lightning.studies.autointerp.clients.tally import Tally

logger = logging.getLogger(__name__)

_ROWS = 64


class LocalClient:
    """Runs a chat model with its own chat template; the weights are loaded when something is asked.

    model: ``smollm2``, a hub name, or a folder. dtype: ``auto`` is bfloat16 where the machine multiplies it faster.
    batch_tokens: at most in one pass.

    A request with choices is answered with the likeliest of them, so never with anything else. With x the chat up to
    where the answer begins and c_1 .. c_n the tokens of a choice, p(c) = prod_i p(c_i | x, c_<i), added up over c as
    it is spelt and with a small or capital first letter, and divided by the sum over the choices; each is followed by
    the end of the turn where one choice begins like another (1 and 10). That is a probability of its own for each
    choice: longer ones need no correction. Any other text comes from transformers' ``generate``.

    An answer does not depend on what else is asked but for rounding: by about 1e-6 in float32 and 1e-2 in bfloat16.

    Raises UserError: no such model, no chat template, no such device.
    """

    def __init__(
        self,
        model: str = "smollm2",
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        batch_tokens: Annotated[int, Ge(1)] = 8192,
        show_progress: bool = True,
    ) -> None:
        quiet_libraries()
        self._model_name, self._batch_tokens, self._show = model, batch_tokens, show_progress
        self._device = _device(device)
        cpu_is_fast = self._device.type != "cpu" or fast_bfloat16()
        self._dtype = (torch.bfloat16 if cpu_is_fast else torch.float32) if dtype == "auto" else getattr(torch, dtype)
        try:
            self._folder = smollm2_folder() if model == "smollm2" else model_folder(model, revision)[0]
            self._tokenizer: Any = read_tokenizer(self._folder, model)
        except UserError as error:
            raise _of_client(error) from None
        self._format = ChatFormat(self._tokenizer, model)
        self._loaded: Any = None
        self._ends: frozenset[int] = frozenset()
        self._end = 0
        self._tally = Tally()

    @property
    def name(self) -> str:
        """The model, and that it was run here."""
        name = self._model_name if self._model_name != "smollm2" else "SmolLM2-135M-Instruct"
        return f"{Path(name).name if Path(name).is_dir() else name}, run here"

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides the answers besides the request: weights, template and arithmetic."""
        return {
            "client": "local",
            "weights": folder_sha256(self._folder),
            "template": str(self._tokenizer.chat_template),
            "dtype": str(self._dtype).removeprefix("torch."),
        }

    @property
    def usage(self) -> Usage:
        """What has been asked so far."""
        return self._tally.usage()

    def ask(self, requests: Sequence[Request], what: str = "asking") -> list[Answer]:
        """Return the answers in the order of the requests; see ``Client.ask``."""
        return in_order(self, requests, what)

    def answers(self, requests: Sequence[Request], what: str = "asking") -> Iterator[tuple[int, Answer]]:
        """Yield (place, answer) as they come."""
        if not requests:
            return
        self._tally.requests += len(requests)
        started = time.monotonic()
        try:
            with progress(what, len(requests), self._show) as advance:
                for place, answer in self._all(requests):
                    self._tally.count(answer)
                    yield place, answer
                    advance(1)
        finally:
            self._tally.seconds += time.monotonic() - started

    def _all(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        model = self._model()
        prompts: dict[int, list[int]] = {}
        room = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
        for place, request in enumerate(requests):
            ids = self._format.ids(request.messages)
            if len(ids) + request.max_tokens > room:
                yield place, Answer(None, "too long", len(ids))
            else:
                prompts[place] = ids
        chosen = {place: ids for place, ids in prompts.items() if requests[place].choices}
        yield from choose(requests, chosen, self._format, self._end, Continuations(model, self._batch_tokens))
        free = {place: ids for place, ids in prompts.items() if not requests[place].choices}
        greedy = {place: ids for place, ids in free.items() if requests[place].temperature == 0}
        for places in self._batches(requests, greedy):
            yield from zip(places, self._generate([free[p] for p in places], requests[places[0]]), strict=True)
        for place in free.keys() - greedy.keys():
            # Alone, so that its draws are its own.
            yield place, self._generate([free[place]], requests[place])[0]

    def _batches(self, requests: Sequence[Request], prompts: Mapping[int, list[int]]) -> Iterator[list[int]]:
        """Yield places of requests to answer at once: of one token limit, of like lengths."""
        batch: list[int] = []
        for place in sorted(prompts, key=lambda p: (requests[p].max_tokens, len(prompts[p]), p)):
            limit = requests[place].max_tokens
            tokens = (len(batch) + 1) * (len(prompts[place]) + limit)
            other = batch and requests[batch[0]].max_tokens != limit
            if batch and (other or tokens > self._batch_tokens or len(batch) == _ROWS):
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]], request: Request) -> list[Answer]:
        """Let the model write, all to the same limit."""
        from transformers import GenerationConfig

        model, ends = self._model(), self._ends
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), self._end, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):  # padded on the left: what is written follows the prompt
            ids[i, longest - len(prompt) :] = torch.tensor(prompt)
            mask[i, longest - len(prompt) :] = 1
        sampled = request.temperature > 0
        settings = GenerationConfig(
            max_new_tokens=request.max_tokens,
            do_sample=sampled,
            eos_token_id=sorted(ends),
            pad_token_id=self._end,
            **({"temperature": request.temperature, "top_k": 0, "top_p": 1.0} if sampled else {}),
        )
        # transformers draws from the global generator: it is given back as it was.
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(derive_seed(request.seed, "client", "sampling"))
            written = model.generate(
                ids.to(self._device), attention_mask=mask.to(self._device), generation_config=settings
            )
        return [
            self._answer(len(prompt), row, ends)
            for prompt, row in zip(prompts, written[:, longest:].tolist(), strict=True)
        ]

    def _answer(self, prompt_tokens: int, written: list[int], ends: frozenset[int]) -> Answer:
        end = next((i for i, token in enumerate(written) if token in ends), None)
        text = clean(self._tokenizer.decode(written[:end], skip_special_tokens=True))
        n = len(written) if end is None else end + 1
        return Answer(text or None, None if text else "cut off" if end is None else "empty", prompt_tokens, n)

    def _model(self) -> Any:
        """Return the model, loading it the first time."""
        if self._loaded is None:
            from transformers import GenerationConfig

            model = _load(self._folder, self._model_name, self._dtype, self._device)
            said = model.generation_config.eos_token_id
            ends = self._format.ends(said if isinstance(said, list) else [] if said is None else [said])
            if not ends:
                raise UserError(
                    f"client.model={self._model_name!r}: nothing says which token ends its answers; set "
                    "eos_token_id in its generation_config.json"
                )
            self._ends = ends
            end = self._format.turn_end
            self._end = min(ends) if end is None else end
            # How it likes to be sampled (temperature, repetition penalty) is not what was asked.
            model.generation_config = GenerationConfig()
            self._loaded = model
        return self._loaded


def _load(folder: Path, name: str, dtype: torch.dtype, device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # any library's complaint about the user's files
        raise UserError(f"client.model={name!r}: its weights can't be loaded ({error}); fetch them again") from error
    return model.to(device).eval()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"client.device={name!r}: is no device; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"client.device={name!r}: this machine has no usable CUDA device; use client.device=auto")
    return device


def _of_client(error: UserError) -> UserError:
    """Return what is wrong with a model in the words of this client's settings."""
    said = str(error).replace("lm.name=", "client.model=").replace("lm.revision=", "client.revision=")
    return UserError(said.replace("lm=smollm2", "client.model=smollm2"))
