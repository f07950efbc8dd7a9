"""What endpoints reply besides completions: each bad reply costs its own document, in one line that says why."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.errors import RunError, UserError
from configs.load import load_config
from teacher.records import Completion
from teacher.writers import endpoint
from teacher.writers.endpoint import load_endpoint
from teacher.writers.replies import mended, retry_after
from tests.teacher.writers.openai_server import answering

pytestmark = pytest.mark.wild

TEXT = "The harbour of Tallinn froze in January"
PROMPTS = [f"in the shop {i} <lesson>" for i in range(3)]


def choice(content=TEXT, reason="stop", **message):
    message = {"role": "assistant", "content": content, **message}
    return {"index": 0, "text": content, "message": message, "finish_reason": reason}


def reply(*args, **fields):
    return {"choices": [choice(*args, **fields)], "usage": {"completion_tokens": 20}}


def without(value, *path):
    """The value without the key at the end of `path`."""
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return value


def body(value):
    return value if isinstance(value, bytes) else json.dumps(value).encode()


@pytest.fixture
def asked(make_config, monkeypatch):
    """`asked(answer, chat=True)`: the completions of three prompts, of which the second gets this answer: a status,
    headers and a body, or a body alone. Pauses take milliseconds."""
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(endpoint, "LONGEST_PAUSE", 0.002)
    current, writers = {}, {}

    def behave(request, attempt):
        prompt = request["messages"][0]["content"] if "messages" in request else request["prompt"]
        status, headers, content = current["answer"] if prompt == PROMPTS[1] else (200, {}, body(reply()))
        current["asked"] = current.get("asked", 0) + (prompt == PROMPTS[1])
        return status, headers, content

    with answering(behave) as server:

        def ask(answer, chat=True, **serving):
            answer = answer if isinstance(answer, tuple) else (200, {}, body(answer))
            current.update(answer=(answer[0], answer[1], body(answer[2])), asked=0)
            serving = {"url": server.url, "model": "big", "chat": chat, "deadline_seconds": 0.5} | serving
            config = make_config(teacher={"writer": "endpoint", "prompting": "strategy"}, serving=serving)
            if str(serving) not in writers:
                writers[str(serving)] = load_endpoint(config.teacher, config.serving)
            first, second, third = writers[str(serving)].attempt(PROMPTS, 1, seed=0)
            # What one prompt's reply is, the others' are kept: they were paid for.
            assert [first, third] == [[Completion(TEXT, True)]] * 2
            ask.times = current["asked"]
            return second[0]

        ask.current = current
        yield ask


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize(
    ("reason", "ended"),
    [
        *((reason, True) for reason in ("stop", "STOP", "eos", "eos_token", "end", "end_turn", "DONE", None, 3, {})),
        *((r, False) for r in ("length", "LENGTH", "max_tokens", "MAX_TOKENS", "maxTokens", "model_length")),
        ("FINISH_REASON_MAX_TOKENS", False),
        ("truncated", False),
        ("model_context_window_exceeded", False),
    ],
)  # fmt: skip
def test_only_a_reason_that_says_so_is_a_cut(asked, reason, ended, chat):
    assert asked(reply(reason=reason), chat) == Completion(TEXT, ended)


def test_a_reply_without_a_reason_is_whole(asked):
    assert asked(without(reply(), "choices", 0, "finish_reason")) == Completion(TEXT, True)


PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": TEXT}]


@pytest.mark.parametrize(
    "answer",
    [
        reply(PARTS),
        reply([{"type": "text", "text": TEXT[:9]}, TEXT[9:]]),
        reply({"type": "output_text", "text": TEXT}),
        reply(TEXT, reasoning_content="Let me think", refusal=None),
        {**reply(), "usage": {"completion_tokens": "20"}},
        {**reply(), "usage": []},
        {**reply(), "error": None, "object": 3, "model": [], "created": "now"},
        [reply()],
        b"\xef\xbb\xbf" + body(reply()),
        body(reply())[:-1] + b', "logprob": NaN}',
        (201, {"Content-Type": "text/plain"}, reply()),
    ],
    ids=range(11),
)
def test_a_text_in_another_shape_is_read(asked, answer):
    assert asked(answer) == Completion(TEXT, True)


def test_half_an_emoji_becomes_a_character_that_files_can_hold(asked):
    assert asked(reply(TEXT + " \ud83d")).text == TEXT + " �"
    assert asked(reply(TEXT + " \ud83d\ude00")).text == TEXT + " 😀"
    assert asked(reply(TEXT + "\0")).text == TEXT


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (without(reply(reason="length", reasoning="Let me think"), "choices", 0, "message", "content"), "reasoned and"),
        (reply(None), "a reply without text"),
        (without(reply(), "choices", 0, "message", "content"), "a reply without text"),
        ({"choices": [{"message": None, "finish_reason": "stop"}]}, "a reply without text"),
        ({"choices": [{"index": 0}]}, "a reply without text"),
        (reply(42), "choices.0.message.content: it is 42, not a text"),
        (reply([7]), "a part of it is 7, not a text"),
        (reply([]), "a reply without text"),
        ({"choices": [None]}, "a reply of another form: choices.0"),
        ({"choices": "none"}, "a reply of another form: choices"),
        (reply(None, "stop", refusal="I cannot help"), "the model declines: I cannot help"),
        (reply("", "content_filter"), "filter withholds"),
        (reply("Half a", "SAFETY"), "filter withholds"),
        (reply("", "stop", reasoning_content=TEXT), "reasoned and wrote no text"),
        (reply(None, "tool_calls", tool_calls=[{}]), "without text (finish_reason toolcalls)"),
        ({"error": {"message": "context length exceeded", "code": 400}}, "HTTP 400: context length exceeded"),
        ([{"error": {"code": 400, "message": "too long", "status": "INVALID_ARGUMENT"}}], "HTTP 400: too long"),
        ({"error": "no such thing"}, "HTTP 200: no such thing"),
        ({"object": "error", "message": "too long", "code": 400}, "HTTP 400: too long"),
        ({"choices": [{**choice(), "error": {"code": 403, "message": "flagged"}}]}, "HTTP 403: flagged"),
        ({"detail": [{"msg": "field required"}]}, "HTTP 200: field required"),
        (
            b"<html><style>p {}</style><body>Please\n<b>log in</b></body></html>",
            "a web page instead of a completion (P",
        ),
        ((200, {"Content-Type": "text/html"}, b"Please log in"), "a web page"),
        (b'data: {"choices":[{"delta":{"content":"x"}}]}\n\ndata: [DONE]\n\n', "an event stream"),
        (b": ping\n\nevent: done\n\n", "an event stream"),
        (json.dumps(reply(TEXT + "é"), ensure_ascii=False).encode("latin-1"), "no UTF-8"),
        ((400, {}, {"error": {"message": "maximum context length is 4096 tokens."}}), "HTTP 400: maximum context"),
        ((422, {}, {"detail": [{"loc": ["body"], "msg": "bad \x1b[31mfield"}]}), "HTTP 422: bad [31mfield"),
        ((403, {}, b"\xff\xfe"), "HTTP 403"),
        ((501, {}, b""), "HTTP 501"),
    ],
    ids=range(30),
)
def test_what_asking_again_does_not_heal_costs_one_document_and_one_request(asked, answer, message):
    result = asked(answer, deadline_seconds=60)
    assert message in str(result.error) and len(str(result.error).splitlines()) == 1
    assert result.text == "" and asked.times == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"choices": []}, "without choices"),
        ({"choices": None}, "without choices"),
        ({}, "without choices"),
        ([], "its JSON is no object"),
        (b"null", "its JSON is no object"),
        (b"", "it is no JSON"),
        (b'{"choices": [{"text": "half', "it is no JSON"),
        (b"[" * 100_000, "it is no JSON"),
        (b'{"choices": [], "id": ' + b"1" * 5000 + b"}", "it is no JSON"),
        (reply("Half a", "error"), "broke off"),
        (reply("Half a", "abort"), "broke off"),
        ((200, {"Content-Encoding": "gzip"}, b"no gzip"), "DecodingError"),
    ],
    ids=range(12),
)
def test_a_reply_that_is_none_is_asked_for_a_few_times(asked, answer, message):
    result = asked(answer, deadline_seconds=60)
    assert message in str(result.error) and "given up after 4 attempts" in str(result.error)
    assert asked.times == 4


@pytest.mark.parametrize(
    "answer",
    [
        (429, {}, {"error": {"message": "You exceeded your current quota", "status": "RESOURCE_EXHAUSTED"}}),
        (529, {}, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        {"error": {"message": "upstream is busy", "code": 502}},
        {"error": {"message": "slow down", "type": "rate_limit_exceeded"}},
    ],
    ids=range(4),
)
def test_a_busy_server_is_asked_until_the_deadline(asked, answer, monkeypatch):
    """By a clock on which a request takes half a second."""
    monkeypatch.setattr(endpoint, "time", SimpleNamespace(monotonic=lambda: asked.current["asked"] / 2))
    result = asked(answer, deadline_seconds=5)
    assert "given up after 10 attempts" in str(result.error) and asked.times == 10


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((429, {}, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}), "exceeded"),
        ((402, {}, {"error": {"message": "Insufficient credits"}}), "Insufficient credits"),
        ({"error": {"message": "Insufficient Balance", "code": "invalid_request_error"}}, "Insufficient Balance"),
        ((400, {}, [{"error": {"code": 400, "message": "API key not valid. Pass a valid one."}}]), "Pass a valid one"),
        ((404, {}, {"detail": "Not Found"}), "knows no model 'big', or serving.url is not the API's base (HTTP 404"),
        ((307, {"Location": "https://elsewhere/v2"}, b""), "has moved to 'https://elsewhere/v2'"),
        ((405, {}, b"<html>Method not allowed"), "Method not allowed"),
    ],
    ids=range(7),
)  # fmt: skip
def test_what_every_prompt_would_meet_ends_the_run_with_the_servers_words(asked, answer, message):
    with pytest.raises(RunError) as caught:
        asked(answer, deadline_seconds=60)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_server_that_repeats_the_key_does_not_show_it(asked, monkeypatch):
    monkeypatch.setenv("KEY_OF_MINE", "s3cret")
    for status in (400, 401, 503):
        answer = (status, {}, {"error": {"message": "wrong: s3cret"}})
        try:
            words = str(asked(answer, api_key_variable="KEY_OF_MINE").error)
        except RunError as error:
            words = str(error)
        assert "wrong: ***" in words and "s3cret" not in words
    monkeypatch.setenv("KEY_OF_MINE", "s3\ncret")
    with pytest.raises(UserError, match="KEY_OF_MINE holds a character that no key has"):
        asked(reply(), api_key_variable="KEY_OF_MINE")


def test_the_pause_is_what_the_server_asks_for():
    soon = datetime.now(UTC) + timedelta(hours=1)
    for date in (format_datetime(soon, usegmt=True), format_datetime(soon), soon.strftime("%a, %d %b %Y %H:%M:%S")):
        assert 3000 < retry_after({"retry-after": date}) <= 3600
    assert retry_after({"retry-after": "7", "retry-after-ms": "1500"}) == 1.5
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    for none in ("", "-5", "nan", "soon", past, "Mon, 99 Foo 99999 99:99:99", "1, 2"):
        assert retry_after({"retry-after": none}) == 0


def test_a_pause_beyond_the_deadline_is_said_and_not_waited_for(asked):
    for pause in ("3600", "inf"):
        result = asked((429, {"Retry-After": pause}, b""))
        assert "given up after 1 attempt, asked to wait" in str(result.error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    (), ("choices",), ("choices", 0), ("choices", 0, "message"), ("choices", 0, "message", "content"),
    ("choices", 0, "text"), ("choices", 0, "finish_reason"), ("choices", 0, "error"), ("error",), ("usage",),
    ("choices", 0, "message", "reasoning_content"), ("choices", 0, "message", "refusal"), ("detail",), ("object",),
    ("choices", 0, "token_ids"),
]  # fmt: skip


@given(status=st.sampled_from([200, 200, 200, 400, 503]), place=st.sampled_from(PLACES), value=JSON, chat=st.booleans())
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
def test_any_value_anywhere_in_a_reply_gives_a_text_or_one_line(asked, status, place, value, chat):
    answer = inner = reply()
    for key in place[:-1]:
        inner = inner[key]
    if place:
        inner[place[-1]] = value
    try:
        result = asked((status, {}, body(answer if place else value)), chat, deadline_seconds=0.05)
    except RunError as error:
        result = Completion("", False, error)
    result.text.encode()
    if result.error is not None:
        assert isinstance(result.error, endpoint.EndpointError | RunError) and len(str(result.error).splitlines()) == 1
        str(result.error).encode()


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_mending_changes_nothing_but_lone_surrogates_and_nuls(text):
    whole = mended(text)
    whole.encode()
    if not any("\ud800" <= c <= "\udfff" or c == "\0" for c in text):
        assert whole == text


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        *((f"serving.url={url}", "expected the base of an API") for url in (
            "localhost:18900/v1", "http://[::1/v1", "host/v1", "http:///v1", "https://", "ftp://host/v1", "//host/v1",
            "http://host:port/v1", "http://host:99999/v1", "http://ho st/v1", "https://host/v1/chat/completions",
            "https://host/v1?api-version=1",
        )),
        ("serving.body={stream: true}", "expected no `stream`"),
        ("serving.body={top_p: .nan}", "expected values that JSON has"),
    ],
)  # fmt: skip
def test_a_setting_that_no_request_can_carry_is_refused_at_once(setting, message):
    with pytest.raises(UserError) as caught:
        load_config("configs/smollm2-cpu.yaml", [setting])
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_prompt_with_half_an_emoji_can_be_sent(asked, make_config):
    with answering(lambda request, attempt: TEXT) as server:
        config = make_config(teacher={"writer": "endpoint"}, serving={"url": server.url, "model": "big"})
        [[result]] = load_endpoint(config.teacher, config.serving).write(["in the shop \ud83d <lesson>"], 1, seed=0)
    assert result.text == TEXT


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("HTTP_PROXY", "nonsense://x", "the proxy that the environment names"),
        ("SSL_CERT_FILE", "/no/such/file", "names no certificates"),
    ],
)
def test_an_environment_that_allows_no_request_is_named(asked, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=message):
        asked(reply())


def test_replies_that_were_paid_for_are_asked_for_once(make_config, tmp_path):
    def poor(request, attempt):
        return TEXT + request["prompt"] if len(server.requests) <= 2 else (402, {}, b"Insufficient credits")

    def writer(url):
        config = make_config(teacher={"writer": "endpoint"}, serving={"url": url, "model": "big", "concurrency": 1})
        return load_endpoint(config.teacher, config.serving, kept=tmp_path / "kept")

    with answering(poor) as server, pytest.raises(RunError, match="Insufficient credits"):
        writer(server.url).attempt(PROMPTS, 1, seed=0)
    [file] = (tmp_path / "kept").iterdir()
    file.write_bytes(file.read_bytes() + b'{"number": 2, "te')  # torn by a kill
    with answering(lambda request, attempt: TEXT + request["prompt"]) as server:
        rich = writer(server.url)
        written = rich.attempt(PROMPTS, 1, seed=0)
        assert [[Completion(TEXT + prompt, True)] for prompt in PROMPTS] == written
        assert [request["prompt"] for _, request, _ in server.requests] == [PROMPTS[2]]
        # Another batch, or the same prompts with other seeds, is asked for anew, and takes the place of the first.
        rich.attempt(PROMPTS, 1, seed=1)
        assert len(server.requests) == 4 and len(list((tmp_path / "kept").iterdir())) == 1
