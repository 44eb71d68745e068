//! Writes what is installed but not kept in the repository: `packaging DIR PREFIX` makes the man pages
//! (`DIR/man8`) and completions (`DIR/bash`, `DIR/zsh`, `DIR/fish`) from the command lines of `smclo` and
//! `smclod`, the units (`DIR/system`, `DIR/user`) for a prefix, and `DIR/files`: all that is installed,
//! from the list of the Debian package in `Cargo.toml`; mode, source and destination, with tabs.

use clap::Command;
use clap_complete::{Generator, Shell, generate};
use clap_mangen::Man;
use serde::Deserialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const UNITS: [(&str, &str); 4] = [
    (
        "system/smclod.service",
        include_str!("../systemd/system/smclod.service"),
    ),
    (
        "system/smclod.socket",
        include_str!("../systemd/system/smclod.socket"),
    ),
    (
        "user/smclod.service",
        include_str!("../systemd/user/smclod.service"),
    ),
    (
        "user/smclod.socket",
        include_str!("../systemd/user/smclod.socket"),
    ),
];

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let dir = args.next().map(PathBuf::from);
    let prefix = args.next().and_then(|prefix| prefix.into_string().ok());
    let (Some(dir), Some(prefix), None) = (dir, prefix, args.next()) else {
        eprintln!("packaging: give the directory to write to, and the prefix");
        return ExitCode::from(2);
    };
    match write(&dir, &prefix) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("packaging: {}: {e}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn write(dir: &Path, prefix: &str) -> io::Result<()> {
    for place in ["man8", "bash", "zsh", "fish", "system", "user"] {
        fs::create_dir_all(dir.join(place))?;
    }
    for command in [daemon::cli::smclo(), daemon::cli::smclod()] {
        let name = command.get_name().to_owned();
        for (shell, place) in [
            (Shell::Bash, dir.join("bash").join(&name)),
            (
                Shell::Zsh,
                dir.join("zsh").join(Shell::Zsh.file_name(&name)),
            ),
            (
                Shell::Fish,
                dir.join("fish").join(Shell::Fish.file_name(&name)),
            ),
        ] {
            let mut text = Vec::new();
            generate(shell, &mut command.clone(), &name, &mut text);
            fs::write(place, text)?;
        }
        pages(command, &name, &dir.join("man8"))?;
    }
    for (place, unit) in UNITS {
        fs::write(dir.join(place), unit.replace("@prefix@", prefix))?;
    }
    fs::write(dir.join("files"), files()?)
}

#[derive(Deserialize)]
struct Manifest {
    package: Package,
}

#[derive(Deserialize)]
struct Package {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    deb: Deb,
}

#[derive(Deserialize)]
struct Deb {
    /// Source, destination, mode.
    assets: Vec<[String; 3]>,
}

fn files() -> io::Result<String> {
    let manifest: Manifest =
        toml::from_str(include_str!("../Cargo.toml")).map_err(io::Error::other)?;
    let assets = manifest.package.metadata.deb.assets;
    let lines = assets
        .iter()
        .map(|[from, to, mode]| format!("{mode}\t{from}\t{to}\n"));
    Ok(lines.collect())
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
