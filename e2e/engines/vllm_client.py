"""Asks a vLLM through a gateway as its users do, with OpenAI's own client.

Usage: vllm_client.py check GATEWAY ENGINE     every kind of request once; ENGINE is where vLLM itself listens, for its
                                               metrics: what a client that leaves has freed can only be seen there
       vllm_client.py traffic GATEWAY          streamed chats without end; prints a line with the count each second,
                                               ends at Ctrl-C, fails when any chat failed
GATEWAY and ENGINE are http://host:port.
"""

import re
import signal
import sys
import threading
import time
import urllib.request

import openai

MODEL = "tiny"
MESSAGES = [{"role": "user", "content": "Tell me about canoes."}]
# The same number of tokens each time, though the model would end when it likes.
EXACTLY = {"ignore_eos": True}
# Longer than anything here takes; a bound, not an expectation.
BOUND = 60
CALLERS = 6


def client(gateway: str) -> openai.OpenAI:
    # No retries of its own: they would hide failures.
    return openai.OpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0, timeout=BOUND)


def models(ask: openai.OpenAI) -> None:
    names = [model.id for model in ask.models.list()]
    assert names == [MODEL], names


def chat(ask: openai.OpenAI) -> None:
    answer = ask.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=8, extra_body=EXACTLY)
    assert answer.choices[0].finish_reason == "length", answer
    assert answer.choices[0].message.role == "assistant", answer
    usage = answer.usage
    assert usage.completion_tokens == 8, usage
    assert usage.total_tokens == usage.prompt_tokens + 8 and usage.prompt_tokens > 8, usage


def streamed_chat(ask: openai.OpenAI) -> None:
    """The pieces are what the unstreamed answer is as a whole, and arrive as pieces."""
    asked = dict(model=MODEL, messages=MESSAGES, max_tokens=24, temperature=0, extra_body=EXACTLY)
    whole = ask.chat.completions.create(**asked).choices[0].message.content
    chunks = list(ask.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole, (pieces, whole)
    assert len(pieces) > 8, pieces
    assert chunks[-1].usage.completion_tokens == 24, chunks[-1]


def completions(ask: openai.OpenAI) -> None:
    answer = ask.completions.create(model=MODEL, prompt=["One", "Two"], max_tokens=5, extra_body=EXACTLY)
    assert [choice.index for choice in answer.choices] == [0, 1], answer
    assert answer.usage.completion_tokens == 10, answer.usage


def unknown_model(ask: openai.OpenAI) -> None:
    try:
        ask.chat.completions.create(model="nobody", messages=MESSAGES)
    except openai.NotFoundError as error:
        assert "nobody" in error.message, error.message
    else:
        raise AssertionError("a model that isn't there was found")


def mistake(ask: openai.OpenAI) -> None:
    """vLLM's own refusal comes through as it is."""
    try:
        ask.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=0)
    except openai.BadRequestError as error:
        assert "max_tokens" in error.message, error.message
    else:
        raise AssertionError("max_tokens=0 was taken")


def metric(engine: str, name: str, label: str = "") -> float:
    with urllib.request.urlopen(f"{engine}/metrics", timeout=BOUND) as page:
        text = page.read().decode()
    found = re.findall(rf"^{re.escape(name)}\{{([^}}]*)\}} (\S+)$", text, re.MULTILINE)
    values = [float(value) for labels, value in found if label in labels]
    assert values, f"{name} {label} is not among the metrics"
    return sum(values)


def until(what: str, holds) -> None:
    end = time.monotonic() + BOUND
    while not holds():
        assert time.monotonic() < end, f"after {BOUND} s still not: {what}"
        time.sleep(0.05)


def leaving(ask: openai.OpenAI, engine: str) -> None:
    """A client that leaves in the middle of a stream: the engine stops working for it."""

    def running() -> float:
        return metric(engine, "vllm:num_requests_running")

    def finished() -> float:
        return metric(engine, "vllm:request_success_total")

    until("nothing runs", lambda: running() == 0)
    before = finished()
    stream = ask.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=900, extra_body=EXACTLY, stream=True
    )
    next(iter(stream))
    until("it runs", lambda: running() == 1)
    stream.close()
    until("nothing runs any more", lambda: running() == 0)
    # vLLM counts as finished what came to its end, and not what was aborted.
    assert finished() == before, "the stream came to its end, though nobody read it"


def check(gateway: str, engine: str) -> None:
    ask = client(gateway)
    for one in (models, chat, streamed_chat, completions, unknown_model, mistake):
        one(ask)
        print(f"ok {one.__name__}", flush=True)
    # A client of its own, so that closing the stream closes its connection.
    leaving(client(gateway), engine)
    print("ok leaving", flush=True)


def traffic(gateway: str) -> None:
    over, lock = threading.Event(), threading.Lock()
    done, failed = 0, []

    def caller() -> None:
        nonlocal done
        ask = client(gateway)
        while not over.is_set():
            try:
                stream = ask.chat.completions.create(
                    model=MODEL, messages=MESSAGES, max_tokens=2, extra_body=EXACTLY, stream=True
                )
                ended = [chunk.choices[0].finish_reason for chunk in stream if chunk.choices]
                assert ended[-1] == "length", ended
                with lock:
                    done += 1
            except Exception as error:  # noqa: BLE001: every failure counts, whatever it is
                with lock:
                    failed.append(repr(error))

    def told() -> None:
        while not over.wait(1):
            print(f"chats {done} failed {len(failed)}", flush=True)

    threads = [threading.Thread(target=caller) for _ in range(CALLERS)] + [threading.Thread(target=told)]
    signal.signal(signal.SIGINT, lambda *_: over.set())
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"chats {done} failed {len(failed)}", flush=True)
    assert done > 0, "no chat was answered"
    assert not failed, failed[:5]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["check", gateway, engine]:
            check(gateway, engine)
        case ["traffic", gateway]:
            traffic(gateway)
        case _:
            sys.exit(__doc__)
