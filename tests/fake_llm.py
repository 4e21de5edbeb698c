"""A model behind an OpenAI-compatible endpoint, on loopback: it writes well, and misbehaves when it is told to."""

import dataclasses
import http.server
import json
import re
import sys
import threading
import time

from asyncthink_jax.synthesis import plans, reading
from asyncthink_jax.tasks import countdown_search

KEY = "sk-secret-0123456789"


@dataclasses.dataclass
class Reply:
    """What the endpoint does with one request; by default it answers as it should.

    Attributes:
      body: in place of a completion. content, finish: of the completion.
      cut: the connection ends in the middle of the body.
      trickling: after the body, blanks come one by one until the client hangs up.
      before: called when the request has come, before anything is answered.
    """

    status: int = 200
    body: bytes | None = None
    content: object = None
    finish: str = "stop"
    headers: dict = dataclasses.field(default_factory=dict)
    delay_s: float = 0.0
    cut: bool = False
    trickling: bool = False
    counted: bool = True
    before: object = None


def refusal(status, message="no", code=None, **others):
    """A reply with an error as OpenAI spells it."""
    return Reply(status, json.dumps({"error": {"message": message, "code": code}}).encode(), **others)


class FakeLLM:
    """The endpoint; `with FakeLLM(writer) as llm`.

    Attributes:
      requests: the bodies that came, in order. times: when. keys: the authorizations.
      replies: what is done with the next ones, first in, first out; then all is answered well.
      reply_to: asked for a Reply to a body where `replies` is empty.
    """

    def __init__(self, writer):
        self.writer = writer
        self.requests, self.times, self.keys = [], [], []
        self.replies = []
        self.reply_to = lambda body: Reply()
        self._lock = threading.Lock()
        llm = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or each answer waits 40 ms for its header's acknowledgement

            def do_POST(self):
                llm._answer(self)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 64  # of 5, as by default, many questions at once overflow it: they wait a second

            def handle_error(self, request, client_address):
                if not isinstance(sys.exception(), ConnectionError):  # a client that was stopped hangs up
                    super().handle_error(request, client_address)

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler):
        length = int(handler.headers["Content-Length"])
        sent = handler.rfile.read(length)
        if len(sent) < length:
            raise ConnectionAbortedError("the client hung up")
        body = json.loads(sent)
        with self._lock:
            self.requests.append(body)
            self.times.append(time.monotonic())
            self.keys.append(handler.headers["Authorization"])
            reply = self.replies.pop(0) if self.replies else self.reply_to(body)
        if handler.path.partition("?")[0] != "/v1/chat/completions":
            reply = refusal(404, f"no {handler.path}")
        if reply.before:
            reply.before()
        time.sleep(reply.delay_s)
        data = reply.body if reply.body is not None else self._completion(body, reply)
        handler.send_response(reply.status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data) + 10 * reply.cut + (1 << 20) * reply.trickling))
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)
        while reply.trickling:
            handler.wfile.write(b" ")
            time.sleep(0.01)
        if reply.cut:
            handler.close_connection = True

    def _completion(self, body, reply):
        text = self.writer.answer(body["messages"][-1]["content"]) if reply.content is None else reply.content
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110} if reply.counted else None
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reply.finish}
        return json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


def is_second(body):
    """Whether a request is the second question about its problem."""
    return "[sequence]" in body["messages"][-1]["content"]


class Writer:
    """Answers both questions. A subclass knows its task: `fragments`, `work` on one of them, and the `result`."""

    idle = " I think"  # free thinking

    def answer(self, question):
        """The answer to the text of a question."""
        found = reading.sections(question)
        query = found["problem"]
        if "sequence" not in found:
            numbered = "\n".join(f"{i}. {fragment}" for i, fragment in enumerate(self.fragments(query), start=1))
            return f"[thinking]\nIt falls apart.\n\n[fragments]\n{numbered}"
        return self.traces(query, plans.from_text(found["sequence"]))

    def traces(self, query, plan):
        """What the roles write along a plan."""
        workers, organizer, returned = [], "", {}
        for action in plan:
            fragment = self.fragments(query)[action.fragment - 1] if action.fragment else ""
            thoughts, takeaways = self.work(query, fragment) if fragment else (self.idle, "")
            if action.kind == "fork":
                i = action.fork_id
                workers.append(f"[worker {i}]\n{thoughts}<RETURN>{takeaways}</RETURN>")
                returned[i] = takeaways
                organizer += f"<FORK-{i}> {fragment}</FORK-{i}>\n"
            elif action.kind == "join":
                organizer += f"<JOIN-{action.fork_id}>{returned[action.fork_id]}</JOIN-{action.fork_id}>\n"
            elif action.kind == "think":
                organizer += thoughts
            else:
                organizer += f"<ANSWER>{self.result(query)}</ANSWER>"
        return "\n\n".join([*workers, f"[organizer]\n{organizer}"])


class SumsWriter(Writer):
    """Of the task in tests/sums.py: `3 + 4 , 10 + 9` to `7 , 19`."""

    def fragments(self, query):
        return query.split(" , ")

    def work(self, query, fragment):
        total = sum(map(int, re.findall(r"\d+", fragment)))
        return f" {fragment} = {total}", f" {total}"

    def result(self, query):
        return " ,".join(self.work(query, fragment)[1] for fragment in self.fragments(query))


class CountdownWriter(Writer):
    """Of Countdown, in the words of its demonstrations."""

    idle = ""

    def __init__(self, task):
        self.task = task

    def _problem(self, query):
        numbers, target = query.split(" = ")
        return countdown_search.Problem(tuple(map(int, numbers.split())), int(target), self.task.n_solutions)

    def fragments(self, query):
        problem = self._problem(query)
        return [countdown_search.sub_query(problem, pair).strip() for pair in countdown_search.pairs(problem)]

    def work(self, query, fragment):
        a, b = map(int, fragment.split()[:2])
        text, hits = self.task.search(self._problem(query), (a, b))
        return text, countdown_search.listing(hits)

    def result(self, query):
        problem = self._problem(query)
        return countdown_search.listing(self.task.solutions(problem)[: problem.n_solutions])
