//! `make plots`: draws the plots of a run of the benchmark.
//!
//! The arguments are the JSON file of a run and the folder for the plots. Exit code 1: the file cannot be read or is
//! not such a file, or a plot cannot be drawn or written.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool that prints"
)]

use std::path::Path;
use std::process::ExitCode;

use plots::Bench;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [json, folder] = arguments.as_slice() else {
        eprintln!("plots: the arguments are the JSON file of a run of `make bench`, and a folder");
        return ExitCode::FAILURE;
    };
    match write(Path::new(json), Path::new(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plots: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(json: &Path, folder: &Path) -> Result<(), String> {
    let in_json = |error: &dyn std::fmt::Display| format!("{}: {error}", json.display());
    let text = std::fs::read_to_string(json).map_err(|error| in_json(&error))?;
    let bench = Bench::from_json(&text).map_err(|error| in_json(&error))?;
    let plots = plots::plots(&bench).map_err(|error| error.to_string())?;
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for plot in plots {
        let path = folder.join(plot.name);
        let path = path.display();
        match plot.svg {
            Some(svg) => {
                std::fs::write(folder.join(plot.name), svg)
                    .map_err(|error| format!("{path}: {error}"))?;
                println!("  {path}");
            }
            None => println!("  {path}: left as it is, because this run has no figures for it"),
        }
    }
    Ok(())
}
