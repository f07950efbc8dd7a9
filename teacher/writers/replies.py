"""What a reply of an OpenAI-compatible endpoint says: a completion, or why there is none and whether to ask again.

Servers agree on the form of a good reply and on little else. So all that we read of one is in `Reply`, which takes each
field in any shape that servers are known to give it; what it refuses is named in an error. Texts of servers are data:
they are cut, and hold no line break and no control character when they reach a message.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, ValidationError

HEALING_STATUSES = {408, 409, 425, 429}
"""Statuses beside 5xx after which the same request may succeed."""
FINAL_STATUSES = {501, 505}
"""Those of 5xx after which it will not: the server cannot do what is asked."""
COMMON_STATUSES = {401, 402, 404, 405, 407}
"""Statuses that all requests would get: no key, no money, no such model or path."""
WORDS = 200
"""Most characters of a server's own words in a message."""

Form = Literal["chat", "text", "tokens"]
"""What a reply is to hold: a chat message, a text, or (of a vLLM server of ours) token ids."""


class EndpointError(RuntimeError):
    """The endpoint gave no completion for a prompt, and asking again would not help; the message says why."""


class AskAgainError(Exception):
    """An attempt failed, and another may succeed."""

    def __init__(self, reason: str, pause: float = 0.0, *, connected: bool = True, readable: bool = True) -> None:
        """`pause` is what the server asks for, in seconds; `connected` is False where the server was not reached,
        `readable` where it answered with something else than a completion or an error."""
        super().__init__(reason)
        self.pause, self.connected, self.readable = pause, connected, readable


class EveryPromptError(Exception):
    """What failed is no prompt's fault and would meet all others too: a wrong key or address, no money left."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


def mended(text: str) -> str:
    """A text that every file can hold: surrogates that JSON escaped without their partner (half an emoji, where a
    token ended) become U+FFFD, and NULs are left out."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")


def spoken(value: Any) -> str:
    """A server's own words as part of one line, whatever JSON value or page they come as."""
    for _ in range(5):  # an object in a list in an object: servers wrap no deeper
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, dict):
            value = next((value[key] for key in ("message", "msg", "detail", "error", "title") if value.get(key)), "")
    text = mended("" if value is None or isinstance(value, list | dict) else str(value))
    if text.lstrip().startswith("<"):
        text = re.sub(r"(?is)<(script|style)\b.*?</\1>|<[^>]*>", " ", text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:WORDS]


def _content(value: Any) -> str | None:
    """The text of a message's `content`: a string, or a list of parts of which those of type `text` count. Parts of
    other types (thinking, images) are no text. None where there is no text at all."""
    if value is None or isinstance(value, str):
        return value if value is None else mended(value)
    if not isinstance(value, list | dict):
        raise ValueError(f"it is {value!r:.40}, not a text")
    texts: list[str] = []
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, str):
            texts.append(part)
        elif not isinstance(part, dict):
            raise ValueError(f"a part of it is {part!r:.40}, not a text")
        elif part.get("type", "text") in ("text", "output_text"):
            if not isinstance(part.get("text"), str):
                raise ValueError(f"the text of a part is {part.get('text')!r:.40}")
            texts.append(part["text"])
    return mended("".join(texts)) if texts else None


Content = Annotated[str | None, BeforeValidator(_content)]
Words = Annotated[str, BeforeValidator(spoken)]


class Message(BaseModel):
    """What the model wrote, as a chat message. Reasoning in a field of its own stays there."""

    content: Content = None
    refusal: Words = ""
    reasoning: Words = Field(default="", validation_alias=AliasChoices("reasoning_content", "reasoning"))


class Failure(BaseModel):
    """An error object; also one that is a bare text."""

    words: Words = ""
    kind: Words = ""
    """Its code, type and status, as far as it has any."""
    status: int | None = None
    """The HTTP status that it names."""


def _failure(value: Any) -> Any:
    if not value:
        return None
    named = [value.get(key) for key in ("code", "type", "status", "error_type")] if isinstance(value, dict) else []
    numbers = [int(text) for text in map(str, named) if re.fullmatch(r"[45]\d\d", text)]
    kind = " ".join(str(name) for name in named if name)
    return {"words": value, "kind": kind, "status": numbers[0] if numbers else None}


Fault = Annotated[Failure | None, BeforeValidator(_failure)]


class Choice(BaseModel):
    """One completion."""

    message: Message | None = None
    text: Content = None
    token_ids: list[int] | None = None
    finish_reason: Annotated[str, BeforeValidator(lambda value: re.sub("[^a-z]", "", str(value).lower()))] = ""
    """In lower case and letters alone: MAX_TOKENS and maxTokens are `maxtokens`."""
    error: Fault = None

    @property
    def cut(self) -> bool:
        """Whether the text reached its longest length. Only a reason that says so does: servers call the end `stop`,
        `eos_token`, `end_turn` or nothing at all."""
        return re.search("length|max.*token|tokenlimit|contextwindow|trunc", self.finish_reason) is not None

    @property
    def withheld(self) -> bool:
        """Whether a filter of the server has taken the text or the rest of it."""
        return re.search("filter|safety|recitation|blocklist|prohibited|sensitive|spii", self.finish_reason) is not None

    @property
    def broken(self) -> bool:
        """Whether the server broke the text off for reasons of its own."""
        return re.search("error|abort|cancel|fail|timeout|insufficient", self.finish_reason) is not None


class Reply(BaseModel):
    """A reply with status 200. It has choices, or an error under one of the names that servers give it."""

    choices: list[Choice] | None = None
    error: Fault = Field(default=None, validation_alias=AliasChoices("error", "errors"))


def read_choice(status: int, headers: Mapping[str, str], body: bytes, form: Form) -> Choice:
    """The completion of a reply, with what `form` names in it. Raises EndpointError, AskAgainError, EveryPromptError.
    `headers` are looked up in lower case."""
    content, problem = _parse(body)
    if isinstance(content, list) and len(content) == 1:
        content = content[0]  # Gemini puts its errors into a list
    if not 200 <= status < 300:
        _raise(status, _failure_of(content, body), headers)
    if problem or not isinstance(content, dict):
        _raise_unreadable(headers.get("content-type", ""), body, problem or "its JSON is no object")
    try:
        reply = Reply.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place, problem = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise EndpointError(f"a reply of another form: {place}: {problem}") from None
    choice = reply.choices[0] if reply.choices else None
    unnamed = None if choice or not {"message", "detail"} & content.keys() else _failure_of(content, body)
    if failure := reply.error or (choice and choice.error) or unnamed:
        _raise(status, failure, headers)
    if choice is None:
        raise AskAgainError("a reply without choices", readable=False)
    if choice.withheld:
        raise EndpointError(f"the endpoint's filter withholds the text (finish_reason {choice.finish_reason})")
    if choice.broken:
        raise AskAgainError(f"the endpoint broke off (finish_reason {choice.finish_reason})", readable=False)
    if form == "tokens":
        if choice.token_ids is None:
            raise AskAgainError("a reply without token ids", readable=False)
        return choice
    message = choice.message or Message()
    text = message.content if form == "chat" or choice.text is None else choice.text
    if not (text or "").strip() and (reason := _why_silent(choice, message, text)):
        raise EndpointError(reason)
    choice.text = text
    return choice


def _why_silent(choice: Choice, message: Message, text: str | None) -> str:
    """Why the model wrote nothing; empty where it just ended at once, which the gates judge."""
    if message.refusal:
        return f"the model declines: {message.refusal}"
    if message.reasoning:
        return (
            f"the model reasoned and wrote no text (finish_reason {choice.finish_reason}); see teacher.max_new_tokens"
        )
    return "" if text is not None else f"a reply without text (finish_reason {choice.finish_reason or 'missing'})"


def _parse(body: bytes) -> tuple[Any, str]:
    """The JSON value of a body, and what is wrong with the body if anything is."""
    text = body.decode("utf-8-sig", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None, "it is no JSON"
    try:
        body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return value, "it is no UTF-8"
    return value, ""


def _failure_of(content: Any, body: bytes) -> Failure:
    """The error in the body of a reply: an object under one of the usual names, or the body as it is."""
    if isinstance(content, dict):
        value = next((content[key] for key in ("error", "errors", "detail") if content.get(key)), content)
    else:
        value = content or body.decode(errors="replace")
    return Failure.model_validate(_failure(value) or {})


def _raise(status: int, failure: Failure, headers: Mapping[str, str]) -> None:
    """Raises the error that a failed reply is. An error object with status 200 may name the true one."""
    succeeded = 200 <= status < 300
    status = (failure.status if succeeded else None) or status
    reason = f"HTTP {status}{failure.words and f': {failure.words}'}"
    kind, words = failure.kind.lower(), failure.words.lower()
    # Codes of OpenAI, DeepSeek, Moonshot and OpenRouter. Gemini says "quota" and "billing" also of a minute's limit.
    no_money = re.search(r"insufficient_|billing|quota_error|arrear", kind) or re.search(
        r"insufficient (quota|credit|balance|fund)|credit balance|out of credit", words
    )
    common = re.search(r"invalid_api_key|model_not_found|account_deactivated", kind) or "api key not valid" in words
    if no_money or common or status in COMMON_STATUSES or 300 <= status < 400:
        raise EveryPromptError(status, failure.words)
    passing = succeeded and re.search(r"rate_?limit|overload|unavailable|timeout|server_error|exhausted", kind)
    if passing or status in HEALING_STATUSES or (status >= 500 and status not in FINAL_STATUSES):
        raise AskAgainError(reason, retry_after(headers))
    raise EndpointError(reason)


def _raise_unreadable(content_type: str, body: bytes, problem: str) -> None:
    """Raises the error that a reply with status 200 is which holds no completion and no error."""
    start = body[:2000].decode(errors="replace").lstrip("\ufeff \r\n\t")
    if start.startswith("<") or "html" in content_type:
        raise EndpointError(f"a web page instead of a completion ({spoken(start)}); look at serving.url")
    if re.match(r"(data|event|id|retry)?:", start) or "event-stream" in content_type:
        raise EndpointError("an event stream instead of a completion: set `stream` to false in serving.body")
    if problem == "it is no UTF-8":
        raise EndpointError("a reply that is no UTF-8")
    raise AskAgainError(f"a reply that is none: {problem}{start and f' ({spoken(start)[:60]})'}", readable=False)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait, in a header Retry-After (seconds or a date) or retry-after-ms; 0 where it
    asks for none."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            if (seconds := float(headers.get(name, "")) * unit) >= 0:  # not so for NaN
                return seconds
        except ValueError:
            pass
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
        # A date without a zone is in GMT, as HTTP's dates are.
        return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0
