"""What a server says over HTTP: its metrics as Prometheus' own parser reads them, and its two pages of health."""

import http.client
from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.process import ServerProcess
from tests.support.wire import PATIENCE
from tests.support.workers import lines

HTTP = {"http_listen": "127.0.0.1:0"}
"""Settings of a server that says something."""

Metrics = dict[tuple[str, ...], float]
"""By a sample's name and the values of its labels, in the order of their names."""


def address(server: ServerProcess) -> str:
    """Where it says so."""
    (line,) = lines(server, "metrics and health over HTTP")
    return str(line["address"])


def get(where: str, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body of a page."""
    connection = http.client.HTTPConnection(where, timeout=PATIENCE)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def families(text: str) -> dict[str, Metric]:
    """By name."""
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(text: str) -> Iterator[tuple[tuple[str, ...], float]]:
    """Each with its key."""
    for family in families(text).values():
        for sample in family.samples:
            yield (sample.name, *(sample.labels[name] for name in sorted(sample.labels))), sample.value


def scrape(server: ServerProcess) -> Metrics:
    """All that it says."""
    status, headers, body = get(address(server), "/metrics")
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    found = list(samples(body.decode()))
    assert len(dict(found)) == len(found), "a sample stands there twice"
    return dict(found)
