//! Bytes that nobody of us wrote: reading them ends in an error, never in a panic.

use super::support::{Seal, Site};
use pgconvoy_core::format::object::{Header, Kind, Protection};
use pgconvoy_repository::object::ObjectReader;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// A header that is right, anything in between, and anything at the end.
fn objects() -> impl Strategy<Value = Vec<u8>> {
    let anything = prop::collection::vec(any::<u8>(), 0..400);
    (any::<bool>(), anything).prop_map(|(has_header, rest)| {
        let header = Header::new(Kind::Pack, Protection::None).encode();
        if has_header { [header.as_slice(), &rest].concat() } else { rest }
    })
}

#[tokio::test]
async fn arbitrary_bytes_are_no_object_of_any_kind() {
    let (plain, encrypted) = (Site::new(Seal::Plain).await, Site::new(Seal::Encrypted).await);
    TestRunner::default()
        .run(&objects(), |bytes| {
            for site in [&plain, &encrypted] {
                for kind in Kind::ALL {
                    let read =
                        ObjectReader::from_bytes(&site.repository, kind, "main/x", bytes.clone().into());
                    prop_assert!(read.is_err());
                }
            }
            Ok(())
        })
        .unwrap();
}

/// Every cut and every changed byte of a real object.
#[tokio::test]
async fn a_real_object_with_any_byte_changed_is_refused_whole() {
    for seal in [Seal::Plain, Seal::Encrypted] {
        let site = Site::with_two_backups(seal).await;
        let name = pgconvoy_core::format::layout::cluster(&site.stanza, site.cluster.number);
        let whole = site.read(&name).await;
        let read =
            |bytes: Vec<u8>| ObjectReader::from_bytes(&site.repository, Kind::Cluster, &name, bytes.into());
        assert!(read(whole.clone()).is_ok());
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] = changed[at].wrapping_add(1);
            assert!(read(changed).is_err(), "{seal:?}: byte {at}");
            assert!(read(whole[..at].to_vec()).is_err(), "{seal:?}: cut at {at}");
        }
    }
}
