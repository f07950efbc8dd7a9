"""The teacher on a server: our own vLLM, or any OpenAI-compatible endpoint. Prompts in, completions out.

A request that fails is sent again, with growing pauses, if that may help (`teacher.writers.replies` says what may). A
prompt whose requests fail for good gets an error of its own. Requests wait while a server of ours starts again.
"""

import asyncio
import itertools
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from transformers import GenerationConfig, PreTrainedTokenizerBase

from configs.errors import RunError, UserError
from configs.format import amount
from configs.schema import Serving, Teacher
from configs.seeds import stable_seed
from student.engine.encoding import prompt_ids
from student.engine.model_names import check_available
from student.engine.models import end_ids, positions_of, read_config
from teacher.prompting.template import load_tokenizer
from teacher.records import Completion, Writer
from teacher.run.checkpoints import is_adapter
from teacher.writers.opening import check_tags, completion_pattern
from teacher.writers.paid import PaidReplies
from teacher.writers.replies import AskAgainError, Choice, EndpointError, EveryPromptError, Form, mended, read_choice
from teacher.writers.vllm_server import read_state

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between attempts: twice as long each time, less up to half by chance."""
MOST_UNREADABLE = 4
"""Attempts whose reply is neither a completion nor an error, after which a prompt is given up: such replies are paid
for, and a server that has not sent a whole one by then does not send one."""
GO_ON = "Your text was cut. Go on exactly where it stops, and write nothing else."
"""Asks a model behind /chat/completions for the rest: not all servers go on with an assistant's turn."""
TEMPLATE_TOKENS = 64
"""Room for what an endpoint's own chat template adds."""


class Sample(NamedTuple):
    """The completion that one request asks for."""

    prompt: str
    opening: str
    seed: int
    temperature: float


class EndpointWriter(Writer):
    """Writes as `TransformersWriter` does, with `serving.concurrency` requests under way at once."""

    def __init__(
        self,
        settings: Teacher,
        serving: Serving,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context: int | None,
        end_ids: set[int],
        state_file: Path | None = None,
        model: str | None = None,
        kept: Path | None = None,
    ) -> None:
        """`state_file` is that of a vLLM server of ours; None asks the endpoint of `serving`. `model` is the name to
        ask for, where it is not the one that the server was started with. `kept` is a folder for replies of the batch
        under way, which a later call of the same batch takes from there."""
        self.paid = None if kept is None else PaidReplies(kept)
        self.settings, self.serving, self.tokenizer = settings, serving, tokenizer
        self.end_ids, self.state_file, self.model = end_ids, state_file, model
        self.context = context - TEMPLATE_TOKENS if context is not None and self.chat else context
        # The global random state is not touched; pauses must differ between processes.
        self._random = random.Random()
        # Read from disk once: each batch opens a client of its own, and with it the connections that it closes.
        try:
            self._certificates = httpx.create_ssl_context()
        except OSError as error:
            raise UserError(f"SSL_CERT_FILE or SSL_CERT_DIR names no certificates: {error.strerror or error}") from None

    @property
    def chat(self) -> bool:
        """Whether the user's turn is sent, not a rendered prompt."""
        return self.serving.chat and self.state_file is None

    def write(
        self,
        prompts: list[str],
        n: int,
        seed: int,
        openings: Sequence[str] = (),
        temperatures: Sequence[float] = (),
    ) -> list[list[Completion]]:
        """Equal calls ask for the same. Raises RunError as `attempt` does, and with the first error of a prompt."""
        completions = self.attempt(prompts, n, seed, openings, temperatures)
        for completion in itertools.chain.from_iterable(completions):
            if completion.error is not None:
                raise RunError(
                    f"{'vLLM' if self.state_file else 'the endpoint'} gave no completion of a prompt:"
                    f" {completion.error}; what is finished is kept, the same command goes on"
                )
        return completions

    def attempt(
        self,
        prompts: list[str],
        n: int,
        seed: int,
        openings: Sequence[str] = (),
        temperatures: Sequence[float] = (),
    ) -> list[list[Completion]]:
        """Raises RunError if the server refuses the key, does not know the model or cannot be reached at all."""
        openings = openings or [""] * len(prompts)
        temperatures = temperatures or [self.settings.temperature] * len(prompts)
        samples = [
            Sample(prompt, opening, stable_seed(seed, p * n + j), temperature)
            for p, (prompt, opening, temperature) in enumerate(zip(prompts, openings, temperatures, strict=True))
            for j in range(n)
        ]
        try:
            results = asyncio.run(self._complete_all(samples))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return [results[p * n : (p + 1) * n] for p in range(len(prompts))]

    async def _complete_all(self, samples: list[Sample]) -> list[Completion]:
        slots = asyncio.Semaphore(self.serving.concurrency)
        headers = {}
        if self.state_file is None and (variable := self.serving.api_key_variable):
            headers["Authorization"] = f"Bearer {_key(variable)}"
        try:
            client = httpx.AsyncClient(
                headers=headers,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=self.serving.concurrency),
                # How long a reply may take in all is asyncio's part: httpx would time each piece of it.
                timeout=httpx.Timeout(None, connect=30),
                # A proxy of the environment stands between us and the world, not before our own server.
                trust_env=self.state_file is None,
                verify=self._certificates,
            )
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            raise UserError(f"the proxy that the environment names cannot be used: {error}") from None
        asked = (self.serving.model, self.chat, self.serving.body, self.settings, samples)
        completions = {} if self.paid is None else self.paid.of(asked)

        async def complete(number: int) -> None:
            completion = completions[number] = await self._complete(client, slots, samples[number])
            if self.paid is not None and completion.error is None:
                self.paid.add(number, completion)

        # A RunError of one sample ends the others.
        async with client, asyncio.TaskGroup() as group:
            for number in range(len(samples)):
                if number not in completions:
                    group.create_task(complete(number))
        return [completions[number] for number in range(len(samples))]

    async def _complete(self, client: httpx.AsyncClient, slots: asyncio.Semaphore, sample: Sample) -> Completion:
        if sample.opening in self.stops:
            return Completion(sample.opening, False)
        text, ids = sample.opening, self.opening_ids(sample.opening)
        for call in itertools.count():
            async with slots:
                try:
                    choice = await self._post(client, self.request(sample, ids, text, call))
                except EndpointError as error:
                    return Completion("", False, error)
            if self.state_file is None:
                text += choice.text or ""
            else:
                ids = [*ids, *(choice.token_ids or [])]
                ids = ids[:-1] if not choice.cut and ids and ids[-1] in self.end_ids else ids
                text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
            if not choice.cut or call == self.settings.continuations or not self._fits(sample.prompt, text, ids):
                return Completion(text, not choice.cut, continuations=call)
        raise AssertionError("unreachable")

    def _fits(self, prompt: str, text: str, ids: list[int]) -> bool:
        """Whether a further call has room; of an endpoint's text we count the tokens."""
        [prompted] = prompt_ids(self.tokenizer, [prompt])
        return self.has_room(len(prompted) + (len(ids) if self.state_file is not None else self.count_tokens(text)))

    def request(self, sample: Sample, ids: list[int], text: str = "", call: int = 0) -> dict[str, Any]:
        """The body of a request without the model's name. `ids` and `text` are what is there of the completion: the
        opening, and what earlier calls wrote."""
        settings = self.settings
        body: dict[str, Any] = {
            "max_tokens": settings.max_new_tokens if call else max(1, settings.max_new_tokens - len(ids)),
            "temperature": sample.temperature,
            "top_p": settings.top_p,
            "seed": stable_seed(sample.seed, call) if call else sample.seed,
        }
        if self.state_file is not None:
            # Tokens, both ways: the server reads and we decode exactly what the local writer would.
            [prompt] = prompt_ids(self.tokenizer, [sample.prompt])
            ends = sorted(self.end_ids)
            if self.tags and not ids:
                body["structured_outputs"] = {"regex": completion_pattern(self.tags, self.stops)}
            elif self.schema is not None and not ids:
                body["structured_outputs"] = {"json": self.schema}
            return body | {"prompt": [*prompt, *ids], "stop_token_ids": ends, "return_token_ids": True}
        if self.chat:
            turns = [("user", sample.prompt), *([("assistant", text), ("user", GO_ON)] if call else [])]
            body["messages"] = [{"role": role, "content": mended(content)} for role, content in turns]
        else:
            body["prompt"] = mended(sample.prompt + text)
        if self.schema is not None and not call:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "plan", "schema": self.schema}}
        body |= self.serving.body
        return {name: value for name, value in body.items() if value is not None}

    async def _post(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Choice:
        """The reply to a request, after as many attempts as it takes. Raises EndpointError, RunError."""
        # httpx's transport retries failed connections alone: no status, no torn reply, and without a deadline.
        end = time.monotonic() + self.serving.deadline_seconds
        unreadable = 0
        for attempt in itertools.count():
            # A server of ours has another URL after each start.
            state = read_state(self.state_file) if self.state_file is not None else None
            url = self.serving.url.rstrip("/") if state is None else state.url
            model = self.model or (state or self.serving).model
            try:
                async with asyncio.timeout(self.serving.timeout_seconds):
                    return await self._post_once(client, url, {"model": model} | body)
            except TimeoutError:
                failure = AskAgainError(f"no reply in {self.serving.timeout_seconds:g} seconds")
            except AskAgainError as error:
                failure = error
            unreadable += not failure.readable
            if self.state_file is not None:
                # The time that a server of ours takes to start again is not the prompt's.
                before = time.monotonic()
                await self._wait_for_health(client, self.state_file)
                end += time.monotonic() - before
            backoff = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * self._random.uniform(0.5, 1)
            pause = max(backoff, failure.pause)
            if time.monotonic() + pause > end or unreadable == MOST_UNREADABLE:
                asked = f", asked to wait {failure.pause:.0f} seconds" if failure.pause > LONGEST_PAUSE else ""
                reason = f"{failure} (given up after {amount(attempt + 1, 'attempt')}{asked})"
                if failure.connected:
                    raise EndpointError(self._without_key(reason))
                raise RunError(f"{url} cannot be reached: {reason}; what is finished is kept, the same command goes on")
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _post_once(self, client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> Choice:
        path = "chat/completions" if self.chat else "completions"
        try:
            reply = await client.post(f"{url}/{path}", json=body)
        except httpx.RequestError as error:
            # The kind alone: an error's text may hold the request.
            connected = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            readable = not isinstance(error, httpx.DecodingError)
            raise AskAgainError(type(error).__name__, connected=connected, readable=readable) from None
        form: Form = "tokens" if self.state_file else "chat" if self.chat else "text"
        try:
            return read_choice(reply.status_code, reply.headers, reply.content, form)
        except EveryPromptError as error:
            key = self.serving.api_key_variable
            problem = {
                401: f"{url} refuses the key" + (f" in ${key}" if key else ": set serving.api_key_variable"),
                404: f"{url}/{path} knows no model {body['model']!r}, or serving.url is not the API's base",
            }.get(error.status, f"{url}/{path} answers nobody's requests")
            if target := reply.headers.get("location"):
                problem = f"{url} has moved to {target!r}: set serving.url"
            words = self._without_key(f" (HTTP {error.status}{error.args[0] and f': {error.args[0]}'})")
            raise RunError(f"{problem}{words}; what is finished is kept, the same command goes on") from None
        except EndpointError as error:
            raise EndpointError(self._without_key(str(error))) from None

    def _without_key(self, words: str) -> str:
        """What a server says, without the key, which some say with it."""
        key = os.environ.get(self.serving.api_key_variable, "").strip() if self.state_file is None else ""
        return words.replace(key, "***") if key else words

    async def _wait_for_health(self, client: httpx.AsyncClient, state_file: Path) -> None:
        """Returns when the server of ours answers again. Raises RunError when it will not."""
        end = time.monotonic() + self.serving.start_seconds * (self.serving.restarts + 1)
        while time.monotonic() < end:
            try:
                # Read anew: a restarted server has another port.
                url = read_state(state_file).url.removesuffix("/v1")
                if (await client.get(f"{url}/health", timeout=5)).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.5)
        raise RunError(f"the vLLM server does not come back; its log is {read_state(state_file).log}")


def _key(variable: str) -> str:
    if not (key := os.environ.get(variable, "").strip()):
        raise UserError(f"serving.api_key_variable: the environment has no {variable}")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"serving.api_key_variable: {variable} holds a character that no key has; paste it anew")
    return key


def load_endpoint(
    settings: Teacher,
    serving: Serving,
    checkpoint: Path | None = None,
    state_file: Path | None = None,
    model: str | None = None,
    kept: Path | None = None,
) -> EndpointWriter:
    """A writer on the vLLM server with this state file (`teacher.writers.vllm_server`), or on the endpoint of
    `serving`; `model` is the name to ask for where it is not the server's first one, `kept` a folder for replies that
    were paid for. Raises UserError where the tokenizer of the teacher cannot be loaded or the key is not in the
    environment."""
    name = settings.model if checkpoint is None or is_adapter(checkpoint) else str(checkpoint)
    check_available(name)
    if state_file is None and serving.api_key_variable:
        _key(serving.api_key_variable)
    tokenizer = load_tokenizer(settings, serving, name)
    model_config = read_config(name)
    try:
        declared = GenerationConfig.from_pretrained(name).eos_token_id
    except OSError:
        declared = model_config.eos_token_id
    context = serving.context_tokens or positions_of(model_config)
    ends = end_ids(declared, tokenizer)
    writer = EndpointWriter(
        settings, serving, tokenizer, context=context, end_ids=ends, state_file=state_file, model=model, kept=kept
    )
    check_tags(writer)
    return writer
