//! Compiles the CA protocol without `protoc`, when the `sign` feature asks for it.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    #[cfg(feature = "sign")]
    {
        let files = protox::compile(["proto/istio_ca.proto"], ["proto"])?;
        tonic_prost_build::configure()
            .build_transport(false)
            .compile_fds(files)?;
    }
    Ok(())
}
