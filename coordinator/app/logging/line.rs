//! One event, one line.

use jiff::Timestamp;
use pgconvoy_core::config::{LogFormat, LogLevel};
use serde_json::{Map, Value};
use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

pub(super) struct LineLayer<W> {
    format: LogFormat,
    sink: Mutex<W>,
}

impl<W: Write> LineLayer<W> {
    pub(super) fn new(format: LogFormat, sink: W) -> Self {
        LineLayer { format, sink: Mutex::new(sink) }
    }
}

impl<S: Subscriber, W: Write + Send + 'static> Layer<S> for LineLayer<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let level = super::level_of(event.metadata());
        let line = match self.format {
            LogFormat::Text => parts.text(Timestamp::now(), level),
            LogFormat::Json => parts.json(Timestamp::now(), level),
        };
        // A log that cannot be written stops nothing, and neither does a thread that panicked while it wrote.
        let mut sink = self.sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = sink.write_all(line.as_bytes());
    }
}

/// What an event says, and the values beside it.
#[derive(Default)]
struct Parts {
    message: String,
    fields: Map<String, Value>,
}

impl Parts {
    fn set(&mut self, field: &Field, value: Value) {
        self.fields.insert(field.name().to_owned(), value);
    }

    fn text(&self, now: Timestamp, level: LogLevel) -> String {
        let name = level.as_str().to_ascii_uppercase();
        let mut message = self.message.clone();
        for (key, value) in &self.fields {
            write!(message, " {key}={value}").expect("a string takes all that is written to it");
        }
        // What a server or a path says may hold line breaks: they must not look like lines of ours.
        let message = message.replace('\r', "").replace('\n', &format!("\n{:32}", ""));
        format!("{} P00 {name:>6}: {message}\n", now.strftime("%Y-%m-%d %H:%M:%S.%3f"))
    }

    fn json(mut self, now: Timestamp, level: LogLevel) -> String {
        let mut line = Map::new();
        line.insert("time".into(), now.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string().into());
        line.insert("level".into(), level.as_str().into());
        line.insert("message".into(), self.message.into());
        line.append(&mut self.fields);
        format!("{}\n", Value::Object(line))
    }
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            _ => self.set(field, format!("{value:?}").into()),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            _ => self.set(field, value.into()),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        Parts { message: "two\nlines".into(), fields: Map::from_iter([("bytes".into(), 7.into())]) }
    }

    #[test]
    fn a_line_of_text_is_pgbackrests_and_a_second_one_cannot_be_forged() {
        let text = parts().text(Timestamp::UNIX_EPOCH, LogLevel::Info);
        assert_eq!(text, format!("1970-01-01 00:00:00.000 P00   INFO: two\n{:32}lines bytes=7\n", ""));
        let detail = parts().text(Timestamp::UNIX_EPOCH, LogLevel::Detail);
        assert!(detail.starts_with("1970-01-01 00:00:00.000 P00 DETAIL: "), "{detail}");
    }

    #[test]
    fn a_line_of_json_is_one_object_in_one_line() {
        let json = parts().json(Timestamp::UNIX_EPOCH, LogLevel::Warn);
        assert_eq!(
            json,
            "{\"bytes\":7,\"level\":\"warn\",\"message\":\"two\\nlines\",\"time\":\"1970-01-01T00:00:00.000Z\"}\n"
        );
    }
}
