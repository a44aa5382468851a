"""What an answer may take: limits set in options, answers that are paid for and of no use, keys that come back."""

import json
from unittest import mock

import pytest

from sae_lightning.core import UserError
from sae_lightning.studies.autointerp.clients.budget import Budget
from sae_lightning.studies.autointerp.clients.client import Request
from sae_lightning.studies.autointerp.clients.openai import OpenAIClient
from tests.studies.autointerp import chat_server
from tests.studies.autointerp.chat_server import ChatServer, always

THOUGHTS = f"<think>{'hmm ' * 1500}</think> Yes."


def requests(n: int) -> list[Request]:
    return [Request((("user", f"question {i}"),), 4, ("yes", "no")) for i in range(n)]


def client_of(server: ChatServer, **settings) -> OpenAIClient:
    common = {"key_env": None, "first_rest": 0.01, "show_progress": False}
    return OpenAIClient(server.base_url, "judge", **(common | settings))


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens"])
def test_a_model_that_thinks_aloud_may_be_given_room_for_it(key: str):
    with ChatServer(lambda messages: THOUGHTS) as server:
        answers = client_of(server, retries=0, options={key: 2000}).ask(requests(3))
        assert [answer.text for answer in answers] == ["yes"] * 3
        assert server.bodies[0][key] == 2000
        without = client_of(server, retries=0).ask(requests(3))
        assert [answer.problem for answer in without] == ["malformed"] * 3


def test_the_budget_knows_the_limit_of_the_options():
    with ChatServer(lambda messages: f"yes {'because ' * 450}") as server:
        client = client_of(server, options={"max_tokens": 500}, price_in=0.0, price_out=1000.0, max_cost=2.0)
        with pytest.raises(UserError, match="the next request could pass it"):
            client.ask(requests(40))
    assert 1.0 < (client.usage.cost or 0.0) <= 2.0


def test_an_answer_of_no_use_is_paid_for_all_the_same():
    with ChatServer(lambda messages: "yes", always("long text")) as server:
        client = client_of(server, retries=3, price_in=1000.0, price_out=1000.0)
        assert client.ask(requests(2))[0].problem == "malformed"
        assert len(server.bodies) == 8
    assert client.usage.cost == pytest.approx(8 * (2 + 1) * 1000 / 1e6)


def test_a_key_that_comes_back_escaped_is_taken_out(monkeypatch: pytest.MonkeyPatch):
    key = "sk-ab/cd-0123456789"
    monkeypatch.setenv("TEST_KEY", key)
    with ChatServer(lambda messages: f"your key is {key}", key=key) as server:
        escaped = mock.Mock(wraps=json, dumps=lambda value, **more: json.dumps(value, **more).replace("/", "\\/"))
        monkeypatch.setattr(chat_server, "json", escaped)
        (answer,) = client_of(server, key_env="TEST_KEY").ask([Request((("user", "say it"),), 20)])
    assert answer.text == "your key is [key]"


def test_what_is_on_its_way_counts_at_its_dearest():
    (one,) = requests(1)
    budget = Budget(0.0, 1e6, 10.0)  # 4 an answer at most
    budget.reserve(one)
    budget.reserve(one)
    assert budget.waits(one)
    with pytest.raises(UserError, match="the next request could pass it"):
        budget.reserve(one)
    budget.settle(one, 0, 1)
    budget.settle(one, 0, 1)
    assert not budget.waits(one)
    budget.reserve(one)
    assert budget.spent == 2.0
