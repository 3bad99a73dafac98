//! A signature of the account's key for reading one blob, as "Create a service SAS" of Azure's documentation has it.

use azure_core::http::Url;
use azure_core::time::{OffsetDateTime, to_rfc3339};
use std::time::Duration;

/// The first that signs what is signed here.
const VERSION: &str = "2020-12-06";
/// Longer than a request lasts, on a host whose clock is as wrong as Azure lets it be.
const LIFE: Duration = Duration::from_secs(60 * 60);

/// When a signature ends that is made now, in whole seconds.
pub(super) fn end(now: OffsetDateTime) -> String {
    let end = now + LIFE;
    to_rfc3339(&end.replace_nanosecond(0).unwrap_or(end))
}

/// `blob` is `CONTAINER/NAME`, as it is. What is not used stays empty: the start, a stored policy, addresses and protocols; the snapshot,
/// the encryption scope and five headers of the answer.
pub(super) fn string_to_sign(account: &str, blob: &str, end: &str) -> String {
    format!("r\n\n{end}\n/blob/{account}/{blob}\n\n\n\n{VERSION}\nb\n\n\n\n\n\n\n")
}

pub(super) fn append(address: &mut Url, end: &str, signature: &str) {
    let pairs = [("sv", VERSION), ("sr", "b"), ("sp", "r"), ("se", end), ("sig", signature)];
    address.query_pairs_mut().extend_pairs(pairs);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sixteen_fields_are_signed_in_their_order() {
        let now = OffsetDateTime::from_unix_timestamp(1_795_687_207).expect("a time");
        let end = end(now + Duration::from_nanos(5));
        let text = string_to_sign("acct", "box/a b/ü", &end);
        let mut fields = vec![""; 16];
        fields[0] = "r";
        fields[2] = "2026-11-26T11:00:07Z";
        fields[3] = "/blob/acct/box/a b/ü";
        fields[7] = "2020-12-06";
        fields[8] = "b";
        assert_eq!(text.split('\n').collect::<Vec<_>>(), fields);
    }

    #[test]
    fn an_address_bears_what_was_signed() {
        let mut address: Url = "https://a/box/b".parse().expect("valid");
        append(&mut address, "2026-11-26T11:00:07Z", "a+b/c=");
        let query = "sv=2020-12-06&sr=b&sp=r&se=2026-11-26T11%3A00%3A07Z&sig=a%2Bb%2Fc%3D";
        assert_eq!(address.query(), Some(query));
    }
}
