//! Every stored object, hurt in every way: verify names it, or the repository does not open.

use super::support::{Seal, Site};
use pgconvoy_core::format::layout;
use pgconvoy_repository::RepositoryError;
use std::collections::BTreeMap;

/// Bits from the header, the frames, the footer and the trailer.
fn places(length: usize) -> Vec<usize> {
    let mut places = vec![
        0,
        10,
        12,
        30,
        60,
        63,
        64,
        80,
        length / 3,
        length / 2,
        length - 33,
        length - 30,
        length - 20,
        length - 1,
    ];
    places.retain(|place| *place < length);
    places.sort_unstable();
    places.dedup();
    places
}

/// Whether the damage is told, by name; a repository that refuses to open tells too.
async fn is_told(site: &Site, name: &str) -> Result<(), String> {
    if let Err(error) = site.reopen().await {
        return match error.to_string() {
            message if message.contains(name) => Ok(()),
            message => Err(format!("does not open, and says '{message}'")),
        };
    }
    let report = site.verify().await;
    let told: Vec<String> = report.errors().map(ToString::to_string).collect();
    if told.iter().any(|error| error.contains(name)) && !report.is_ok() {
        Ok(())
    } else {
        Err(format!("{told:?}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_anywhere_is_found_and_named() {
    for seal in [Seal::Plain, Seal::Encrypted] {
        let site = Site::with_two_backups(seal).await;
        for name in site.objects().await {
            let whole = site.read(&name).await;
            for place in places(whole.len()) {
                let mut hurt = whole.clone();
                hurt[place] ^= 1 << (place % 8);
                site.overwrite(&name, hurt).await;
                let told = is_told(&site, &name).await;
                assert_eq!(told, Ok(()), "{seal:?}: byte {place} of {} of {name}", whole.len());
            }
            site.overwrite(&name, whole).await;
        }
        assert!(site.verify().await.is_ok(), "all is as it was");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_or_lengthened_object_is_found_and_named() {
    for seal in [Seal::Plain, Seal::Encrypted] {
        let site = Site::with_two_backups(seal).await;
        for name in site.objects().await {
            let whole = site.read(&name).await;
            for length in [0, 1, 63, 64, whole.len() / 2, whole.len() - 32, whole.len() - 1] {
                site.overwrite(&name, whole[..length].to_vec()).await;
                assert_eq!(is_told(&site, &name).await, Ok(()), "{seal:?}: {name} cut to {length} bytes");
            }
            let mut longer = whole.clone();
            longer.push(0);
            site.overwrite(&name, longer).await;
            assert_eq!(is_told(&site, &name).await, Ok(()), "{seal:?}: a byte behind {name}");
            site.overwrite(&name, whole).await;
        }
    }
}

/// An entry that is gone is a backup that was not published; WAL that no backup needs may be gone as well.
fn may_be_absent(name: &str) -> bool {
    let is_needed = |name: &str| ["02", "03", "05", "06"].iter().any(|end| name.ends_with(end));
    name.contains("/catalogue/") || (name.contains("/wal/") && !is_needed(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_object_is_named_by_its_key() {
    for seal in [Seal::Plain, Seal::Encrypted] {
        let site = Site::with_two_backups(seal).await;
        for name in site.objects().await.iter().filter(|name| !may_be_absent(name)) {
            let whole = site.read(name).await;
            site.delete(name).await;
            let told = match site.reopen().await {
                // Nothing is left to be named: the place has lost what made it a repository, or its only key.
                Err(RepositoryError::NotARepository { .. } | RepositoryError::NoSlot { .. }) => Ok(()),
                _ => is_told(&site, directory_of_last(name)).await,
            };
            assert_eq!(told, Ok(()), "{seal:?}: {name}");
            site.overwrite(name, whole).await;
        }
    }
}

/// The only cluster of a stanza is missed as "a cluster".
fn directory_of_last(name: &str) -> &str {
    if name.contains("/cluster/") { "main/cluster" } else { name }
}

/// What an object is, from its name.
fn kind(name: &str) -> String {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        [_, "backup", _, "pack", ..] => "pack".into(),
        [_, "backup", _, file] => (*file).into(),
        [_, "catalogue", _] => "catalogue".into(),
        [_, "wal", ..] => "wal".into(),
        _ => name.into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_kind_that_changed_places_are_both_named() {
    for seal in [Seal::Plain, Seal::Encrypted] {
        let site = Site::with_two_backups(seal).await;
        let mut kinds: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in site.objects().await {
            kinds.entry(kind(&name)).or_default().push(name);
        }
        let pairs = kinds.values().flat_map(|names| names.windows(2)).map(|pair| (&pair[0], &pair[1]));
        let pairs: Vec<_> = pairs.collect();
        assert!(pairs.len() > 10, "{pairs:?}");
        for (one, other) in pairs {
            let (first, second) = (site.read(one).await, site.read(other).await);
            site.overwrite(one, second.clone()).await;
            site.overwrite(other, first.clone()).await;
            assert_eq!(is_told(&site, one).await, Ok(()), "{seal:?}: {one} and {other}");
            assert_eq!(is_told(&site, other).await, Ok(()), "{seal:?}: {one} and {other}");
            site.overwrite(one, first).await;
            site.overwrite(other, second).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_object_in_an_encrypted_repository_is_refused() {
    let plain = Site::with_two_backups(Seal::Plain).await;
    let encrypted = Site::with_two_backups(Seal::Encrypted).await;
    for name in encrypted.objects().await.iter().filter(|name| name.starts_with("main/")) {
        let whole = encrypted.read(name).await;
        encrypted.overwrite(name, plain.read(name).await).await;
        let report = encrypted.verify().await;
        let told: Vec<String> = report.errors().map(ToString::to_string).collect();
        let is_refused = |error: &String| error.contains(name.as_str()) && is_downgrade(name, error);
        assert!(told.iter().any(is_refused), "{name}: {told:?}");
        encrypted.overwrite(name, whole).await;
    }
}

/// A manifest's SHA-1 is compared before it is opened.
fn is_downgrade(name: &str, error: &str) -> bool {
    let is_manifest = name.ends_with("/manifest");
    error.contains("not encrypted, in an encrypted repository") || (is_manifest && error.contains("SHA-1"))
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_another_repository_are_refused() {
    for seal in [Seal::Plain, Seal::Encrypted] {
        let ours = Site::with_two_backups(seal).await;
        let theirs = Site::new(seal).await;
        theirs.push((1..=9).map(super::support::segment)).await;
        let request = super::support::BackupRequest {
            identity: 77,
            ..super::support::BackupRequest::new(1_795_000_000, 2, 3)
        };
        super::support::backup(&theirs, &request).await;
        let names = theirs.objects().await;
        // Without a key nobody can tell where a WAL file, complete and of the same name, was written.
        let told = |name: &&String| match seal {
            Seal::Plain => name.contains("/pack/") || name.ends_with("/manifest") || name.contains("/plan-"),
            Seal::Encrypted => name.starts_with("main/"),
        };
        for name in names.iter().filter(told) {
            let whole = ours.read(name).await;
            ours.overwrite(name, theirs.read(name).await).await;
            assert_eq!(is_told(&ours, name).await, Ok(()), "{seal:?}: {name}");
            ours.overwrite(name, whole).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_of_the_other_cipher_does_not_open() {
    let plain = Site::with_two_backups(Seal::Plain).await;
    let encrypted = Site::with_two_backups(Seal::Encrypted).await;
    encrypted.overwrite(layout::REPOSITORY, plain.read(layout::REPOSITORY).await).await;
    assert!(matches!(encrypted.reopen().await, Err(RepositoryError::NotEncrypted { .. })));
    let key = encrypted.settings.clone();
    let opened = pgconvoy_repository::Repository::open(plain.storage.clone(), &key).await;
    assert!(matches!(opened, Err(RepositoryError::NotEncrypted { .. })));
}
