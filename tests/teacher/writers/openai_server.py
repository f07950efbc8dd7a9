"""An OpenAI-compatible endpoint on the loopback that misbehaves on order.

`behave(body, attempt)` decides what becomes of a request: a text to answer with, a status (with headers and a body), or
one of the faults `hang`, `drip`, `torn`, `reset`, `empty`. `attempt` counts the requests with the same body, from 0.
"""

import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | int | tuple[int, dict[str, str]] | tuple[int, dict[str, str], bytes]


class Endpoint:
    def __init__(self, behave: Callable[[dict[str, Any], int], Answer]) -> None:
        self.behave = behave
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        """Path, body and headers of each."""
        self.most_at_once = 0
        self._now = 0
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._over = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None: ...

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint._lock:
                    endpoint.requests.append((self.path, body, dict(self.headers)))
                    key = json.dumps(body, sort_keys=True)
                    attempt, endpoint._seen[key] = endpoint._seen[key], endpoint._seen[key] + 1
                    endpoint._now += 1
                    endpoint.most_at_once = max(endpoint.most_at_once, endpoint._now)
                try:
                    how = endpoint.behave(body, attempt)
                finally:
                    with endpoint._lock:  # before the reply: whoever has that may send the next request at once
                        endpoint._now -= 1
                self.answer(how)

            def answer(self, how: Answer) -> None:
                if how == "hang":
                    endpoint._over.wait()
                    self.close_connection = True
                elif how == "drip":
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    while not endpoint._over.wait(0.05):
                        self.wfile.write(b" ")
                elif how == "reset":
                    # Linger 0: the client sees a reset, not an end.
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True
                elif how == "torn":
                    self.reply(200, b'{"choices": [{"text": "half', {})
                elif how == "empty":
                    self.reply(200, b'{"choices": []}', {})
                elif isinstance(how, str):
                    self.reply(200, json.dumps(completion(how)).encode(), {})
                else:
                    status, headers, *content = how if isinstance(how, tuple) else (how, {})
                    self.reply(status, content[0] if content else b'{"error": {"message": "no"}}', headers)

            def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None: ...  # clients that gave up

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


def completion(text: str) -> dict[str, Any]:
    """An answer for either API; a text that ends with `...` was cut."""
    reason = "length" if text.endswith("...") else "stop"
    choice = {"index": 0, "text": text, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return {"choices": [choice], "usage": {"completion_tokens": len(text.split())}}


@contextmanager
def answering(behave: Callable[[dict[str, Any], int], Answer]) -> Iterator[Endpoint]:
    endpoint = Endpoint(behave)
    thread = threading.Thread(target=endpoint.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint._over.set()
        endpoint.server.shutdown()
        endpoint.server.server_close()
        thread.join()
