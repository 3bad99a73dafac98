//! Keeps the house as it was drawn: sizes, names, arrows between packages, leftovers, licences.
//!
//! An exception names a rule and a place and says why. One that is not needed any more fails, so the list only shrinks.

#[path = "tidiness/packages.rs"]
mod packages;
#[path = "tidiness/rules.rs"]
mod rules;
#[path = "tidiness/source.rs"]
mod source;

use anyhow::{Result, ensure};
use rules::Finding;
use source::Source;

struct Exception {
    rule: &'static str,
    place: &'static str,
    reason: &'static str,
}

const EXCEPTIONS: &[Exception] = &[Exception {
    rule: "licences",
    place: "libbz2-rs-sys",
    reason: "bzip2's own licence, which is BSD's in other words",
}];

/// Takes the exceptions off the findings; fails on what is left, of either.
fn settle(rule: &str, findings: Vec<Finding>) -> Result<()> {
    settle_with(EXCEPTIONS, rule, findings)
}

fn settle_with(exceptions: &[Exception], rule: &str, findings: Vec<Finding>) -> Result<()> {
    let ours: Vec<&Exception> = exceptions.iter().filter(|exception| exception.rule == rule).collect();
    for exception in &ours {
        let needed = findings.iter().any(|finding| finding.place == exception.place);
        ensure!(
            needed,
            "{rule}: the exception for {} ({}) is not needed any more",
            exception.place,
            exception.reason
        );
    }
    let left =
        findings.iter().filter(|finding| ours.iter().all(|exception| exception.place != finding.place));
    let lines: Vec<String> = left.map(|finding| format!("{}: {}", finding.place, finding.what)).collect();
    ensure!(lines.is_empty(), "{rule}, {} places:\n{}", lines.len(), lines.join("\n"));
    Ok(())
}

fn each(rule: &str, check: fn(&Source) -> Vec<Finding>) -> Result<()> {
    let sources = source::sources()?;
    ensure!(sources.iter().filter(|source| source.is_rust()).count() > 20, "hardly any source was found");
    settle(rule, sources.iter().flat_map(check).collect())
}

#[test]
fn the_top_level_holds_only_what_the_design_fixes() -> Result<()> {
    settle("top level", rules::top_level(&source::tracked_files()?))
}

#[test]
fn no_file_is_longer_than_a_reader_likes() -> Result<()> {
    each("file length", rules::file_length)
}

#[test]
fn no_function_is_longer_than_a_screen() -> Result<()> {
    each("function length", rules::function_length)
}

#[test]
fn every_module_says_what_it_is() -> Result<()> {
    each("module header", rules::module_header)
}

#[test]
fn nothing_is_left_for_later() -> Result<()> {
    each("leftovers", rules::leftovers)
}

#[test]
fn no_test_sleeps_without_naming_its_timeout() -> Result<()> {
    each("sleeps", rules::sleeps_in_tests)
}

#[test]
fn the_names_of_tests_are_sentences() -> Result<()> {
    each("test names", rules::test_names)
}

#[test]
fn no_arrow_leads_where_it_must_not() -> Result<()> {
    let sources = source::sources()?;
    let manifests = sources.iter().filter(|source| source.file_name() == "Cargo.toml").count();
    ensure!(manifests >= 9, "only {manifests} manifests were found");
    settle("arrows", packages::arrows(&sources))
}

#[test]
fn one_tls_provider_is_in_the_lock_file() -> Result<()> {
    let lock = std::fs::read_to_string(source::top().join("Cargo.lock"))?;
    ensure!(lock.contains("name = \"rustls\""), "the lock file does not list rustls");
    settle("lock file", packages::locked_packages(&lock))
}

#[test]
fn every_dependency_has_a_licence_that_we_may_use() -> Result<()> {
    settle("licences", packages::licences()?)
}

/// The rules themselves, on texts that break them.
mod of_the_rules {
    use super::*;

    fn rust(text: &str) -> Source {
        Source::new("worker/src/sample.rs", text)
    }

    #[test]
    fn braces_in_strings_and_comments_are_not_counted() {
        let text = "fn a() { let s = \"}{\"; /* } */ let c = '{'; let r = r#\"\"}\"#; } // }\nfn b<'a>(x: &'a [u8; 2]) {\n}\n";
        let found = rules::functions(&rust(text).code)
            .iter()
            .map(|f| (f.name.to_owned(), f.lines))
            .collect::<Vec<_>>();
        assert_eq!(found, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    }

    #[test]
    fn long_functions_and_files_are_found() {
        let long = format!("//! Sample.\nfn long() {{\n{}}}\n", "    call();\n".repeat(70));
        assert_eq!(rules::function_length(&rust(&long)).len(), 1);
        assert!(rules::file_length(&rust(&long)).is_empty());
        assert_eq!(rules::file_length(&rust(&"\n".repeat(501))).len(), 1);
        assert!(rules::file_length(&Source::new("tests/a.rs", &"\n".repeat(501))).is_empty());
    }

    #[test]
    fn leftovers_are_whole_words() {
        let word = concat!("TO", "DO");
        assert_eq!(rules::leftovers(&rust(&format!("// {word}: later"))).len(), 1);
        assert!(rules::leftovers(&rust(&format!("let {word}S = 1;"))).is_empty());
    }

    #[test]
    fn sleeps_need_a_comment_and_names_need_words() {
        assert_eq!(rules::sleeps_in_tests(&Source::new("tests/a.rs", "sleep(x);")).len(), 1);
        assert!(
            rules::sleeps_in_tests(&Source::new("tests/a.rs", "// Within the timeout.\nsleep(x);"))
                .is_empty()
        );
        assert!(rules::sleeps_in_tests(&rust("sleep(x);")).is_empty());
        let paused = "#[tokio::test(start_paused = true)]\nasync fn a() { tokio::time::sleep(x); }";
        assert!(rules::sleeps_in_tests(&Source::new("tests/a.rs", paused)).is_empty());
        assert_eq!(rules::sleeps_in_tests(&rust("#[cfg(test)]\nmod tests { sleep(x); }")).len(), 1);
        let named = |name: &str| rules::test_names(&rust(&format!("#[test]\nfn {name}() {{}}"))).len();
        assert_eq!((named("works"), named("a_put_creates"), named("ItWorks_as_told")), (1, 0, 1));
    }

    #[test]
    fn headers_and_top_level_names_are_checked() {
        assert_eq!(rules::module_header(&rust("use std::fs;\n")).len(), 1);
        assert!(rules::module_header(&rust("//! What it is.\n")).is_empty());
        let paths = ["README.md", ".ci/run", "scripts/x.sh"].map(str::to_owned);
        assert_eq!(rules::top_level(&paths).len(), 1);
    }

    #[test]
    fn forbidden_arrows_and_packages_are_found() {
        let manifest = |name: &str, lines: &str| {
            Source::new("x/Cargo.toml", &format!("[package]\nname = \"{name}\"\n[dependencies]\n{lines}"))
        };
        let count = |name, lines| packages::arrows(&[manifest(name, lines)]).len();
        assert_eq!(count("pgconvoy-core", "serde.workspace = true\ntokio = \"1\"\n"), 1);
        assert_eq!(count("pgconvoy-worker", "pgconvoy-coordinator.workspace = true\n"), 1);
        assert_eq!(count("pgconvoy-storage", "[dev-dependencies.pgconvoy-worker]\npath = \"x\"\n"), 1);
        assert_eq!(count("pgconvoy-worker", "pgconvoy-core.workspace = true\n"), 0);
        let lock = "[[package]]\nname = \"rustls\"\nversion = \"0.21.4\"\n[[package]]\nname = \"aws-lc-sys\"\nversion = \"0.3.0\"\n";
        assert_eq!(packages::locked_packages(lock).len(), 2);
    }

    #[test]
    fn licence_expressions_are_understood() {
        for allowed in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/Apache-2.0",
            "(MIT OR GPL-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(packages::is_allowed(allowed), "{allowed}");
        }
        for refused in ["GPL-3.0", "MIT AND AGPL-3.0", "", "(MIT", "no licence"] {
            assert!(!packages::is_allowed(refused), "{refused}");
        }
    }

    #[test]
    fn an_exception_that_is_not_needed_fails() {
        let exceptions = [Exception { rule: "size", place: "a.rs", reason: "a table" }];
        let finding = |place: &str| Finding { place: place.to_owned(), what: "too long".to_owned() };
        assert!(settle_with(&exceptions, "size", vec![finding("a.rs")]).is_ok());
        assert!(settle_with(&exceptions, "size", vec![]).is_err());
        assert!(settle_with(&exceptions, "size", vec![finding("a.rs"), finding("b.rs")]).is_err());
    }
}
