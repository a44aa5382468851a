"""Chats as the token ids that a model was trained on, in which no content can end a turn."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sae_lightning.core import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Of the private use area: no template has them, and content is not in the text that they are looked for in.
_LEFT, _RIGHT = "\ue0f0", "\ue0f1"
_PLACE = re.compile(f"{_LEFT}(\\d+){_RIGHT}")


class ChatFormat:
    """A tokenizer's chat template, filled with place-holders; content is tokenised by itself, as plain text.

    So a ``<|im_end|>`` in a message becomes the characters of it, never the control token, and what the template does
    to content (trimming, looking for tags) does not happen. name: of the model, for messages.
    Raises UserError: a tokenizer without a chat template.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
        if not tokenizer.chat_template:
            raise UserError(
                f"client.model={name!r}: its tokenizer has no chat template, so it is no chat model; choose one that "
                "was trained for chats, such as client.model=smollm2"
            )
        self._tokenizer, self._name = tokenizer, name
        self._control = frozenset(tokenizer.added_tokens_decoder) | frozenset(tokenizer.all_special_ids)
        written = {str(token.content) for token in tokenizer.added_tokens_decoder.values()}
        written |= set(map(str, tokenizer.all_special_tokens))
        # White space that has a token of its own is no control.
        self._written = sorted((word for word in written if word.strip()), key=len, reverse=True)
        spaces = [i for i, token in tokenizer.added_tokens_decoder.items() if not str(token.content).strip()]
        self._control -= frozenset(spaces)

    def ids(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """Return the ids of a chat, up to where the assistant's answer begins.

        Raises UserError: the template does not take these roles in this order.
        """
        rendered = self._render([role for role, _ in messages])
        contents = [content for _, content in messages]
        if rendered is None and messages and messages[0][0] == "system" and len(messages) > 1:
            # Some templates know no system: what it says goes before the first question.
            rendered = self._render([role for role, _ in messages[1:]])
            contents = [f"{contents[0]}\n\n{contents[1]}", *contents[2:]]
        if rendered is None:
            raise UserError(
                f"client.model={self._name!r}: its chat template takes no chat of "
                f"{', '.join(role for role, _ in messages)}; choose another model"
            )
        ids: list[int] = []
        for place, part in enumerate(_PLACE.split(rendered)):
            ids += self.plain(contents[int(part)]) if place % 2 else self._encode(part)
        return ids

    def plain(self, text: str) -> list[int]:
        """Return the ids of text in which no control token is, whatever is written in it."""
        pieces = [text.encode("utf-8", "replace").decode("utf-8")]
        for word in self._written:
            # Cut after its first character, the word is not found again.
            pieces = [part for piece in pieces for part in _cut(piece, word)]
        ids = [token for piece in pieces for token in self._encode(piece)]
        return [token for token in ids if token not in self._control]

    def ends(self, more: Iterable[int] = ()) -> frozenset[int]:
        """Return the ids that end an answer: the tokenizer's, what follows one in the template, and ``more``."""
        ends = {int(token) for token in more}
        if self._tokenizer.eos_token_id is not None:
            ends.add(int(self._tokenizer.eos_token_id))  # pyright: ignore[reportArgumentType] - one id, no list
        return frozenset(ends if self.turn_end is None else {*ends, self.turn_end})

    @property
    def turn_end(self) -> int | None:
        """The control token that follows an answer in the template, None where none does."""
        if (rendered := self._render(["user", "assistant"], answer=False)) is None:
            return None
        after = self._encode(_PLACE.split(rendered)[-1])[:1]
        return after[0] if after and after[0] in self._control else None

    def _render(self, roles: Sequence[str], *, answer: bool = True) -> str | None:
        """Return the template's text with a place-holder for each content, None where it refuses or loses one."""
        messages: list[Any] = [{"role": role, "content": f"{_LEFT}{place}{_RIGHT}"} for place, role in enumerate(roles)]
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)
        except Exception:  # a template raises whatever it likes
            return None
        found = [int(place) for place in _PLACE.findall(str(text))]
        return str(text) if found == list(range(len(roles))) else None

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []  # pyright: ignore


def _cut(text: str, word: str) -> list[str]:
    """Return the text in pieces, cut after the first character of each occurrence of ``word``."""
    parts = text.split(word)
    pieces = [parts[0]]
    for part in parts[1:]:
        pieces[-1] += word[:1]
        pieces.append(word[1:] + part)
    return pieces
