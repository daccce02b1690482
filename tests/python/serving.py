"""A health service of gRPC whose answer stands in a file: a number of ServingStatus, or `error`.

Prints its port, and serves until it is ended.
"""

import concurrent.futures
import sys

import grpc


class Health(grpc.GenericRpcHandler):
    def service(self, call):
        if call.method != "/grpc.health.v1.Health/Check":
            return None
        return grpc.unary_unary_rpc_method_handler(self.check)

    def check(self, request, context):
        with open(sys.argv[1], encoding="ascii") as file:
            said = file.read().strip()
        # HealthCheckRequest { service = 1 }
        if said == "error" or request not in (b"\x0a\x04shop", b""):
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        # HealthCheckResponse { status = 1 }; 0 is not written.
        return bytes([8, int(said)]) if said != "0" else b""


server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), handlers=(Health(),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
