"""nginx as a peer, and the frame of its configuration, which the backend shares."""

import os
import pwd
import shutil

from .peers import Peer


def command(folder, role, http, binary=None):
    """Writes an nginx configuration around the given http part and returns the command for it."""
    temporary = "\n".join(
        f"    {kind}_temp_path {folder}/{role}-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = folder / f"{role}.conf"
    path.write_text(f"""user {pwd.getpwuid(os.getuid()).pw_name};
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/{role}.pid;
error_log {folder}/{role}-error.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    tcp_nodelay on;
{temporary}
{http}
}}
""")
    binary = binary or shutil.which("nginx")
    return [binary, "-e", f"{folder}/{role}-error.log", "-c", str(path), "-p", str(folder)]


class Nginx(Peer):
    """nginx as its users set it up for speed: one worker, upstream keep-alive, no access log."""

    name = "nginx"
    binary = "nginx"
    version_option = "-v"
    shapes = ("plain", "tls", "pair", "cached")

    def plain(self, setting, port):
        return self._proxy(f"listen 127.0.0.1:{port} backlog=4096;", setting.backend)

    def tls(self, setting, port):
        listen = f"listen 127.0.0.1:{port} ssl http2 backlog=4096;"
        return self._proxy(listen + self._server_tls(setting.certificates.server), setting.backend)

    def cached(self, setting, port):
        kept = f"proxy_cache_path {setting.folder}/kept keys_zone=kept:10m;\n    open_file_cache max=1000;"
        use = """
            proxy_cache kept;
            proxy_cache_valid 200 1h;
            add_header X-Cache $upstream_cache_status;
"""
        return kept + self._proxy(f"listen 127.0.0.1:{port} backlog=4096;", setting.backend, more=use)

    def calling(self, setting, port, inner):
        certificates = setting.certificates
        upstream_tls = f"""
            proxy_ssl_protocols TLSv1.3;
            proxy_ssl_certificate {certificates.web.certificate};
            proxy_ssl_certificate_key {certificates.web.key};
            proxy_ssl_trusted_certificate {certificates.ca};
            proxy_ssl_verify on;
            proxy_ssl_name orders;
            proxy_ssl_server_name on;
            proxy_ssl_session_reuse on;
"""
        listen = f"listen 127.0.0.1:{port} backlog=4096;"
        return self._proxy(listen, inner, scheme="https", more=upstream_tls)

    def called(self, setting, inner):
        certificates = setting.certificates
        mutual = f"""
        ssl_verify_client on;
        ssl_client_certificate {certificates.ca};
"""
        listen = f"listen 127.0.0.1:{inner} ssl backlog=4096;"
        return self._proxy(listen + self._server_tls(certificates.orders) + mutual, setting.backend)

    def command(self, folder, role, config):
        return command(folder, role, config, self.find())

    def _server_tls(self, leaf):
        return f"""
        ssl_protocols TLSv1.3;
        ssl_certificate {leaf.certificate};
        ssl_certificate_key {leaf.key};
"""

    def _proxy(self, listen, upstream, scheme="http", more=""):
        return f"""
    upstream app {{
        server 127.0.0.1:{upstream};
        keepalive 512;
        keepalive_requests 1000000000;
        keepalive_timeout 300s;
    }}
    server {{
        {listen}
        location / {{
            proxy_pass {scheme}://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_max_temp_file_size 0;
            proxy_buffers 4 32k;
            proxy_busy_buffers_size 64k;
{more}
        }}
    }}
"""
