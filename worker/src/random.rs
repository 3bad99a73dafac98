//! Randomness of the system: for secrets, and for names that two never share.

use pgconvoy_core::failure::{ErrorCode, Failure};

pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::new(ErrorCode::Crypto, format!("the system gives no random bytes: {error}"))
    })?;
    Ok(bytes)
}
