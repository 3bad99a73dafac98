//! `info`: what there is, as text or as pgBackRest's JSON.

use crate::args::Output;
use crate::output;
use crate::repositories::open_all;
use crate::runtime::block_on;
use crate::settings::InfoRequest;
use pgconvoy_core::failure::Failure;
use pgconvoy_repository::info::{gather, to_json, to_text};
use std::process::ExitCode;

/// Exits 0 whatever the status, as pgBackRest does: monitors read the status from the result.
pub fn run(request: &InfoRequest) -> Result<ExitCode, Failure> {
    let report = block_on(async {
        let opened = open_all(&request.repos, &request.options).await?;
        Ok::<_, Failure>(gather(&opened, request.stanza.as_ref(), request.set, request.kind).await)
    })??;
    match request.output {
        Output::Json => output::json(&to_json(&report)),
        Output::Text => output::text(&to_text(&report)),
    }
}
