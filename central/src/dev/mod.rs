//! Being written.
#[derive(clap::Args)]
pub struct DevArgs {}
pub async fn run(_args: DevArgs) -> std::process::ExitCode { std::process::ExitCode::FAILURE }
