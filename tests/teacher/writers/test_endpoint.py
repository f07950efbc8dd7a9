"""A teacher behind an OpenAI-compatible endpoint: what is asked, and what becomes of an endpoint's faults."""

import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from datatrove.data import Document

from configs.errors import RunError, UserError
from configs.load import load_config
from teacher.prompting.prompts import build_prompt
from teacher.records import Completion
from teacher.writers import endpoint
from teacher.writers.endpoint import load_endpoint
from teacher.writers.local import load_teacher
from teacher.writers.replies import retry_after
from tests.processes import refusing_port
from tests.teacher.writers.openai_server import answering

PROMPTS = [f"in the shop {i} <lesson>" for i in range(10)]


@pytest.fixture
def quick(monkeypatch):
    """Pauses of milliseconds."""
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(endpoint, "LONGEST_PAUSE", 0.02)


def writer_on(make_config, url, teacher=None, **serving):
    serving = {"url": url, "model": "big", "timeout_seconds": 300, "deadline_seconds": 300, **serving}
    config = make_config(teacher={"writer": "endpoint", **(teacher or {})}, serving=serving)
    return load_endpoint(config.teacher, config.serving)


def echo(body, attempt):
    return f"gold {body['prompt'].split()[3]}"


def test_a_reply_that_is_a_plan_alone_is_held_to_its_schema(make_config):
    asked = {}
    for strategies in (("plan",), ("plan", "faq")):
        with answering(lambda body, _: "{}") as server:
            teacher = {"prompting": "strategy", "strategies": strategies, "plans": True}
            config = make_config(
                teacher={"writer": "endpoint", **teacher}, serving={"url": server.url, "model": "big"},
                reward={"credit": "document"},
            )  # fmt: skip
            load_endpoint(config.teacher, config.serving).write(PROMPTS[:1], 1, seed=3)
            asked[strategies] = server.requests[0][1].get("response_format")
    schema = asked["plan",]["json_schema"]["schema"]
    assert asked["plan",]["type"] == "json_schema" and schema["properties"]["steps"]["maximum"] == 1000
    assert "augmentations" in schema["required"] and asked["plan", "faq"] is None, "a text is to follow"


def test_it_asks_for_what_the_local_writer_would_sample(make_config):
    with answering(lambda body, _: f"salt {body['prompt'].split()[3]}" + "..." * ("7" in body["prompt"])) as server:
        writer = writer_on(make_config, server.url, {"temperature": 0.5, "top_p": 0.9})
        written = writer.write(PROMPTS, 2, seed=3, openings=["<copy>", ""] * 5)
        first = [body for _, body, _ in server.requests]
        assert writer.write(PROMPTS, 2, seed=3, openings=["<copy>", ""] * 5) == written
        again = [body for _, body, _ in server.requests[20:]]
    expected = [
        [Completion(("" if i % 2 else "<copy>") + f"salt {i}" + "..." * (i == 7), i != 7)] * 2 for i in range(10)
    ]
    assert written == expected
    assert {path for path, _, _ in server.requests} == {"/v1/completions"}
    assert Counter(body["prompt"] for body in first) == {
        prompt + "<copy>" * (i % 2 == 0): 2 for i, prompt in enumerate(PROMPTS)
    }
    body = next(body for body in first if body["prompt"] == PROMPTS[1])
    assert {"model": "big", "max_tokens": 10, "temperature": 0.5, "top_p": 0.9}.items() <= body.items()
    assert all(body["max_tokens"] == 9 for body in first if body["prompt"].endswith("<copy>"))
    # Each sample has a seed of its own, and a second call the same ones.
    assert len({body["seed"] for body in first}) == 20
    assert sorted(body["seed"] for body in again) == sorted(body["seed"] for body in first)


@pytest.mark.parametrize("chat", [False, True])
def test_what_an_endpoint_cut_is_asked_for_again(make_config, chat):
    def behave(body, _):
        said = body["messages"][1]["content"] if len(body.get("messages", ())) > 1 else body.get("prompt", "")
        return "salt and ..." if "salt" not in said else "iron"

    limits = {"max_new_tokens": 10, "continuations": 1}
    with answering(behave) as server:
        [[written]] = writer_on(make_config, server.url, limits, chat=chat, context_tokens=200).write(
            ["in the shop"], 1, 0, temperatures=[0.25]
        )
        [[alone]] = writer_on(make_config, server.url, chat=chat).write(["in the shop"], 1, 0)
    assert written == Completion("salt and ...iron", True, continuations=1)
    assert alone == Completion("salt and ...", False)
    first, second, _ = (body for _, body, _ in server.requests)
    assert first["seed"] != second["seed"] and first["temperature"] == second["temperature"] == 0.25
    assert first["max_tokens"] == second["max_tokens"] == 10
    if chat:
        turns = [(turn["role"], turn["content"]) for turn in second["messages"]]
        assert turns == [("user", "in the shop"), ("assistant", "salt and ..."), ("user", endpoint.GO_ON)]
    else:
        assert second["prompt"] == "in the shopsalt and ..."


def test_it_has_the_local_writers_tokens_and_limits(make_config):
    local, writer = load_teacher(make_config().teacher), writer_on(make_config, "http://127.0.0.1:1/v1")
    assert writer.max_prompt_tokens == local.max_prompt_tokens
    assert writer.end_ids == local.end_ids
    assert writer.count_tokens("gold <copy> salt") == local.count_tokens("gold <copy> salt") == 3
    assert writer_on(make_config, "http://x/v1", context_tokens=40).max_prompt_tokens == 40 - 10 - 1
    assert writer.write([], 2, seed=0) == []


def test_busy_replies_torn_replies_and_resets_are_retried(make_config, quick):
    faults = [429, 503, "torn", "reset", 500, "empty", (429, {"Retry-After": "0.01"})]

    def stormy(body, attempt):
        start = int(body["prompt"].split()[3])
        return echo(body, attempt) if attempt > 6 else faults[(start + attempt) % len(faults)]

    with answering(stormy) as server:
        written = writer_on(make_config, server.url).write(PROMPTS, 1, seed=0)
    assert [one.text for [one] in written] == [f"gold {i}" for i in range(10)]
    assert len(server.requests) == 10 * 8


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_reply_that_takes_too_long_is_asked_for_again(make_config, quick, fault):
    with answering(lambda body, attempt: fault if attempt < 2 else echo(body, attempt)) as server:
        writer = writer_on(make_config, server.url, timeout_seconds=0.3)
        assert writer.write(PROMPTS[:3], 1, seed=0)[2][0].text == "gold 2"
    assert len(server.requests) >= 3 * 3


def test_an_error_of_one_prompt_leaves_the_others_alone(make_config, quick):
    def partly(body, attempt):
        return {"3": 400, "4": 503, "5": "hang", "6": "reset"}.get(body["prompt"].split()[3]) or echo(body, attempt)

    with answering(partly) as server:
        writer = writer_on(make_config, server.url, timeout_seconds=1.5, deadline_seconds=1.5)
        results = [result for [result] in writer.attempt(PROMPTS, 1, seed=0)]
        with pytest.raises(RunError, match="HTTP 400"):
            writer.write(PROMPTS, 1, seed=0)
    errors = {i: str(result.error) for i, result in enumerate(results) if result.error is not None}
    assert errors.keys() == {3, 4, 5, 6}
    assert errors[3].startswith("HTTP 400") and errors[4].startswith("HTTP 503: no (given up after ")
    assert errors[5].startswith("no reply in 1.5 seconds") and "ReadError" in errors[6]
    assert all(results[i] == Completion(f"gold {i}", True) for i in range(10) if i not in errors)


def test_a_retry_after_header_is_respected(make_config, quick):
    later = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    assert 3600 < retry_after({"retry-after": later}) <= 7200
    with answering(lambda body, n: echo(body, n) if n else (429, {"Retry-After": "0.7"})) as server:
        writer = writer_on(make_config, server.url)
        started = time.monotonic()
        writer.write(PROMPTS[:1], 1, seed=0)
    assert time.monotonic() - started >= 0.7
    # A pause beyond the deadline is not waited for.
    with answering(lambda body, n: (429, {"Retry-After": "3600"})) as server:
        [[completion]] = writer_on(make_config, server.url).attempt(PROMPTS[:1], 1, seed=0)
    assert completion.error is not None and len(server.requests) == 1


def test_no_more_requests_than_allowed_are_under_way(make_config):
    three = threading.Barrier(3)

    def together(body, attempt):
        three.wait(300)  # each waits for two others: 7 times 3 requests
        return echo(body, attempt)

    with answering(together) as server:
        writer_on(make_config, server.url, concurrency=3).write(PROMPTS[:7], 3, seed=0)
    assert server.most_at_once == 3


def test_a_key_comes_from_the_environment_and_shows_up_nowhere(make_config, monkeypatch):
    def guarded(body, attempt):
        return echo(body, attempt) if server.requests[-1][2].get("Authorization") == "Bearer s3cret" else 401

    with answering(guarded) as server:
        monkeypatch.delenv("KEY_OF_MINE", raising=False)
        with pytest.raises(UserError, match="the environment has no KEY_OF_MINE"):
            writer_on(make_config, server.url, api_key_variable="KEY_OF_MINE")
        monkeypatch.setenv("KEY_OF_MINE", "s3cret")
        assert writer_on(make_config, server.url, api_key_variable="KEY_OF_MINE").write(PROMPTS[:1], 1, seed=0)
        monkeypatch.setenv("KEY_OF_MINE", "wrong-s3cret")
        with pytest.raises(RunError, match=r"refuses the key in \$KEY_OF_MINE") as caught:
            writer_on(make_config, server.url, api_key_variable="KEY_OF_MINE").write(PROMPTS, 1, seed=0)
    assert "s3cret" not in str(caught.value)


def test_an_error_that_is_no_prompts_fault_ends_the_run(make_config, quick):
    with answering(lambda *_: 404) as server, pytest.raises(RunError, match="knows no model 'big'"):
        writer_on(make_config, server.url).write(PROMPTS, 1, seed=0)
    with refusing_port() as port, pytest.raises(RunError, match=r"cannot be reached: ConnectError \(given up"):
        writer_on(make_config, f"http://127.0.0.1:{port}/v1", deadline_seconds=0.2).write(PROMPTS, 1, seed=0)


def test_a_chat_endpoint_gets_the_users_turn(make_config):
    with answering(lambda body, _: body["messages"][0]["content"].split()[-1]) as server:
        writer = writer_on(
            make_config, server.url, {"prompting": "strategy", "strategies": ["rewrite"]},
            chat=True, body={"max_tokens": None, "max_completion_tokens": 99},
        )  # fmt: skip
        prompt = build_prompt(writer.tokenizer, writer.settings, Document("the shop holds gold", "1"), "rewrite", 500)
        [[written]] = writer.write([prompt], 1, seed=0)
    [(path, body, _)] = server.requests
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": prompt}] and "the shop holds gold" in prompt
    assert body["max_completion_tokens"] == 99 and "max_tokens" not in body
    assert written.text == prompt.split()[-1]


def test_configs_that_cannot_work_are_refused():
    with pytest.raises(UserError, match=r"needs serving\.url and serving\.model"):
        load_config("configs/smollm2-cpu.yaml", ["teacher.writer=endpoint"])
    chat = ["serving.chat=true", "teacher.prompting=policy", "curation.strategies={table: 1}"]
    with pytest.raises(UserError, match=r"serving\.chat begins no completion"):
        load_config("configs/smollm2-cpu.yaml", chat)
