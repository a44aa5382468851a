"""The embedded news, labelled by the site that published each article."""

import itertools
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from sae_lightning.tokens.corpus import Document, TextSource
from sae_lightning.tokens.news import NewsSource, news_articles

_ADDRESS = re.compile(r"(?:https?://|www\.)\S+")


class NewsDomainSource(TextSource):
    """3,788 articles of nine sites; ``label`` is the host of the article's link without ``www.``.

    Neither title nor link is in the text, and web addresses inside it are cut out, since they would spell the label.
    Bylines and agency names stay: they are part of how a site writes.
    """

    n_documents = NewsSource.n_documents

    def __str__(self) -> str:
        return "news_source"

    def identity(self) -> str:
        return f"{NewsSource().identity()}-by-domain"

    def documents(self, start: int = 0) -> Iterator[Document]:
        for article in itertools.islice(news_articles(), start, None):
            yield Document(_ADDRESS.sub("", article.text), {"label": _host(article.meta["link"])})


def _host(link: str) -> str:
    return urlsplit(link.strip()).netloc.lower().removeprefix("www.")
