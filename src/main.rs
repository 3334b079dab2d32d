//! The `larder` program: the command line, and its outcome as an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    larder::cli::run().into()
}
