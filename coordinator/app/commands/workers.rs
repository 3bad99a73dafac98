//! `workers`: who works for the fleet, and who is to take nothing new.

use crate::args::{Output, OutputArgs, WorkersCommand};
use crate::context::Context;
use crate::fleet::client::{Client, segment};
use crate::output;
use crate::runtime::block_on;
use pgconvoy_core::failure::Failure;
use serde_json::{Value, json};
use std::process::ExitCode;

pub fn run(context: &Context, command: &WorkersCommand) -> Result<ExitCode, Failure> {
    let client = Client::new(context.config.fleet.as_ref())?;
    block_on(async {
        match command {
            WorkersCommand::List(form) => tell(form, &client.get("workers").await?),
            WorkersCommand::Drain(worker) => {
                let path = format!("workers/{}/drain", segment(&worker.name));
                tell(&worker.form, &client.post(&path, &Value::Null).await?)
            }
            WorkersCommand::Undrain(worker) => {
                let path = format!("workers/{}/undrain", segment(&worker.name));
                tell(&worker.form, &client.post(&path, &Value::Null).await?)
            }
        }
    })?
}

const HEAD: [&str; 5] = ["NAME", "STATE", "SLOTS", "BUSY", "STANZAS"];

/// One worker or several.
fn tell(form: &OutputArgs, told: &Value) -> Result<ExitCode, Failure> {
    if form.output == Output::Json {
        return output::json(told);
    }
    let several = if told.is_array() { told.clone() } else { json!([told]) };
    output::text(&output::table(&HEAD, &rows(&several)))
}

fn rows(workers: &Value) -> Vec<[String; 5]> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row = |worker: &Value| {
        let stanzas: Vec<String> = worker["stanzas"].as_array().into_iter().flatten().map(text).collect();
        let numbers = [&worker["slots"], &worker["busy"]].map(Value::to_string);
        let [slots, busy] = numbers;
        [text(&worker["name"]), text(&worker["state"]), slots, busy, stanzas.join(", ")]
    };
    workers.as_array().into_iter().flatten().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_a_row_of_a_table() {
        let workers = json!([{"name": "db1", "state": "up", "slots": 4, "busy": 2, "stanzas": ["a", "b"]}]);
        assert_eq!(
            output::table(&HEAD, &rows(&workers)),
            "NAME  STATE  SLOTS  BUSY  STANZAS\ndb1   up     4      2     a, b\n"
        );
    }
}
