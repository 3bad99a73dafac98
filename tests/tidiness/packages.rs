//! What the manifests and the lock file allow: arrows between packages, one TLS provider, licences.

use super::rules::Finding;
use super::source::Source;
use anyhow::{Context, Result, ensure};
use std::process::Command;

/// From whom no arrow may lead where (package, forbidden prefix of a dependency's name).
const FORBIDDEN_ARROWS: [(&str, &[&str]); 8] = [
    (
        "pgconvoy-core",
        &["pgconvoy-", "tokio", "futures", "async-", "actix", "tracing", "mio", "smol", "getrandom", "rand"],
    ),
    (
        "pgconvoy-storage",
        &["pgconvoy-repository", "pgconvoy-postgres", "pgconvoy-lease", "pgconvoy-transport", ABOVE],
    ),
    (
        "pgconvoy-repository",
        &["pgconvoy-postgres", "pgconvoy-lease", "pgconvoy-transport", "tokio-postgres", ABOVE],
    ),
    (
        "pgconvoy-postgres",
        &["pgconvoy-repository", "pgconvoy-storage", "pgconvoy-lease", "pgconvoy-transport", ABOVE],
    ),
    (
        "pgconvoy-lease",
        &["pgconvoy-transport", "pgconvoy-repository", "pgconvoy-storage", "pgconvoy-postgres", ABOVE],
    ),
    (
        "pgconvoy-transport",
        &["pgconvoy-lease", "pgconvoy-repository", "pgconvoy-storage", "pgconvoy-postgres", ABOVE],
    ),
    ("pgconvoy-coordinator", &["pgconvoy-worker", "pgconvoy-postgres", "tokio-postgres"]),
    ("pgconvoy-worker", &["pgconvoy-coordinator", "pgconvoy-lease"]),
];

/// Stands for the packages that nothing in `common` may know.
const ABOVE: &str = "pgconvoy-(above)";
const ABOVE_COMMON: [&str; 3] = ["pgconvoy", "pgconvoy-coordinator", "pgconvoy-worker"];

/// One TLS provider in the whole tree, and no other library under it.
const FORBIDDEN_PACKAGES: [&str; 7] =
    ["aws-lc-sys", "aws-lc-rs", "openssl-sys", "openssl", "native-tls", "boring-sys", "azure_storage_blobs"];
const RUSTLS_MIN: (u32, u32) = (0, 23);

/// Licences that ask for no more than their own text.
const LICENCES: [&str; 12] = [
    "MIT",
    "Apache-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "BSL-1.0",
    "CC0-1.0",
    "Unlicense",
    "0BSD",
];

/// Name and direct dependencies of a manifest, of every kind.
fn dependencies(manifest: &str) -> (String, Vec<String>) {
    let mut name = String::new();
    let mut found = Vec::new();
    let mut section = String::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']').to_owned();
            if let Some((_, dependency)) = section.split_once("dependencies.") {
                found.push(dependency.to_owned());
            }
            continue;
        }
        let Some(key) =
            line.split(['=', '.', ' ']).next().filter(|key| !key.is_empty() && !key.starts_with('#'))
        else {
            continue;
        };
        if section == "package" && key == "name" {
            name = line.split('"').nth(1).unwrap_or_default().to_owned();
        } else if section.ends_with("dependencies") && !section.starts_with("workspace") {
            found.push(key.to_owned());
        }
    }
    (name, found)
}

pub(crate) fn arrows(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.file_name() == "Cargo.toml") {
        let (name, dependencies) = dependencies(&source.text);
        // A kind of store is bound like the contract that it keeps.
        let bound = if name.starts_with("pgconvoy-storage-") { "pgconvoy-storage" } else { name.as_str() };
        let forbidden =
            FORBIDDEN_ARROWS.iter().find(|(from, _)| *from == bound).map_or(&[][..], |(_, to)| *to);
        for dependency in dependencies.iter().filter(|dependency| is_forbidden(dependency, forbidden)) {
            found.push(Finding {
                place: format!("{name} -> {dependency}"),
                what: format!("in {}", source.path),
            });
        }
    }
    found
}

fn is_forbidden(dependency: &str, forbidden: &[&str]) -> bool {
    forbidden.iter().any(|prefix| match *prefix {
        ABOVE => ABOVE_COMMON.contains(&dependency),
        prefix => dependency.starts_with(prefix),
    })
}

pub(crate) fn locked_packages(lock: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for block in lock.split("[[package]]") {
        let field =
            |key: &str| block.lines().find_map(|line| line.strip_prefix(key)?.trim().split('"').nth(1));
        let (Some(name), Some(version)) = (field("name ="), field("version =")) else { continue };
        if FORBIDDEN_PACKAGES.contains(&name) {
            found.push(Finding { place: name.to_owned(), what: format!("{version} is in the lock file") });
        }
        let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
        let version_pair: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if name == "rustls" && version_pair < RUSTLS_MIN {
            found.push(Finding { place: name.to_owned(), what: format!("{version} is too old") });
        }
    }
    found
}

/// What this machine's build really uses, as cargo sees it.
pub(crate) fn licences() -> Result<Vec<Finding>> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(super::source::top())
        .output()
        .context("cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    ensure!(packages.len() > 50, "only {} packages", packages.len());
    let mut found = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("a package without a name")?;
        let licence = package["license"].as_str().unwrap_or("no licence");
        if !is_allowed(licence) {
            found.push(Finding { place: name.to_owned(), what: licence.to_owned() });
        }
    }
    Ok(found)
}

/// Whether an SPDX expression can be met with the licences above: OR needs one side, AND both. `/` is an old OR.
pub(crate) fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    either(&mut words) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>) -> bool {
    let mut met = both(words);
    while words.next_if_eq(&"OR").is_some() {
        met |= both(words);
    }
    met
}

fn both(words: &mut Words<'_>) -> bool {
    let mut met = single(words);
    while words.next_if_eq(&"AND").is_some() {
        met &= single(words);
    }
    met
}

fn single(words: &mut Words<'_>) -> bool {
    let Some(word) = words.next() else { return false };
    if word == "(" {
        let met = either(words);
        return words.next() == Some(")") && met;
    }
    // An exception such as LLVM's only allows more.
    if words.next_if_eq(&"WITH").is_some() {
        words.next();
    }
    LICENCES.contains(&word)
}
