"""Envoy as a peer."""

import json

from .certs import ORDERS_ID
from .peers import Peer
from .token import AUDIENCE, ISSUER

TLS_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
HTTP_MANAGER = ("type.googleapis.com/envoy.extensions.filters.network."
                "http_connection_manager.v3.HttpConnectionManager")
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
FILTERS = "type.googleapis.com/envoy.extensions.filters.http."
UPSTREAM_HTTP = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class Envoy(Peer):
    """Envoy with a plain router, one worker, no access log; the pair speaks HTTP/2 as Istio does."""

    name = "envoy"
    binary = "envoy"
    environment = "ENVOY"
    shapes = ("plain", "tls", "pair", "gateway")

    def plain(self, setting, port):
        return self._proxy(port, None, setting.backend, None)

    def tls(self, setting, port):
        context = self._common(setting.certificates.server, ["h2", "http/1.1"])
        return self._proxy(port, self._downstream(context), setting.backend, None)

    def gateway(self, setting, port):
        return self._proxy(port, None, setting.backend, None, self._policies(setting.token))

    def _policies(self, token):
        """A token (verified ones remembered), a local limit and header edits, before the router."""
        jwt = {
            "@type": FILTERS + "jwt_authn.v3.JwtAuthentication",
            "providers": {"users": {
                "issuer": ISSUER,
                "audiences": [AUDIENCE],
                "local_jwks": {"inline_string": token.jwks},
                "forward": True,
                "claim_to_headers": [{"header_name": "x-user", "claim_name": "sub"}],
                "jwt_cache_config": {"jwt_cache_size": 100},
            }},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "users"}}],
        }
        always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
        limit = {
            "@type": FILTERS + "local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "limit",
            "token_bucket": {"max_tokens": 10000000, "tokens_per_fill": 10000000, "fill_interval": "1s"},
            "filter_enabled": always,
            "filter_enforced": always,
        }

        def put(name):
            return {"append": {"header": {"key": name, "value": "bench"},
                               "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}

        edits = {
            "@type": FILTERS + "header_mutation.v3.HeaderMutation",
            "mutations": {
                "request_mutations": [put("x-gateway"), {"remove": "x-debug"}],
                "response_mutations": [put("x-served-by"), {"remove": "x-powered-by"}],
            },
        }
        return [{"name": f"filter-{index}", "typed_config": config}
                for index, config in enumerate((jwt, limit, edits))]

    def calling(self, setting, port, inner):
        certificates = setting.certificates
        context = self._common(certificates.web, ["h2"])
        context["validation_context"] = self._trust(certificates.ca)
        context["validation_context"]["match_typed_subject_alt_names"] = [
            {"san_type": "URI", "matcher": {"exact": ORDERS_ID}}
        ]
        upstream = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": TLS_TYPE + "UpstreamTlsContext",
                "common_tls_context": context,
                "sni": "orders",
            },
        }
        return self._proxy(port, None, inner, upstream)

    def called(self, setting, inner):
        certificates = setting.certificates
        context = self._common(certificates.orders, ["h2"])
        context["validation_context"] = self._trust(certificates.ca)
        downstream = self._downstream(context)
        downstream["typed_config"]["require_client_certificate"] = True
        return self._proxy(inner, downstream, setting.backend, None)

    def command(self, folder, role, config):
        path = folder / f"{role}.json"
        path.write_text(json.dumps(config, indent=2))
        return [self.find(), "-c", str(path), "--concurrency", "1", "--disable-hot-restart",
                "--log-level", "error"]

    def _trust(self, ca):
        return {"trusted_ca": {"filename": ca}}

    def _common(self, leaf, protocols):
        version = "TLSv1_3"
        return {
            "alpn_protocols": protocols,
            "tls_params": {
                "tls_minimum_protocol_version": version,
                "tls_maximum_protocol_version": version,
            },
            "tls_certificates": [{
                "certificate_chain": {"filename": leaf.certificate},
                "private_key": {"filename": leaf.key},
            }],
        }

    def _downstream(self, context):
        return {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": TLS_TYPE + "DownstreamTlsContext",
                "common_tls_context": context,
            },
        }

    def _proxy(self, port, downstream_tls, upstream_port, upstream_tls, filters=()):
        manager = {
            "@type": HTTP_MANAGER,
            "stat_prefix": "front",
            "codec_type": "AUTO",
            "route_config": {
                "virtual_hosts": [{
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}],
                }],
            },
            "http_filters": [
                *filters,
                {"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}
            ],
        }
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager",
                              "typed_config": manager}]}
        if downstream_tls:
            chain["transport_socket"] = downstream_tls
        cluster = {
            "name": "app",
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {
                "cluster_name": "app",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": self._address(upstream_port)}}]}],
            },
        }
        if upstream_tls:
            cluster["transport_socket"] = upstream_tls
            cluster["typed_extension_protocol_options"] = {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": UPSTREAM_HTTP,
                    "explicit_http_config": {"http2_protocol_options": {}},
                },
            }
        listener = {"name": "front", "address": self._address(port), "filter_chains": [chain]}
        return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}

    def _address(self, port):
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
