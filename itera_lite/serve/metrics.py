"""What the server counts, for ``/metrics``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Counters, in a registry of their own: a process may hold several servers, as tests do."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "itera_requests", "Answered requests.", ("route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "itera_request_seconds",
            "Seconds from a request to the end of its answer.",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self.first_token = Histogram(
            "itera_first_token_seconds",
            "Seconds from a text's submission to its first piece.",
            buckets=SECONDS,
            registry=registry,
        )
        self.prompt = Counter("itera_prompt_tokens", "Tokens of prompts.", registry=registry)
        self.generated = Counter(
            "itera_generated_tokens", "Tokens that were generated.", registry=registry
        )
        self.disconnects = Counter(
            "itera_disconnects", "Clients that went away before the end.", registry=registry
        )
        self.refused = Counter(
            "itera_refused", "Requests that there was no room for.", registry=registry
        )
        self.timeouts = Counter("itera_timeouts", "Requests that took too long.", registry=registry)
        self.cache_hits = Counter(
            "itera_prefix_hits", "Prompts with a beginning that was read before.", registry=registry
        )
        self.cache_misses = Counter(
            "itera_prefix_misses", "Prompts that were read from the start.", registry=registry
        )
        self.cached_tokens = Counter(
            "itera_prefix_tokens", "Tokens that weren't read again.", registry=registry
        )
        self.cache_bytes = Gauge(
            "itera_prefix_bytes", "Size of the states that are kept.", registry=registry
        )
        self.active = Gauge("itera_active", "Texts that are written.", registry=registry)
        self.waiting = Gauge("itera_waiting", "Texts that wait for a place.", registry=registry)

    def text(self) -> bytes:
        """All of it, in Prometheus' format."""
        return generate_latest(self.registry)
