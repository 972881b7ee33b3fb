"""Asks an MLServer through a gateway and a batching sidecar as its users do, with NVIDIA's Triton client (V2 REST).

Usage: mlserver_client.py GATEWAY     GATEWAY is http://host:port

The model has learnt y = 3a + 5b + 7, so every caller can tell whether the answer is to its own rows.
"""

import random
import sys
import threading

import numpy
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

MODEL = "plane"
CALLERS, CALLS = 16, 25
# Longer than anything here takes, seconds; a bound, not an expectation.
BOUND = 60


def client(host: str) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(url=host, network_timeout=BOUND, connection_timeout=BOUND)


def metadata(ask: triton.InferenceServerClient) -> None:
    assert ask.is_model_ready(MODEL)
    known = ask.get_model_metadata(MODEL)
    assert known["name"] == MODEL, known
    assert [tensor["name"] for tensor in known["inputs"]] == ["points"], known


def infer(ask: triton.InferenceServerClient, points: numpy.ndarray, name: str) -> None:
    tensor = triton.InferInput("points", list(points.shape), "FP64")
    # In JSON: MLServer's REST server doesn't take the binary extension, which this client uses unless told otherwise.
    tensor.set_data_from_numpy(points, binary_data=False)
    wanted = [triton.InferRequestedOutput("predict", binary_data=False)]
    answer = ask.infer(MODEL, [tensor], outputs=wanted, request_id=name)
    assert answer.get_response()["id"] == name, answer.get_response()
    learnt = points @ numpy.array([3.0, 5.0]) + 7
    found = answer.as_numpy("predict").reshape(-1)
    assert found.shape == learnt.shape, (found.shape, learnt.shape)
    assert numpy.allclose(found, learnt, atol=1e-6), (points, found, learnt)


def one(ask: triton.InferenceServerClient) -> None:
    infer(ask, numpy.array([[1.0, 2.0], [-3.5, 4.25]]), "one")


def many(host: str) -> None:
    """Callers at once, each with rows of its own, from one to four: each gets exactly its rows."""
    failed: list[str] = []

    def caller(number: int) -> None:
        ask, draw = client(host), random.Random(number)
        for call in range(CALLS):
            rows = [[draw.uniform(-1e3, 1e3), draw.uniform(-1e3, 1e3)] for _ in range(draw.randint(1, 4))]
            try:
                infer(ask, numpy.array(rows), f"{number}-{call}")
            except Exception as error:  # noqa: BLE001: every failure counts, whatever it is
                failed.append(f"{number}-{call}: {error!r}")
                return

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed[:5]


def refused(ask: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("points", [1, 2], "FP64")
    tensor.set_data_from_numpy(numpy.zeros((1, 2)), binary_data=False)
    try:
        ask.infer("nobody", [tensor])
    except InferenceServerException as error:
        assert error.status() in ("404", 404), error
    else:
        raise AssertionError("a model that isn't there was found")
    # The model refuses rows of three, and goes on serving rows of two.
    wrong = triton.InferInput("points", [1, 3], "FP64")
    wrong.set_data_from_numpy(numpy.zeros((1, 3)), binary_data=False)
    try:
        ask.infer(MODEL, [wrong])
    except InferenceServerException:
        pass
    else:
        raise AssertionError("rows of three were taken")
    one(ask)


def main() -> None:
    host = sys.argv[1].removeprefix("http://")
    ask = client(host)
    for name, step in (
        ("metadata", lambda: metadata(ask)),
        ("one", lambda: one(ask)),
        (f"{CALLERS} callers at once, {CALLS} calls each", lambda: many(host)),
        ("refused", lambda: refused(ask)),
    ):
        step()
        print(f"ok {name}", flush=True)


if __name__ == "__main__":
    main()
