"""A process that asks an endpoint, to be killed: python -m ... BASE_URL FOLDER N."""

import sys

from sae_lightning.studies.autointerp.clients.client import Request
from sae_lightning.studies.autointerp.clients.kept import keeping
from sae_lightning.studies.autointerp.clients.openai import OpenAIClient


def questions(n: int) -> list[Request]:
    """Return n different questions."""
    return [Request((("user", f"question {i}"),), 20) for i in range(n)]


if __name__ == "__main__":
    url, folder, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    inner = OpenAIClient(url, "judge", key_env="TEST_KEY", parallel=4, first_rest=0.01)
    with keeping(inner, folder) as client:
        answers = client.ask(questions(n))
        assert [answer.text for answer in answers] == [f"heard: question {i}" for i in range(n)]
