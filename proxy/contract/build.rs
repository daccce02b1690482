//! Compiles the protocols of the CA and of authorization services without `protoc`, when the `sign`
//! feature asks for it.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    #[cfg(feature = "sign")]
    {
        let files = protox::compile(
            [
                "proto/istio_ca.proto",
                "proto/selvedge_ca.proto",
                "proto/envoy_authz.proto",
            ],
            ["proto"],
        )?;
        tonic_prost_build::configure()
            .build_transport(false)
            .btree_map(".envoy.service.auth.v3")
            .compile_fds(files)?;
    }
    Ok(())
}
