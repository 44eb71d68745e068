//! Writes the man pages and the completions of `smclo` and `smclod` into a directory:
//! `packaging DIR` makes `DIR/man8`, `DIR/bash`, `DIR/zsh` and `DIR/fish`.

use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(dir), None) = (args.next().map(PathBuf::from), args.next()) else {
        eprintln!("packaging: give the directory to write to");
        return ExitCode::from(2);
    };
    match write(&dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("packaging: {}: {e}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn write(dir: &Path) -> io::Result<()> {
    let man = dir.join("man8");
    fs::create_dir_all(&man)?;
    for command in [daemon::cli::smclo(), daemon::cli::smclod()] {
        let name = command.get_name().to_owned();
        for (shell, place) in [
            (Shell::Bash, "bash"),
            (Shell::Zsh, "zsh"),
            (Shell::Fish, "fish"),
        ] {
            let place = dir.join(place);
            fs::create_dir_all(&place)?;
            generate_to(shell, &mut command.clone(), &name, place)?;
        }
        pages(command, &name, &man)?;
    }
    Ok(())
}

/// A page for a command and one for each of its subcommands: `smclo-ueid-add.8`.
fn pages(command: Command, name: &str, dir: &Path) -> io::Result<()> {
    // clap wants names that live as long as the program.
    let whole: &str = name.to_owned().leak();
    let mut command = command.display_name(whole);
    command.build();
    for sub in command.get_subcommands() {
        if !sub.is_hide_set() && sub.get_name() != "help" {
            pages(sub.clone(), &format!("{name}-{}", sub.get_name()), dir)?;
        }
    }
    let command = command.name(whole);
    let page = Man::new(command).section("8").manual("libsmclo");
    let mut text = Vec::new();
    page.render(&mut text)?;
    fs::write(dir.join(format!("{name}.8")), text)
}
