"""Requests to the training API, and what its refusals look like."""

ORIGIN = "http://127.0.0.1:8765"


def plan(client, *overrides, **body):
    answer = client.post("/api/v1/training/run", json={"overrides": overrides} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer, status, code):
    """The error object of a refusal, in OpenAI's form."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["code"] == code, error
    return error


def confirm(client, token):
    return client.post("/api/v1/training/run", json={"token": token})
