//! Where an account and a container are: the URLs that everything else is made of.

use azure_core::http::Url;
use pgconvoy_core::config::{AzureConfig, UriStyle};

/// `https://ACCOUNT.ENDPOINT/`, or `https://ENDPOINT/ACCOUNT` with `uri-style = "path"`.
///
/// Without a scheme the endpoint is reached by TLS. The reason is for an operator.
pub(crate) fn account_url(config: &AzureConfig) -> Result<Url, String> {
    let (scheme, host) = match config.endpoint.split_once("://") {
        Some((scheme @ ("http" | "https"), host)) => (scheme, host),
        Some((scheme, _)) => return Err(format!("endpoint: '{scheme}' is neither http nor https")),
        None => ("https", config.endpoint.as_str()),
    };
    let host = host.trim_end_matches('/');
    let base = match config.uri_style {
        UriStyle::Host => format!("{scheme}://{}.{host}/", config.account),
        UriStyle::Path => format!("{scheme}://{host}/"),
    };
    let unusable = |reason: String| format!("endpoint '{}': {reason}", config.endpoint);
    let mut url = Url::parse(&base).map_err(|error| unusable(error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(unusable("it holds more than a host, a port and a path".to_owned()));
    }
    let Ok(mut segments) = url.path_segments_mut() else {
        return Err(unusable("it cannot be the beginning of an address".to_owned()));
    };
    segments.pop_if_empty();
    if config.uri_style == UriStyle::Path {
        segments.push(&config.account);
    }
    drop(segments);
    Ok(url)
}

/// What lies in an account: a container, or a blob of one.
pub(crate) fn within<'a>(account: &Url, names: impl IntoIterator<Item = &'a str>) -> Url {
    let mut url = account.clone();
    // An account's address has them.
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(names);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;

    fn url(endpoint: &str, uri_style: UriStyle) -> Result<String, String> {
        let config = AzureConfig { endpoint: endpoint.to_owned(), uri_style, ..config() };
        account_url(&config).map(|url| within(&url, [config.container.as_str()]).to_string())
    }

    #[test]
    fn the_account_is_part_of_the_host_or_of_the_path() {
        let table = [
            ("blob.core.windows.net", UriStyle::Host, "https://acct.blob.core.windows.net/box"),
            ("https://blob.core.windows.net/", UriStyle::Host, "https://acct.blob.core.windows.net/box"),
            ("http://127.0.0.1:10000", UriStyle::Path, "http://127.0.0.1:10000/acct/box"),
            ("127.0.0.1:10000", UriStyle::Path, "https://127.0.0.1:10000/acct/box"),
            ("https://gate.example/azure/", UriStyle::Path, "https://gate.example/azure/acct/box"),
        ];
        for (endpoint, style, expected) in table {
            assert_eq!(url(endpoint, style).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn a_blob_is_one_name_whatever_it_holds() {
        let account = account_url(&config()).expect("an address");
        let blob = within(&account, ["box", "a/b c%20d+e?f#g"]);
        assert_eq!(blob.as_str(), "https://acct.blob.core.windows.net/box/a%2Fb%20c%2520d+e%3Ff%23g");
    }

    #[test]
    fn an_endpoint_that_is_no_address_is_refused_by_name() {
        for endpoint in ["ftp://blob", "https://", "a b", "https://me:secret@blob", "https://blob?sig=x"] {
            let reason = url(endpoint, UriStyle::Path).expect_err(endpoint);
            assert!(reason.starts_with("endpoint"), "{reason}");
        }
    }
}
