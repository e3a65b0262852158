"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)


class Metrics:
    """Counters of one server, in a registry of its own, so that several servers of a process do not meet.

    Args:
        waiting: returns how many requests wait for a row.
        running: returns how many answers are being decoded.
    """

    def __init__(self, waiting: Callable[[], int], running: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)

        def counter(name: str, purpose: str, *labels: str) -> Counter:
            return Counter(f"medcap_{name}", purpose, labels, registry=self._registry)

        def seconds(name: str, purpose: str) -> Histogram:
            return Histogram(f"medcap_{name}_seconds", purpose, ["model"], registry=self._registry, buckets=_SECONDS)

        self.requests = counter(
            "requests", "Requests, by route and HTTP status; 499: the client left.", "route", "status"
        )
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts, image tokens among them.", "model")
        self.generated_tokens = counter("generated_tokens", "Tokens of answers.", "model")
        self.images = counter("images", "Images of requests that were answered.", "model")
        self.first_token = seconds("first_token", "From a request's arrival to the first token of its answer.")
        self.latency = seconds("answer", "From a request's arrival to the end of its answer.")
        for name, purpose, value in (
            ("requests_waiting", "Requests that wait for a row.", waiting),
            ("requests_running", "Answers that are being decoded.", running),
        ):
            Gauge(f"medcap_{name}", purpose, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """All values in Prometheus' text format."""
        return generate_latest(self._registry)
