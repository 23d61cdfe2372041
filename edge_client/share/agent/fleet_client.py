"""Flower's HTTP fleet client with limits: one trusted CA, no redirects, no proxies, bounded answers, a deadline for each call.

Flower's own connection (`http_request_response`) may end the host process; only its plain client and its authentication headers
are used here. Both are internals of flwr 1.41: tests/integration/test_embedded_agent.py is the contract.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from edge_client.share.agent.fleet import FleetConfig
from shared_models.errors import ConfigError, FleetError, FleetLimitError, FleetRefusedError

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""For every answer but a pulled object: messages arrive without their content, as ids."""

_OBJECT_SLACK_BYTES = 1024
_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


class FleetStatusError(FleetError):
    """The aggregator answered with an HTTP status that is not success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the aggregator answered with HTTP status {status}")
        self.status = status

    @property
    def transient(self) -> bool:
        """Worth the same request again: a fault of the server or of something in between, not an answer."""
        return self.status >= 500 or self.status in (404, 408, 429)


class BoundedFleetClient(FleetHttpClient):
    """One device's authenticated client. Raises ConfigError for a key or certificate that cannot be used."""

    def __init__(self, config: FleetConfig) -> None:
        key = _load_key(config.node_key_pem)
        self.public_key_pem: bytes = public_key_to_bytes(key.public_key())
        self._auth = NodeAuthHttpInterceptor(key, key.public_key())
        self._timeout_s = config.request_timeout_s
        self._max_object_bytes = config.max_object_bytes
        trust = _trust_only(config.ca_pem)
        super().__init__(f"https://{config.address}", verify=trust, timeout=config.request_timeout_s)
        self._client.close()
        # Flower's client follows redirects and obeys proxy variables: either could carry the signed headers elsewhere.
        self._client = httpx.Client(
            verify=trust, timeout=config.request_timeout_s, follow_redirects=False, trust_env=False
        )

    def call(self, method: Callable[[_Request], _Answer], request: _Request) -> _Answer:
        """Make one call. Raises FleetRefusedError (401), FleetStatusError, FleetLimitError or FleetError, nothing else."""
        try:
            return method(request)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.UNAUTHORIZED:
                raise FleetRefusedError(
                    "the aggregator does not accept this device's key; enrol it again, or set the clock right "
                    "(it may differ by five minutes)"
                ) from error
            raise FleetStatusError(error.response.status_code) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, RuntimeError) as error:
            raise FleetError(f"the aggregator cannot be reached: {type(error).__name__}") from error
        except (ValueError, LookupError) as error:
            raise FleetError(f"the aggregator's answer cannot be read: {type(error).__name__}") from error

    def _send(self, context: ProtobufRequestContext, *, stream: bool = False) -> httpx.Response:
        return self._auth.intercept(context, self._send_bounded)

    def _send_bounded(self, context: ProtobufRequestContext) -> httpx.Response:
        limit_bytes = MAX_ANSWER_BYTES
        if context.rpc_method.endswith("/PullObject"):
            limit_bytes = self._max_object_bytes + _OBJECT_SLACK_BYTES
        give_up_s = time.monotonic() + self._timeout_s
        context.request.headers["accept-encoding"] = "identity"
        response = self._client.send(context.request, stream=True)
        try:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise FleetError("the aggregator compressed its answer without being asked to")
            content = bytearray()
            for chunk in response.iter_raw():
                content += chunk
                if len(content) > limit_bytes:
                    raise FleetLimitError(f"an answer has more than the {limit_bytes} bytes that this device accepts")
                if time.monotonic() > give_up_s:
                    raise httpx.ReadTimeout("the answer took too long", request=context.request)
        finally:
            response.close()
        return httpx.Response(response.status_code, content=bytes(content), request=context.request)


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key: Any = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError("the node key cannot be read; enrol this device again") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigError("the node key is not an elliptic-curve key over P-384; enrol this device again")
    return key


def _trust_only(ca_pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError("the fleet's certificate authority cannot be read; enrol this device again") from error
    return context
