//! The command line of a program: it is parsed here, and its outcome becomes the exit code.

use std::process::ExitCode;

use clap::Parser;
use tickstorm_service::exit::{OK, USAGE};
use tickstorm_service::stderr;

use crate::Failure;

/// Parses the command line and runs `command`. A failure is printed after `name`, the program's
/// name.
pub fn run<C: Parser>(name: &str, command: impl FnOnce(C) -> Result<(), Failure>) -> ExitCode {
    let line = match C::try_parse() {
        Ok(line) => line,
        Err(error) => {
            // If even this can't be printed, the exit code has to suffice.
            let _ = error.print();
            let code = if error.use_stderr() { USAGE } else { OK };
            return ExitCode::from(code);
        }
    };
    match command(line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            stderr::notice(format_args!("{name}: {:#}", failure.error));
            ExitCode::from(failure.code)
        }
    }
}
