"""Where traces go, and which are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from galerne.errors import ConfigError

SCHEMES = ("grpc", "grpcs", "http", "https", "file")


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSettings:
    """Of every process that makes spans.

    Raises:
        ConfigError: A setting is wrong; names it.
    """

    endpoint: str  # grpc://HOST:PORT and the like, see ``SCHEMES``; file:///DIRECTORY
    sample_ratio: float = 0.01  # of requests whose caller does not say whether they are sampled
    slow_s: float = 1.0  # a request that waited longer for a token is kept, sampled or not
    buffer_steps: int = 128  # of a gateway: steps whose details are held until requests end

    def __post_init__(self) -> None:
        if not 0 <= self.sample_ratio <= 1:  # NaN is in no range
            problem = "must be a share in [0, 1]"
            raise ConfigError("tracing.sample_ratio", self.sample_ratio, problem)
        if not (self.slow_s > 0 and math.isfinite(self.slow_s)):
            raise ConfigError("tracing.slow_s", self.slow_s, "must be above 0 seconds")
        if self.buffer_steps < 1:
            raise ConfigError("tracing.buffer_steps", self.buffer_steps, "must be at least 1")
        self._check_endpoint()

    @property
    def url(self) -> SplitResult:
        """The endpoint's parts."""
        return urlsplit(self.endpoint)

    def _check_endpoint(self) -> None:
        try:
            url = self.url
            has_port = url.port is not None
        except ValueError as error:
            raise ConfigError("tracing.endpoint", self.endpoint, str(error)) from error
        problem = ""
        if url.scheme not in SCHEMES:
            problem = f"must begin with {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
        elif url.scheme == "file":
            if url.netloc or url.path in ("", "/"):
                problem = "must name a directory by its whole path: file:///var/log/traces"
        elif not url.hostname or not has_port:
            problem = f"must name host and port: {url.scheme}://collector:4317"
        elif url.scheme in ("grpc", "grpcs") and url.path not in ("", "/"):
            problem = "has a path, which OTLP over gRPC does not"
        elif url.username is not None or url.query or url.fragment:
            problem = "must be an address alone: secrets go into OTEL_EXPORTER_OTLP_HEADERS"
        if problem:
            raise ConfigError("tracing.endpoint", self.endpoint, problem)
