//! `token`: who may ask the fleet's API. Works on the lease store directly, whether a coordinator runs or not.

use crate::args::{Output, TokenCommand, TokenRoleName};
use crate::context::Context;
use crate::fleet::store;
use crate::host::now;
use crate::output;
use crate::runtime::block_on;
use pgconvoy_coordinator::tokens::{self, NewToken, RANDOM_BYTES, TokenRole};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_transport::PeerName;
use serde_json::{Value, json};
use std::process::ExitCode;
use zeroize::Zeroizing;

impl From<TokenRoleName> for TokenRole {
    fn from(typed: TokenRoleName) -> Self {
        match typed {
            TokenRoleName::Viewer => TokenRole::Viewer,
            TokenRoleName::Operator => TokenRole::Operator,
            TokenRoleName::Admin => TokenRole::Admin,
        }
    }
}

pub fn run(context: &Context, command: &TokenCommand) -> Result<ExitCode, Failure> {
    let fleet = context.config.fleet.as_ref();
    block_on(async {
        match command {
            TokenCommand::Create { name, role, form } => {
                let token = make(name, (*role).into())?;
                let store = store::connect(fleet).await?;
                let object = format!("{name} {} ({})", token.record.role, token.id);
                let audited = store::by_hand("token create", &object)?;
                tokens::store(store.leases.as_ref(), &store.keys, &token, audited).await?;
                created(&token, form.output)
            }
            TokenCommand::List(form) => {
                let store = store::connect(fleet).await?;
                let known = tokens::list(store.leases.as_ref(), &store.keys).await?;
                let rows: Vec<[String; 4]> = known
                    .into_iter()
                    .map(|(id, token)| {
                        [id, token.name, token.role.name().to_owned(), token.created.to_string()]
                    })
                    .collect();
                match form.output {
                    Output::Text => output::text(&output::table(&["ID", "NAME", "ROLE", "CREATED"], &rows)),
                    Output::Json => output::json(&rows.iter().map(row_json).collect::<Value>()),
                }
            }
            TokenCommand::Revoke { token, form } => {
                let store = store::connect(fleet).await?;
                let audited = store::by_hand("token revoke", tokens::id_or_name(token))?;
                let revoked = tokens::revoke(store.leases.as_ref(), &store.keys, token, audited).await?;
                match form.output {
                    Output::Text => output::text(&(revoked.join("\n") + "\n")),
                    Output::Json => output::json(&json!(revoked)),
                }
            }
        }
    })?
}

fn row_json([id, name, role, created]: &[String; 4]) -> Value {
    json!({"id": id, "name": name, "role": role, "created": created})
}

fn make(name: &str, role: TokenRole) -> Result<NewToken, Failure> {
    let name: PeerName = name
        .parse()
        .map_err(|error| Failure::new(ErrorCode::OptionInvalidValue, format!("option '--name': {error}")))?;
    let mut random = Zeroizing::new([0; RANDOM_BYTES]);
    getrandom::fill(random.as_mut_slice()).map_err(|error| {
        Failure::new(ErrorCode::Crypto, format!("the system gives no random bytes: {error}"))
    })?;
    Ok(NewToken::make(&name, role, now(), &random))
}

/// The only time that the token is seen.
fn created(token: &NewToken, form: Output) -> Result<ExitCode, Failure> {
    match form {
        Output::Text => output::text(&Zeroizing::new(format!("{}\n", *token.text))),
        Output::Json => output::json(&json!({
            "id": token.id,
            "name": token.record.name,
            "role": token.record.role.name(),
            "token": *token.text,
        })),
    }
}
