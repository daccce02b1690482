//! Compiles the protocols of the CA, of authorization services and of the socket for applications without
//! `protoc`, when the `sign` feature asks for it.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    #[cfg(feature = "sign")]
    {
        let files = protox::compile(
            [
                "proto/istio_ca.proto",
                "proto/selvedge_ca.proto",
                "proto/envoy_authz.proto",
                "proto/envoy_secrets.proto",
                "proto/spiffe_workload.proto",
            ],
            ["proto"],
        )?;
        tonic_prost_build::configure()
            .build_transport(false)
            .btree_map(".")
            .compile_fds(files)?;
    }
    Ok(())
}
