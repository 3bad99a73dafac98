//! Shared access signatures: a query that bears its own rights and its own end.

use azure_core::http::Url;
use azure_core::time::{OffsetDateTime, parse_rfc3339};
use std::borrow::Cow;
use zeroize::Zeroizing;

/// What of a signature may be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SasFacts {
    /// The letters of `sp`, `rwdlc`; empty where a stored access policy holds them.
    pub(crate) permissions: String,
    /// `se` as it was written.
    pub(crate) expires: String,
    pub(crate) expires_at: Option<OffsetDateTime>,
}

impl SasFacts {
    pub(crate) fn has_ended(&self, now: OffsetDateTime) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

pub(crate) struct Sas {
    /// Without the `?`.
    query: Zeroizing<String>,
    facts: SasFacts,
}

impl Sas {
    /// The token as the portal shows it, or with the `?` in front that some tools add.
    pub(crate) fn parse(text: &str) -> Result<Sas, String> {
        let query = text.trim().trim_start_matches('?');
        // Any base will do: only its query is looked at.
        let url: Url = format!("https://sas/?{query}").parse().map_err(|_| not_a_signature())?;
        let mut facts = SasFacts::default();
        let mut is_signed = false;
        for (name, value) in url.query_pairs() {
            match &*name {
                "sig" => is_signed = !value.is_empty(),
                "sp" => facts.permissions = value.into_owned(),
                "se" => {
                    facts.expires_at = moment(&value);
                    facts.expires = value.into_owned();
                }
                _ => {}
            }
        }
        if !is_signed {
            return Err(not_a_signature());
        }
        Ok(Sas { query: Zeroizing::new(query.to_owned()), facts })
    }

    pub(crate) fn facts(&self) -> &SasFacts {
        &self.facts
    }

    pub(crate) fn append(&self, url: &mut Url) {
        let joined = match url.query().filter(|query| !query.is_empty()) {
            Some(query) => Zeroizing::new(format!("{query}&{}", *self.query)),
            None => self.query.clone(),
        };
        url.set_query(Some(&joined));
    }
}

fn not_a_signature() -> String {
    "key holds no 'sig': with key-type = \"sas\" it is a whole shared access signature, sv=...&sig=..."
        .to_owned()
}

/// Of the forms that Azure allows: a day, a minute, a second.
fn moment(text: &str) -> Option<OffsetDateTime> {
    let whole: Cow<'_, str> = match text.len() {
        10 => format!("{text}T00:00:00Z").into(),
        17 => format!("{}:00Z", text.strip_suffix('Z')?).into(),
        _ => text.into(),
    };
    parse_rfc3339(&whole).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "sv=2024-11-04&sp=rl&se=2026-11-26T10%3A00Z&sr=c&sig=c2VjcmV0%3D";

    #[test]
    fn a_token_is_appended_whole_with_or_without_its_question_mark() {
        for text in [TOKEN.to_owned(), format!("?{TOKEN}\n")] {
            let sas = Sas::parse(&text).expect("a token");
            let mut url: Url = "https://a/box?comp=list".parse().expect("valid");
            sas.append(&mut url);
            assert_eq!(url.as_str(), format!("https://a/box?comp=list&{TOKEN}"));
            let mut url: Url = "https://a/box/b".parse().expect("valid");
            sas.append(&mut url);
            assert_eq!(url.as_str(), format!("https://a/box/b?{TOKEN}"));
        }
    }

    #[test]
    fn rights_and_end_of_a_token_are_read_from_it() {
        let facts = Sas::parse(TOKEN).expect("a token").facts().clone();
        assert_eq!((facts.permissions.as_str(), facts.expires.as_str()), ("rl", "2026-11-26T10:00Z"));
        for (text, second) in [
            ("2026-11-26", 1_795_651_200),
            ("2026-11-26T10:00Z", 1_795_687_200),
            ("2026-11-26T10:00:07Z", 1_795_687_207),
        ] {
            assert_eq!(moment(text).map(OffsetDateTime::unix_timestamp), Some(second), "{text}");
        }
        assert_eq!(moment("tomorrow"), None);
    }

    #[test]
    fn an_account_key_is_no_token_and_is_not_shown() {
        for text in ["", "c2VjcmV0", "sv=2024&sp=r&sig="] {
            let reason = Sas::parse(text).err().expect(text);
            assert!(!reason.contains("c2VjcmV0"), "{reason}");
        }
    }
}
