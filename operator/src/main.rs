//! The one binary: parses the command line and runs it.

fn main() -> std::process::ExitCode {
    interlock::cli::main()
}
